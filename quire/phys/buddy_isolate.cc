// Isolated pageblocks: free pages that nobody may be given.
#include <algorithm>
#include <bit>

#include "quire/phys/buddy.h"

namespace quire::phys {

void Buddy::mod_freepage_state(Zone& zone, std::int64_t pages, MigrateType type) {
  zone.stats.add(ZoneStat::kNrFreePages, pages);
  if (type == MigrateType::kCma) zone.stats.add(ZoneStat::kNrFreeCma, pages);
}

void Buddy::isolate_pageblock(Zone& zone, Page& page) {
  zone.lock.assert_held();
  const Pfn pfn = page_to_pfn(page);
  const MigrateType own = sparse_.pageblock_type(pfn);
  QUIRE_BUG_ON(own == MigrateType::kIsolate);
  sparse_.isolate_pageblock(pfn);
  ++zone.nr_isolate_pageblock_;
  // A block larger than a pageblock goes as a whole; who isolates a range cuts it at the range's ends afterwards.
  const std::uint64_t moved = move_freepages_block(zone, page, MigrateType::kIsolate, nullptr);
  mod_freepage_state(zone, -static_cast<std::int64_t>(moved), own);
}

void Buddy::unisolate_pageblock(Zone& zone, Page& page, MigrateType type) {
  zone.lock.assert_held();
  const Pfn pfn = page_to_pfn(page);
  if (sparse_.pageblock_type(pfn) != MigrateType::kIsolate) return;
  // Two isolated pageblocks, perhaps of two owners, may have merged into one block: it is cut, so that just one of them
  // comes back. (Linux 6.1 hands out the other, too.)
  Page& largest = vmemmap_[align_down(pfn, kMaxOrder.pages()).value()];
  const bool joined = zone.spans(page_to_pfn(largest)) && largest.test(PageFlag::kBuddy) &&
                      largest.private_ == kMaxOrder.value() &&
                      sparse_.pageblock_type(page_to_pfn(largest)) == MigrateType::kIsolate;
  // A free block of a pageblock may have a free twin outside that it could not merge with while it was isolated: put back
  // anew, it does.
  bool alone = joined;
  if (!joined && page.test(PageFlag::kBuddy) && page.private_ == kPageblockOrder.value()) {
    const Page* buddy = find_buddy_page(page, pfn, kPageblockOrder.value());
    alone = buddy != nullptr && sparse_.pageblock_type(page_to_pfn(*buddy)) != MigrateType::kIsolate;
  }
  const Order order = kPageblockOrder;
  if (joined) {
    del_page_from_free_list(zone, largest, kMaxOrder);
    sparse_.set_pageblock_type(pfn, type);
    const Pfn other(pfn.value() ^ kPageblockPages);
    free_one_page(zone, vmemmap_[other.value()], kPageblockOrder, sparse_.pageblock_type(other));
  } else if (alone) {
    del_page_from_free_list(zone, page, order);
  } else {
    const std::uint64_t moved = move_freepages_block(zone, page, type, nullptr);
    mod_freepage_state(zone, static_cast<std::int64_t>(moved), type);
  }
  sparse_.set_pageblock_type(pfn, type);
  if (alone) free_one_page(zone, page, order, type, FreeHint::kToTail);
  --zone.nr_isolate_pageblock_;
  // The atomic reserve is a pageblock smaller when one of its own comes back as something else.
  if (sparse_.pageblock_own_type(pfn) == MigrateType::kHighAtomic && type != MigrateType::kHighAtomic) {
    zone.nr_reserved_highatomic_ -= std::min(kPageblockPages, zone.nr_reserved_highatomic_);
  }
}

void Buddy::split_free_page(Zone& zone, Page& page, std::uint64_t offset) {
  zone.lock.assert_held();
  const auto order = static_cast<unsigned>(page.private_);
  QUIRE_BUG_ON(!page.test(PageFlag::kBuddy) || offset == 0 || offset >= std::uint64_t{1} << order);
  const Pfn begin = page_to_pfn(page);
  const Pfn end = begin + (std::uint64_t{1} << order);
  const MigrateType type = sparse_.pageblock_type(begin);
  if (type != MigrateType::kIsolate) mod_freepage_state(zone, -static_cast<std::int64_t>(std::uint64_t{1} << order), type);
  del_page_from_free_list(zone, page, Order(order));
  std::uint64_t left = offset;
  for (Pfn pfn = begin; pfn < end;) {
    const auto aligned = pfn == Pfn{} ? order : static_cast<unsigned>(std::countr_zero(pfn.value()));
    const unsigned part = std::min(aligned, static_cast<unsigned>(std::bit_width(left)) - 1);
    free_one_page(zone, vmemmap_[pfn.value()], Order(part), sparse_.pageblock_type(pfn));
    pfn += std::uint64_t{1} << part;
    left -= std::uint64_t{1} << part;
    if (left == 0) left = end - pfn;  // the first part is done
  }
}

}  // namespace quire::phys
