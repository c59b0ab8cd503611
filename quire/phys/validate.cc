// PhysMem::validate: walks free lists, per-CPU lists and every initialised struct Page, and compares them with the
// counters. Aborts with what is wrong.
#include <fmt/format.h>

#include <map>

#include "quire/phys/phys_mem.h"

namespace quire::phys {

class Validator {
 public:
  explicit Validator(const PhysMem& mem) : mem_(mem) {}

  void run() {
    for (const auto& node : mem_.nodes()) {
      node->for_each_zone([&](const Zone& zone) { check_zone(zone); });
    }
    check_pages();
    for (const auto& node : mem_.nodes()) {
      node->for_each_zone([&](const Zone& zone) { check_highatomic(zone); });
    }
  }

 private:
  void check_zone(const Zone& zone) {
    std::uint64_t cma = 0;
    std::uint64_t free = zone.deferred_pages_;
    std::uint64_t isolated = 0;
    for (unsigned order = 0; order < kNrOrders; ++order) {
      const FreeArea& area = zone.free_area(Order(order));
      std::uint64_t blocks = 0;
      for (unsigned type = 0; type < kMigrateTypes; ++type) {
        for (const Page& page : area.free_list[type]) {
          check_block(zone, page, order, static_cast<MigrateType>(type));
          ++blocks;
          (static_cast<MigrateType>(type) == MigrateType::kIsolate ? isolated : free) += std::uint64_t{1} << order;
          if (static_cast<MigrateType>(type) == MigrateType::kCma) cma += std::uint64_t{1} << order;
        }
      }
      if (blocks != area.nr_free)
        fail(zone, fmt::format("nr_free of order {} is {}, list has {}", order, area.nr_free, blocks));
      buddy_blocks_ += blocks;
    }
    if (free != zone.free_pages()) fail(zone, fmt::format("NR_FREE_PAGES is {}, lists have {}", zone.free_pages(), free));
    if (cma != static_cast<std::uint64_t>(zone.state(ZoneStat::kNrFreeCma))) {
      fail(zone, fmt::format("NR_FREE_CMA_PAGES is {}, lists have {}", zone.state(ZoneStat::kNrFreeCma), cma));
    }
    if (isolated > zone.nr_isolate_pageblock() * kPageblockPages) fail(zone, "more pages isolated than pageblocks hold");
    isolate_pageblocks_ += zone.nr_isolate_pageblock();
    std::uint64_t waiting = 0;
    for (const Range<Pfn>& r : zone.deferred_) waiting += r.size();
    if (waiting != zone.deferred_pages_) fail(zone, "deferred pages do not add up");
    if (free > zone.managed_pages()) fail(zone, "more pages free than managed");
    for (unsigned cpu = 0; cpu < zone.cpus(); ++cpu) check_pcp(zone, zone.pcp(cpu));
  }

  void check_block(const Zone& zone, const Page& page, unsigned order, MigrateType type) {
    const Pfn pfn = mem_.page_to_pfn(page);
    if (!page.test(PageFlag::kBuddy) || page.private_ != order) fail(page, "on a free list without its marks");
    if ((pfn.value() & ((std::uint64_t{1} << order) - 1)) != 0) fail(page, "free block is not aligned to its size");
    if (!zone.spans(pfn) || !zone.spans(pfn + (std::uint64_t{1} << order) - 1)) fail(page, "free block leaves its zone");
    if (page.refcount != 0 || page.mapcount != 0) fail(page, "free block is referenced");
    if (order < kMaxOrder.value()) {
      const Pfn buddy_pfn(pfn.value() ^ (std::uint64_t{1} << order));
      const Page& buddy = mem_.pfn_to_page(buddy_pfn);
      const bool twin = buddy.test(PageFlag::kBuddy) && buddy.private_ == order && buddy.nid() == page.nid() &&
                        buddy.zone_type() == page.zone_type();
      if (twin && order < kPageblockOrder.value()) fail(page, "two free buddies side by side were not merged");
    }
    // A pageblock that the zone's end cuts off is retyped without its free pages (move_freepages_block).
    const bool whole = zone.spans(align_down(pfn, kPageblockPages) + (kPageblockPages - 1));
    const MigrateType of_block = mem_.pageblock_migratetype(pfn);
    // Isolation and CMA are of whole pageblocks, both ways: nothing of theirs is on another list, nor the other way round.
    for (const MigrateType strict : {MigrateType::kIsolate, MigrateType::kCma}) {
      if (whole && (type == strict) != (of_block == strict)) fail(page, "free block on a list that is not its pageblock's");
    }
    if (type == MigrateType::kHighAtomic && whole && mem_.pageblock_migratetype(pfn) != MigrateType::kHighAtomic) {
      fail(page, "atomic reserve outside its pageblock");
    }
  }

  void check_pcp(const Zone& zone, const PerCpuPages& pcp) {
    std::int64_t count = 0;
    for (unsigned i = 0; i < kNrPcpLists; ++i) {
      const unsigned order = i == kNrLowOrderPcpLists ? kPageblockOrder.value() : i / kMigratePcpTypes;
      for (const Page& page : pcp.lists[i]) {
        if (!page.test(PageFlag::kPcp) || page.refcount != 0) fail(page, "on a per-CPU list without its mark");
        if (!zone.spans(mem_.page_to_pfn(page))) fail(page, "on another zone's per-CPU list");
        count += std::int64_t{1} << order;
        ++pcp_blocks_;
      }
    }
    if (count != pcp.count) fail(zone, fmt::format("per-CPU count is {}, lists have {}", pcp.count, count));
  }

  // Every mark must belong to a list entry that was counted above.
  void check_pages() {
    std::uint64_t buddy = 0;
    std::uint64_t pcp = 0;
    std::uint64_t isolate = 0;
    for (std::uint64_t s = 0; s < mem_.sparse_.size(); ++s) {
      if (mem_.sparse_.section(s).state != SectionState::kInitialised) continue;
      for (Pfn pfn = SparseMemory::section_start(s); pfn < SparseMemory::section_start(s + 1); ++pfn) {
        const Page& page = mem_.pfn_to_page(pfn);
        if (align_down(pfn, kPageblockPages) == pfn) isolate += count_pageblock(pfn) ? 1 : 0;
        buddy += page.test(PageFlag::kBuddy) ? 1 : 0;
        pcp += page.test(PageFlag::kPcp) ? 1 : 0;
        if (page.refcount < 0 || page.mapcount < 0) fail(page, "negative count");
      }
    }
    QUIRE_BUG_ON(isolate != isolate_pageblocks_);
    QUIRE_BUG_ON(buddy != buddy_blocks_);
    QUIRE_BUG_ON(pcp != pcp_blocks_);
  }

  // True: it is isolated.
  bool count_pageblock(Pfn pfn) {
    const MigrateType type = mem_.pageblock_migratetype(pfn);
    const bool isolated = type == MigrateType::kIsolate;
    if ((isolated ? mem_.sparse_.pageblock_own_type(pfn) : type) == MigrateType::kHighAtomic) {
      const Page& page = mem_.pfn_to_page(pfn);
      const Zone& zone = mem_.nodes()[static_cast<std::size_t>(page.nid().value())]->zone(page.zone_type());
      if (zone.spans(pfn) && zone.spans(pfn + kPageblockPages - 1)) ++highatomic_pageblocks_[&zone];
    }
    return isolated;
  }

  // The atomic reserve is counted in whole pageblocks, isolated ones too. A pageblock that an end of the zone cuts has a
  // type that two zones share, and both may count it or neither: so many may the count be larger.
  void check_highatomic(const Zone& zone) const {
    const auto found = highatomic_pageblocks_.find(&zone);
    const std::uint64_t whole = found == highatomic_pageblocks_.end() ? 0 : found->second;
    const std::uint64_t cut =
        (zone.start_pfn().value() % kPageblockPages != 0 ? 1 : 0) + (zone.end_pfn().value() % kPageblockPages != 0 ? 1 : 0);
    const std::uint64_t reserved = zone.nr_reserved_highatomic();
    if (reserved % kPageblockPages != 0 || reserved < whole * kPageblockPages || reserved > (whole + cut) * kPageblockPages) {
      fail(zone, fmt::format("nr_reserved_highatomic is {}, {} whole pageblocks are reserved", reserved, whole));
    }
  }

  [[noreturn]] void fail(const Page& page, std::string_view why) const { mem_.bad_page(page, why); }
  [[noreturn]] static void fail(const Zone& zone, std::string_view why) {
    bug(fmt::format("zone {} of node {}: {}", zone.name(), zone.node().nid().value(), why));
  }

  const PhysMem& mem_;
  std::uint64_t buddy_blocks_ = 0;
  std::uint64_t pcp_blocks_ = 0;
  std::uint64_t isolate_pageblocks_ = 0;
  std::map<const Zone*, std::uint64_t> highatomic_pageblocks_;  // whole ones
};

void PhysMem::validate() const { Validator(*this).run(); }

}  // namespace quire::phys
