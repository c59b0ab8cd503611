// The rows of /proc/slabinfo.
#include "quire/slab/slab_system.h"

namespace quire::slab {

SlabInfo SlabSystem::slabinfo(const KmemCacheBase& cache) const {
  SlabInfo row;
  row.name = cache.name();
  row.objsize = cache.geometry().size;
  row.objperslab = cache.geometry().num;
  row.pagesperslab = cache.geometry().order.pages();
  row.limit = cache.tunables_.limit;
  row.batchcount = cache.tunables_.batchcount;
  std::uint64_t free_objects = 0;
  for (const auto& phys_node : phys_.nodes()) {
    const KmemCacheNode& node = cache.node(phys_node->nid());
    row.num_slabs += node.total_slabs;
    row.active_slabs += node.total_slabs - node.free_slabs;
    free_objects += node.free_objects;
  }
  row.num_objs = row.num_slabs * row.objperslab;
  row.active_objs = row.num_objs - free_objects;
  row.objects_in_use = cache.objects_in_use();
  return row;
}

std::vector<SlabInfo> SlabSystem::slabinfo() const {
  std::vector<SlabInfo> rows;
  for (const KmemCacheBase& cache : caches_) rows.push_back(slabinfo(cache));
  return rows;
}

std::vector<SlabInfo> SlabSystem::leaks() const {
  std::vector<SlabInfo> rows;
  for (const KmemCacheBase& cache : caches_) {
    if (cache.destroy_ == KmemCacheBase::Destroy::kFailed) rows.push_back(slabinfo(cache));
  }
  return rows;
}

}  // namespace quire::slab
