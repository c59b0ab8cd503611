// Slub: looking at what there is. All slabs of a cache are on no list of slub's, so they are found by their pages.
#include <algorithm>
#include <vector>

#include "quire/slab/slab_system.h"
#include "quire/slab/slub.h"

namespace quire::slab {
namespace {

// Objects of a free list; a bug when it leads out of the slab, is no list of objects, or has no end.
template <class Next, class Visit>
std::uint32_t walk(const SlabGeometry& g, const std::byte* first, std::uint32_t objects, const void* head, Next&& next,
                   Visit&& visit) {
  std::uint32_t length = 0;
  for (const void* object = head; object != nullptr; object = next(object)) {
    const auto offset = static_cast<std::uint64_t>(static_cast<const std::byte*>(object) - first);
    QUIRE_BUG_ON(offset >= objects * g.size || offset % g.size != 0);
    QUIRE_BUG_ON(++length > objects);
    visit(static_cast<std::uint32_t>(offset / g.size));
  }
  return length;
}

}  // namespace

template <class Visit>
void Slub::for_each_slab(const KmemCacheBase& cache, Visit&& visit) const {
  const phys::PhysMem& phys = system_.phys();
  for (const auto& node : phys.nodes()) {
    const Pfn end = node->start_pfn() + node->spanned_pages();
    for (Pfn pfn = node->start_pfn(); pfn < end;) {
      if (!phys.pfn_valid(pfn)) {
        pfn = pfn + 1;
        continue;
      }
      const Page& page = phys.pfn_to_page(pfn);
      const bool slab = page.test(phys::PageFlag::kSlab) && !page.is_tail();
      if (slab && page_cache(page) == &cache && page.nid() == node->nid()) visit(page);
      pfn = pfn + (slab ? phys::compound_order(page).pages() : 1);
    }
  }
}

SlabCounts Slub::counts(const KmemCacheBase& cache) const {
  const auto free_of = [](const Page& slab) -> std::uint64_t {
    const SlubCounters counters = SlubCounters::of(slab);
    return counters.objects - counters.inuse;
  };
  SlabCounts counts;
  for (const auto& phys_node : system_.phys().nodes()) {
    const SlubNode& node = node_of(cache, phys_node->nid());
    counts.slabs += node.nr_slabs;
    counts.pages += node.nr_pages;
    counts.objects += node.total_objects;
    for (const Page& slab : node.partial) counts.free_objects += free_of(slab);
  }
  for (unsigned cpu = 0; cpu < system_.scheduler().cpus(); ++cpu) {
    const SlubCpu& c = cpu_of(cache, cpu);
    for (const void* o = c.freelist; o != nullptr; o = next_free(cache, o)) ++counts.cached;
    if (c.slab != nullptr) counts.cached += free_of(*c.slab);
    for (const Page* slab = c.partial; slab != nullptr; slab = next_partial(*slab)) counts.cached += free_of(*slab);
  }
  return counts;
}

ObjectPlace Slub::find(const KmemCacheBase& cache, const Page& head, const void* p) const {
  const SlabGeometry& g = cache.geometry();
  ObjectPlace place;
  place.slab = system_.phys().page_address(head);
  const std::uint32_t objects = SlubCounters::of(head).objects;
  const auto* address = static_cast<const std::byte*>(p);
  if (address < place.slab || address >= place.slab + objects * g.size) return {};
  place.index = static_cast<std::uint32_t>(static_cast<std::size_t>(address - place.slab) / g.size);
  place.object = place.slab + place.index * g.size + g.left_red_zone;
  place.state = address == place.object ? ObjectPlace::State::kAllocated : ObjectPlace::State::kInside;
  if (place.state == ObjectPlace::State::kInside) return place;
  const auto look = [&](const void* list) {
    std::uint32_t length = 0;
    for (const void* o = list; o != nullptr && length <= objects; o = next_free(cache, o), ++length) {
      if (o == p) place.state = ObjectPlace::State::kFree;
    }
  };
  look(freelist_of(head));
  for (unsigned cpu = 0; cpu < system_.scheduler().cpus(); ++cpu) {
    if (cpu_of(cache, cpu).slab == &head) look(cpu_of(cache, cpu).freelist);
  }
  return place;
}

void Slub::for_each_object(const KmemCacheBase& cache, ObjectVisitor visit, void* context) const {
  const SlabGeometry& g = cache.geometry();
  for_each_slab(cache, [&](const Page& slab) {
    const std::byte* object = system_.phys().page_address(slab) + g.left_red_zone;
    const std::uint32_t objects = SlubCounters::of(slab).objects;
    for (std::uint32_t i = 0; i < objects; ++i, object += g.size) visit(context, find(cache, slab, object));
  });
}

void Slub::validate(const KmemCacheBase& cache) const {
  const SlabGeometry& g = cache.geometry();
  const auto next = [&cache](const void* object) { return next_free(cache, object); };

  std::vector<const Page*> of_cpus;
  for (unsigned cpu = 0; cpu < system_.scheduler().cpus(); ++cpu) {
    const SlubCpu& c = cpu_of(cache, cpu);
    QUIRE_BUG_ON(c.none.avail != 0 || c.none.limit != 0);
    QUIRE_BUG_ON(c.slab == nullptr && c.freelist != nullptr);
    if (c.slab != nullptr) of_cpus.push_back(c.slab);
    std::uintptr_t rest = 0;
    for (const Page* slab = c.partial; slab != nullptr; slab = next_partial(*slab)) {
      const auto here = reinterpret_cast<std::uintptr_t>(slab->owner_word[1]);
      QUIRE_BUG_ON(rest != 0 && here != rest - 1);
      rest = here;
      of_cpus.push_back(slab);
    }
    QUIRE_BUG_ON(c.partial != nullptr && rest != 1);
  }

  std::vector<SlabCounts> found(system_.phys().nodes().size());
  std::vector<const Page*> partial;
  for (const auto& phys_node : system_.phys().nodes()) {
    const SlubNode& node = node_of(cache, phys_node->nid());
    for (const Page& slab : node.partial) {
      QUIRE_BUG_ON(slab.nid() != phys_node->nid() || page_cache(slab) != &cache);
      partial.push_back(&slab);
    }
    QUIRE_BUG_ON(node.nr_partial != node.partial.count());
  }
  std::ranges::sort(partial);
  for_each_slab(cache, [&](const Page& slab) {
    const SlubCounters counters = SlubCounters::of(slab);
    const std::byte* first = system_.phys().page_address(slab) + g.left_red_zone;
    QUIRE_BUG_ON(slab.refcount != 1 || counters.objects == 0 || counters.inuse > counters.objects || counters.frozen > 1);
    const Order order = phys::compound_order(slab);
    QUIRE_BUG_ON(counters.objects != (order == g.order ? g.num : g.min_num) || (order != g.order && order != g.min_order));

    std::vector<bool> free(counters.objects);
    const auto mark = [&](std::uint32_t index) {
      if (free[index]) cache.report_double_free(first + index * g.size);
      free[index] = true;
    };
    const std::uint32_t on_page = walk(g, first, counters.objects, freelist_of(slab), next, mark);
    QUIRE_BUG_ON(on_page + counters.inuse != counters.objects);
    for (unsigned cpu = 0; cpu < system_.scheduler().cpus(); ++cpu) {
      if (cpu_of(cache, cpu).slab != &slab) continue;
      QUIRE_BUG_ON(walk(g, first, counters.objects, cpu_of(cache, cpu).freelist, next, mark) > counters.inuse);
    }
    // A slab that is on its way from one place to another is frozen, or empty.
    const bool listed = std::ranges::binary_search(partial, &slab);
    QUIRE_BUG_ON(std::ranges::count(of_cpus, &slab) > (counters.frozen != 0 ? 1 : 0));
    QUIRE_BUG_ON(listed && (counters.frozen != 0 || on_page == 0));
    QUIRE_BUG_ON(!listed && counters.frozen == 0 && on_page != 0 && counters.inuse != 0);
    const auto nid = static_cast<std::size_t>(slab.nid().value());
    ++found[nid].slabs;
    found[nid].pages += order.pages();
    found[nid].objects += counters.objects;
  });

  for (const auto& phys_node : system_.phys().nodes()) {
    const SlubNode& node = node_of(cache, phys_node->nid());
    const auto nid = static_cast<std::size_t>(phys_node->nid().value());
    QUIRE_BUG_ON(node.nr_slabs != found[nid].slabs || node.nr_pages != found[nid].pages);
    QUIRE_BUG_ON(node.total_objects != found[nid].objects);
  }
}

}  // namespace quire::slab
