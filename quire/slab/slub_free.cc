// Slub: objects back to their slabs, slabs back to lists and to the buddy.
#include <algorithm>
#include <array>

#include "quire/slab/object_debug.h"
#include "quire/slab/slab_system.h"
#include "quire/slab/slub.h"

namespace quire::slab {

// --- objects ----------------------------------------------------------------------------------------------------------

Slub::Page& Slub::slab_of(const KmemCacheBase& cache, const void* object) const {
  Page* page = system_.page_of(object);
  if (page == nullptr || !page->test(phys::PageFlag::kSlab) || page_cache(*page) != &cache) [[unlikely]]
    cache.report_foreign(object);
  Page& slab = phys::compound_head(*page);
  if (!is_object(cache, slab, *page, object)) [[unlikely]]
    cache.report_foreign(object);
  return slab;
}

void Slub::free(KmemCacheBase& cache, void* object) {
  free_list(cache, slab_of(cache, object), {.head = object, .tail = object, .count = 1});
}

// Runs of objects of one slab go back at once.
void Slub::free_bulk(KmemCacheBase& cache, std::span<void* const> objects) {
  for (std::size_t i = 0; i < objects.size();) {
    FreeList list{.head = objects[i], .tail = objects[i], .count = 1};
    Page& slab = slab_of(cache, list.head);
    for (++i; i < objects.size() && &slab_of(cache, objects[i]) == &slab; ++i, ++list.count) {
      set_next_free(cache, objects[i], list.head);
      list.head = objects[i];
    }
    free_list(cache, slab, list);
  }
}

void Slub::free_list(KmemCacheBase& cache, Page& slab, const FreeList& list) {
  SlubCpu& c = this_cpu(cache);
  if (&slab != c.slab || cache.debugged()) return free_to_slab(cache, slab, list);
  if (c.freelist == list.head) [[unlikely]]
    cache.report_double_free(list.head);
  set_next_free(cache, list.tail, c.freelist);
  c.freelist = list.head;
}

// Puts the objects on the page's freelist; what the counters say then.
SlubCounters Slub::push(KmemCacheBase& cache, Page& slab, const FreeList& list) {
  void* first = freelist_of(slab);
  if (first == list.head) [[unlikely]]
    cache.report_double_free(list.head);
  set_next_free(cache, list.tail, first);
  set_freelist(slab, list.head);
  SlubCounters counters = SlubCounters::of(slab);
  QUIRE_BUG_ON(counters.inuse < list.count);
  counters.inuse -= list.count;
  counters.store(slab);
  return counters;
}

void Slub::free_to_slab(KmemCacheBase& cache, Page& slab, const FreeList& list) {
  const SlubCounters before = SlubCounters::of(slab);
  const bool full = freelist_of(slab) == nullptr;
  if (before.frozen != 0 || (!full && before.inuse != list.count)) {
    push(cache, slab, list);  // it stays where it is: with its CPU, or on its node's list
  } else if (full && cache.cpu_partial_slabs_ != 0) {
    SlubCounters counters = push(cache, slab, list);
    counters.frozen = 1;
    counters.store(slab);
    put_cpu_partial(cache, slab, Drain::kYes);
  } else {
    free_to_slab_locked(cache, slab, list);
  }
}

// The slab comes onto its node's list, or goes from it.
void Slub::free_to_slab_locked(KmemCacheBase& cache, Page& slab, const FreeList& list) {
  SlubNode& node = node_of(cache, slab.nid());
  {
    const sim::SpinGuard guard(node.list_lock);
    const bool listed = freelist_of(slab) != nullptr;
    const SlubCounters counters = push(cache, slab, list);
    if (counters.frozen != 0) return;  // a CPU took it while the lock was waited for
    if (counters.inuse != 0 || node.nr_partial < cache.min_partial_) {
      if (!listed) add_partial(node, slab, End::kTail);
      return;
    }
    if (listed) remove_partial(node, slab);
  }
  discard_slab(cache, slab);
}

// --- slabs ------------------------------------------------------------------------------------------------------------

void Slub::add_partial(SlubNode& node, Page& slab, End end) {
  slab.lru = {};
  if (end == End::kHead) {
    node.partial.push_front(slab);
  } else {
    node.partial.push_back(slab);
  }
  ++node.nr_partial;
}

void Slub::remove_partial(SlubNode& node, Page& slab) {
  node.partial.erase(slab);
  --node.nr_partial;
}

void Slub::put_cpu_partial(KmemCacheBase& cache, Page& slab, Drain drain) {
  SlubCpu& c = this_cpu(cache);
  Page* rest = c.partial;
  std::uintptr_t slabs = rest != nullptr ? reinterpret_cast<std::uintptr_t>(rest->owner_word[1]) : 0;
  Page* drained = nullptr;
  if (drain == Drain::kYes && slabs >= cache.cpu_partial_slabs_) {
    drained = rest;
    rest = nullptr;
    slabs = 0;
  }
  slab.owner_word[0] = rest;
  slab.owner_word[1] = reinterpret_cast<void*>(slabs + 1);
  c.partial = &slab;
  if (drained != nullptr) unfreeze_partials(cache, drained);
}

bool Slub::settle_locked(KmemCacheBase& cache, SlubNode& node, Page& slab, End end) {
  SlubCounters counters = SlubCounters::of(slab);
  counters.frozen = 0;
  counters.store(slab);
  if (counters.inuse == 0 && node.nr_partial >= cache.min_partial_) return true;
  if (freelist_of(slab) != nullptr) add_partial(node, slab, end);
  return false;
}

// The chain is nobody's but ours: it has left its CPU.
std::uint64_t Slub::unfreeze_partials(KmemCacheBase& cache, Page* chain) {
  std::uint64_t discarded = 0;
  Page* doomed = nullptr;
  while (chain != nullptr) {
    SlubNode& node = node_of(cache, chain->nid());
    const Nid nid = chain->nid();
    const sim::SpinGuard guard(node.list_lock);
    while (chain != nullptr && chain->nid() == nid) {
      Page& slab = *chain;
      chain = next_partial(slab);
      if (!settle_locked(cache, node, slab, End::kTail)) continue;
      slab.owner_word[0] = doomed;
      doomed = &slab;
    }
  }
  while (doomed != nullptr) {
    Page& slab = *doomed;
    doomed = next_partial(slab);
    discard_slab(cache, slab);
    ++discarded;
  }
  return discarded;
}

bool Slub::deactivate_slab(KmemCacheBase& cache, SlubCpu& c) {
  Page& slab = *c.slab;
  FreeList list{.head = c.freelist, .tail = nullptr, .count = 0};
  c.slab = nullptr;
  c.freelist = nullptr;
  for (void* object = list.head; object != nullptr; object = next_free(cache, object), ++list.count) list.tail = object;

  SlubNode& node = node_of(cache, slab.nid());
  bool doomed = false;
  {
    const sim::SpinGuard guard(node.list_lock);
    // A slab to which others have freed is likely to see more of that: it goes to the end of the line.
    const End end = freelist_of(slab) != nullptr ? End::kTail : End::kHead;
    if (list.count != 0) push(cache, slab, list);
    doomed = settle_locked(cache, node, slab, end);
  }
  if (doomed) discard_slab(cache, slab);
  return doomed;
}

void Slub::discard_slab(KmemCacheBase& cache, Page& slab) {
  SlubNode& node = node_of(cache, slab.nid());
  --node.nr_slabs;
  node.nr_pages -= phys::compound_order(slab).pages();
  node.total_objects -= SlubCounters::of(slab).objects;
  slab.lru = {};
  slab.index = 0;
  slab.private_ = 0;
  free_slab_page(cache, slab);
}

// --- shrinking --------------------------------------------------------------------------------------------------------

std::uint64_t Slub::flush_cpu(KmemCacheBase& cache, SlubCpu& c) {
  const bool discarded = c.slab != nullptr && deactivate_slab(cache, c);
  Page* chain = c.partial;
  c.partial = nullptr;
  return unfreeze_partials(cache, chain) + (discarded ? 1 : 0);
}

std::uint64_t Slub::shrink(KmemCacheBase& cache) {
  std::uint64_t discarded = 0;
  for (unsigned cpu = 0; cpu < system_.scheduler().cpus(); ++cpu) discarded += flush_cpu(cache, cpu_of(cache, cpu));
  for (const auto& phys_node : system_.phys().nodes()) discarded += shrink_node(cache, node_of(cache, phys_node->nid()));
  return discarded;
}

std::uint64_t Slub::shrink_node(KmemCacheBase& cache, SlubNode& node) {
  constexpr std::uint32_t kPromoteMax = 32;  // SHRINK_PROMOTE_MAX: with more free objects than this a slab is not sorted
  std::array<phys::PageList, kPromoteMax> by_free;
  phys::PageList empty;
  {
    const sim::SpinGuard guard(node.list_lock);
    for (Page* slab = node.partial.front_or_null(); slab != nullptr;) {
      Page* next = node.partial.next_or_null(*slab);
      const SlubCounters counters = SlubCounters::of(*slab);
      const std::uint32_t free = counters.objects - counters.inuse;
      if (counters.inuse == 0) {
        remove_partial(node, *slab);
        empty.push_back(*slab);
      } else if (free <= kPromoteMax) {
        node.partial.erase(*slab);
        by_free[free - 1].push_front(*slab);
      }
      slab = next;
    }
    // Those with the fewest free objects come first.
    for (std::size_t i = kPromoteMax; i-- > 0;) {
      while (Page* slab = by_free[i].pop_back()) node.partial.push_front(*slab);
    }
  }
  std::uint64_t discarded = 0;
  for (; Page* slab = empty.pop_front(); ++discarded) discard_slab(cache, *slab);
  return discarded;
}

}  // namespace quire::slab
