// The rows of /proc/slabinfo.
#include <fmt/format.h>

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
  row.sharedfactor = cache.tunables_.shared;
  const SlabCounts counts = layout_->counts(cache);
  row.num_slabs = counts.slabs;
  row.active_slabs = counts.slabs - counts.free_slabs;
  row.sharedavail = counts.shared;
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

std::string SlabSystem::leak_report() const {
  constexpr std::size_t kShown = 8;
  struct Left {
    std::vector<const void*> objects;
    std::uint64_t count = 0;
  };
  std::string text;
  for (const KmemCacheBase& cache : caches_) {
    if (cache.destroy_ != KmemCacheBase::Destroy::kFailed) continue;
    Left left;
    layout_->for_each_object(
        cache,
        [](void* context, const ObjectPlace& place) {
          auto& to = *static_cast<Left*>(context);
          if (place.state != ObjectPlace::State::kAllocated) return;
          if (++to.count <= kShown) to.objects.push_back(place.object);
        },
        &left);
    text += fmt::format("slab cache {} was destroyed with {} object{} in use:", cache.name(), left.count,
                        left.count == 1 ? "" : "s");
    for (const void* object : left.objects) text += fmt::format(" {:#x}", phys_.arena().to_phys(object).value());
    text += left.count > kShown ? " ...\n" : "\n";
  }
  return text;
}

}  // namespace quire::slab
