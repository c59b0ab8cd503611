#include "quire/phys/fragmentation.h"

#include "quire/phys/phys_mem.h"

namespace quire::phys {

namespace {

struct ContigPageInfo {
  std::uint64_t free_pages = 0;
  std::uint64_t free_blocks = 0;
  std::uint64_t suitable = 0;  // blocks of the order that could be cut from what is free
};

ContigPageInfo contig_page_info(const Zone& zone, Order order) {
  ContigPageInfo info;
  for (unsigned o = 0; o < kNrOrders; ++o) {
    const std::uint64_t blocks = zone.nr_free(Order(o));
    info.free_blocks += blocks;
    info.free_pages += blocks << o;
    if (o >= order.value()) info.suitable += blocks << (o - order.value());
  }
  return info;
}

}  // namespace

int fragmentation_index(const Zone& zone, Order order) {
  if (order > kMaxOrder) return 0;
  const ContigPageInfo info = contig_page_info(zone, order);
  if (info.free_blocks == 0) return 0;
  if (info.suitable != 0) return -1000;
  return 1000 - static_cast<int>((1000 + info.free_pages * 1000 / order.pages()) / info.free_blocks);
}

unsigned unusable_free_index(const Zone& zone, Order order) {
  const ContigPageInfo info = contig_page_info(zone, order);
  if (info.free_pages == 0) return 1000;
  return static_cast<unsigned>((info.free_pages - (info.suitable << order.value())) * 1000 / info.free_pages);
}

unsigned extfrag_for_order(const Zone& zone, Order order) {
  const ContigPageInfo info = contig_page_info(zone, order);
  if (info.free_pages == 0) return 0;
  return static_cast<unsigned>((info.free_pages - (info.suitable << order.value())) * 100 / info.free_pages);
}

CompactSuitable compaction_suitable(const Zone& zone, Order order, AllocFlags flags, ZoneType highest, std::uint64_t free_pages,
                                    int extfrag_threshold) {
  const auto wanted = static_cast<Watermark>(bits(flags & AllocFlags::kWmarkMask));
  if (PhysMem::zone_watermark_ok(zone, order, zone.wmark_pages(wanted), highest, flags, zone.free_pages())) {
    return CompactSuitable::kSuccess;
  }
  // Frames to move pages to must be free already, and the block itself comes on top.
  const bool costly = order > kPageAllocCostlyOrder;
  const std::uint64_t mark = zone.wmark_pages(costly ? Watermark::kLow : Watermark::kMin) + compact_gap(order);
  if (!PhysMem::zone_watermark_ok(zone, Order(0), mark, highest, AllocFlags::kCma, free_pages)) {
    return CompactSuitable::kSkipped;
  }
  if (costly) {
    const int index = fragmentation_index(zone, order);
    if (index >= 0 && index <= extfrag_threshold) return CompactSuitable::kSkipped;
  }
  return CompactSuitable::kContinue;
}

}  // namespace quire::phys
