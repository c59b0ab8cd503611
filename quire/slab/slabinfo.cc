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
  const SlabCounts counts = layout_->counts(cache);
  row.num_slabs = counts.slabs;
  row.active_slabs = counts.slabs - counts.free_slabs;
  row.num_objs = counts.objects;
  row.active_objs = counts.objects - counts.free_objects;
  row.objects_in_use = row.active_objs - counts.cached;
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
