#include "quire/slab/shrinker.h"

#include <algorithm>
#include <utility>

#include "quire/base/bug.h"

namespace quire::slab {

void ShrinkerRegistry::register_shrinker(Shrinker& shrinker) {
  entries_.push_back({&shrinker, std::vector<std::uint64_t>(nodes_)});
}

void ShrinkerRegistry::unregister_shrinker(Shrinker& shrinker) {
  const auto gone = std::ranges::find(entries_, &shrinker, &Entry::shrinker);
  QUIRE_BUG_ON(gone == entries_.end());
  entries_.erase(gone);
}

ShrinkerRegistry::Shrunk ShrinkerRegistry::shrink_slab(phys::Gfp gfp, Nid nid, int priority) {
  Shrunk total;
  for (Entry& entry : entries_) {
    const Shrunk shrunk = do_shrink_slab(entry, gfp, nid, priority);
    total.freed += shrunk.freed;
    total.scanned += shrunk.scanned;
  }
  return total;
}

ShrinkerRegistry::Shrunk ShrinkerRegistry::do_shrink_slab(Entry& entry, phys::Gfp gfp, Nid nid, int priority) {
  Shrinker& shrinker = *entry.shrinker;
  ShrinkControl control{.gfp = gfp, .nid = nid};
  const std::uint64_t freeable = shrinker.count_objects(control);
  if (freeable == 0) return {};

  std::uint64_t& deferred = entry.nr_deferred[static_cast<std::size_t>(nid.value())];
  const std::uint64_t nr = std::exchange(deferred, 0);
  // Objects that cost nothing to make again are given up by halves.
  const std::uint64_t delta = shrinker.seeks() != 0 ? (freeable >> priority) * 4 / shrinker.seeks() : freeable / 2;
  const std::uint64_t target = std::min((nr >> priority) + delta, 2 * freeable);
  const std::uint64_t batch = shrinker.batch() != 0 ? shrinker.batch() : kShrinkBatch;

  std::uint64_t freed = 0;
  std::uint64_t scanned = 0;
  std::uint64_t total_scan = target;
  // Less than a batch is scanned only when that is all there is; else it is carried over.
  while (total_scan >= batch || total_scan >= freeable) {
    control.nr_to_scan = control.nr_scanned = std::min(batch, total_scan);
    const std::uint64_t result = shrinker.scan_objects(control);
    if (result == kShrinkStop) break;
    freed += result;
    scanned += control.nr_scanned;
    total_scan -= std::min(total_scan, control.nr_scanned);
    if (control.nr_scanned == 0) break;
  }
  deferred += std::min(nr + delta > scanned ? nr + delta - scanned : 0, 2 * freeable);
  return {.freed = freed, .scanned = scanned};
}

}  // namespace quire::slab
