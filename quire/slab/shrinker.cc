#include "quire/slab/shrinker.h"

#include <algorithm>
#include <utility>

#include "quire/base/bug.h"
#include "quire/sim/lock_guards.h"

namespace quire::slab {

namespace {

// Gives back a read lock that down_read_trylock took.
class ReadHold {
 public:
  explicit ReadHold(sim::RwSemaphore& lock) : lock_(lock) {}
  ~ReadHold() QUIRE_NO_THREAD_SAFETY_ANALYSIS { lock_.up_read(); }
  ReadHold(const ReadHold&) = delete;
  ReadHold& operator=(const ReadHold&) = delete;

 private:
  sim::RwSemaphore& lock_;
};

// Says for its life that somebody wants to write (rwsem_is_contended).
class Registering {
 public:
  explicit Registering(unsigned& count) : count_(count) { ++count_; }
  ~Registering() { --count_; }
  Registering(const Registering&) = delete;
  Registering& operator=(const Registering&) = delete;

 private:
  unsigned& count_;
};

}  // namespace

ShrinkerRegistry::ShrinkerRegistry(phys::PhysMem& phys, sim::Scheduler& scheduler)
    : phys_(phys), shrinker_rwsem_(scheduler, scheduler.locks().lock_class("shrinker_rwsem")) {}

void ShrinkerRegistry::register_shrinker(Shrinker& shrinker) {
  const bool numa_aware = any(shrinker.flags(), ShrinkerFlags::kNumaAware);
  auto entry = std::make_unique<Entry>(Entry{&shrinker, std::vector<std::uint64_t>(numa_aware ? phys_.nodes().size() : 1)});
  const Registering registering(registering_);
  const sim::WriteGuard guard(shrinker_rwsem_);
  QUIRE_BUG_ON(std::ranges::any_of(entries_, [&](const auto& e) { return e->shrinker == &shrinker; }));
  entries_.push_back(std::move(entry));
}

void ShrinkerRegistry::unregister_shrinker(Shrinker& shrinker) {
  const Registering registering(registering_);
  const sim::WriteGuard guard(shrinker_rwsem_);
  const auto gone = std::ranges::find_if(entries_, [&](const auto& e) { return e->shrinker == &shrinker; });
  QUIRE_BUG_ON(gone == entries_.end());
  entries_.erase(gone);
}

ShrinkerRegistry::Shrunk ShrinkerRegistry::shrink_slab(phys::Gfp gfp, Nid nid, int priority) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  Shrunk total;
  if (!shrinker_rwsem_.down_read_trylock()) return total;
  const ReadHold hold(shrinker_rwsem_);
  for (const auto& entry : entries_) {
    const Shrunk shrunk = do_shrink_slab(*entry, gfp, nid, priority);
    total.freed += shrunk.freed;
    total.scanned += shrunk.scanned;
    if (registering_ == 0) continue;
    total.freed = std::max<std::uint64_t>(total.freed, 1);  // so that the caller comes again
    break;
  }
  return total;
}

ShrinkerRegistry::Shrunk ShrinkerRegistry::do_shrink_slab(Entry& entry, phys::Gfp gfp, Nid nid, int priority) {
  Shrinker& shrinker = *entry.shrinker;
  ShrinkControl control{.gfp = gfp, .nid = nid};
  const std::uint64_t freeable = shrinker.count_objects(control);
  if (freeable == 0 || freeable == kShrinkEmpty) return {};

  std::uint64_t& deferred = entry.nr_deferred[slot(shrinker, nid)];
  const std::uint64_t nr = std::exchange(deferred, 0);
  // Objects that cost nothing to make again are given up by halves.
  const std::uint64_t delta = shrinker.seeks() != 0 ? (freeable >> priority) * 4 / shrinker.seeks() : freeable / 2;
  const std::uint64_t target = std::min((nr >> priority) + delta, 2 * freeable);
  const std::uint64_t batch = shrinker.batch() != 0 ? shrinker.batch() : kShrinkBatch;
  if (events_) {
    events_->start([&] {
      return MmShrinkSlabStart{shrinker.name(), nid.value(), nr, phys::gfp_names(gfp), freeable, delta, target, priority};
    });
  }

  Shrunk done;
  std::uint64_t total_scan = target;
  // Less than a batch is scanned only when that is all there is; else it is carried over.
  while (total_scan >= batch || total_scan >= freeable) {
    control.nr_to_scan = control.nr_scanned = std::min(batch, total_scan);
    const std::uint64_t result = shrinker.scan_objects(control);
    if (result == kShrinkStop) break;
    done.freed += result;
    done.scanned += control.nr_scanned;
    phys_.vmstat().count_vm_events(phys::VmEvent::kSlabsScanned, static_cast<std::int64_t>(control.nr_scanned));
    total_scan -= std::min(total_scan, control.nr_scanned);
    if (control.nr_scanned == 0) break;
  }
  // Others may have left a debt meanwhile, so it is added to.
  deferred += std::min(nr + delta > done.scanned ? nr + delta - done.scanned : 0, 2 * freeable);
  if (events_) {
    events_->end([&] { return MmShrinkSlabEnd{shrinker.name(), nid.value(), nr, deferred, done.freed, total_scan}; });
  }
  return done;
}

std::uint64_t ShrinkerRegistry::nr_deferred(const Shrinker& shrinker, Nid nid) const {
  const auto found = std::ranges::find_if(entries_, [&](const auto& e) { return e->shrinker == &shrinker; });
  QUIRE_BUG_ON(found == entries_.end());
  return (*found)->nr_deferred[slot(shrinker, nid)];
}

}  // namespace quire::slab
