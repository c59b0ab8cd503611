// Taking free blocks out of the buddy where they lie, whatever is asked for: compaction's free scanner.
#include "quire/phys/phys_mem.h"

namespace quire::phys {

std::uint64_t PhysMem::isolate_free_page(Zone& zone, Page& page) {
  zone.lock.assert_held();
  QUIRE_BUG_ON(!page.test(PageFlag::kBuddy));
  const Order order(static_cast<unsigned>(page.private_));
  const std::uint64_t pages = order.pages();
  const Pfn pfn = page_to_pfn(page);
  const MigrateType block = sparse_.pageblock_type(pfn);
  if (block != MigrateType::kIsolate) {
    // No protection counts here: what is taken is given back soon, as the page that moves leaves its frame.
    const std::uint64_t mark = zone.watermark(Watermark::kMin) + pages;
    if (!zone_watermark_ok(zone, Order(0), mark, ZoneType::kDma, AllocFlags::kCma, zone.free_pages())) return 0;
    zone.stats.sub(ZoneStat::kNrFreePages, static_cast<std::int64_t>(pages));
    if (block == MigrateType::kCma) zone.stats.sub(ZoneStat::kNrFreeCma, static_cast<std::int64_t>(pages));
  }
  buddy_.take_block(zone, page);
  // What fills most of a pageblock decides what it is for.
  if (order.value() + 1 >= kPageblockOrder.value()) {
    for (Pfn at = align_down(pfn, kPageblockPages); at < pfn + pages; at += kPageblockPages) {
      if (static_cast<unsigned>(sparse_.pageblock_type(at)) < kMigratePcpTypes) {
        sparse_.set_pageblock_type(at, MigrateType::kMovable);
      }
    }
  }
  for (std::uint64_t i = 0; i < pages; ++i) {
    Page& single = (&page)[i];
    check_new_page(single);
    prep_new_page(single, Order(0), Gfp::kNone);
  }
  return pages;
}

}  // namespace quire::phys
