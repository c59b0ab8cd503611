// All that can be seen of a physical memory, as one text, for tests that something changed nothing. Free blocks are listed
// by frame and order, not by their place in a list: giving a block back may change that.
#pragma once

#include <fmt/format.h>

#include <set>
#include <string>

#include "quire/phys/phys_mem.h"

namespace quire::phys {

// Kernel memory that was taken and given back may have turned pageblocks over and boosted a watermark, which nothing undoes,
// in Linux neither: without that, and with free blocks side by side joined.
enum class Snapshot : std::uint8_t { kAll, kWithoutTypes };

inline std::string snapshot_zone(const PhysMem& mem, const Zone& zone, Snapshot detail) {
  const bool all = detail == Snapshot::kAll;
  std::string text = fmt::format(
      "zone {} of node {}: start {} spanned {} present {} managed {} min {} low {} high {} boost {} cma {} isolated {} "
      "highatomic {} threshold {}\n",
      zone.name(), zone.node().nid().value(), zone.start_pfn().value(), zone.spanned_pages(), zone.present_pages(),
      zone.managed_pages(), zone.watermark(Watermark::kMin), zone.watermark(Watermark::kLow), zone.watermark(Watermark::kHigh),
      all ? zone.watermark_boost() : 0, zone.cma_pages(), zone.nr_isolate_pageblock(), zone.nr_reserved_highatomic(),
      zone.stat_threshold());
  for (unsigned i = 0; i < kZoneTypes; ++i) text += fmt::format(" reserve {}", zone.lowmem_reserve(static_cast<ZoneType>(i)));
  Counters<ZoneStat>::for_each([&](ZoneStat s) { text += fmt::format(" {} {}", counter_name(s), zone.state(s)); });
  for (unsigned cpu = 0; cpu < zone.cpus(); ++cpu) {
    text +=
        fmt::format("\n pcp {}: count {} high {} batch {}", cpu, zone.pcp(cpu).count, zone.pcp(cpu).high, zone.pcp(cpu).batch);
  }
  std::set<std::pair<std::uint64_t, std::pair<unsigned, unsigned>>> blocks;
  for (unsigned order = 0; order < kNrOrders; ++order) {
    for (unsigned type = 0; type < kMigrateTypes; ++type) {
      for (const Page& page : zone.free_area(Order(order)).free_list[type]) {
        blocks.insert({mem.page_to_pfn(page).value(), {order, all ? type : 0}});
      }
    }
  }
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  for (const auto& [pfn, what] : blocks) {
    if (all) text += fmt::format("\n free {:#x} order {} {}", pfn, what.first, what.second);
    if (pfn != end) {
      if (!all) text += fmt::format("\n free {:#x}-{:#x}", begin, end);
      begin = pfn;
    }
    end = pfn + (std::uint64_t{1} << what.first);
  }
  if (!all) text += fmt::format("\n free {:#x}-{:#x}", begin, end);
  return text + "\n";
}

inline std::string snapshot(PhysMem& mem, Snapshot detail = Snapshot::kAll) {
  mem.drain_all_pages();
  std::string text = fmt::format("max_pfn {} totalram {} reserve {} min_free {}\n", mem.max_pfn().value(), mem.totalram_pages(),
                                 mem.totalreserve_pages(), mem.min_free_kbytes());
  for (const auto& node : mem.nodes()) {
    text += fmt::format("node {}: start {} spanned {} present {}\n zonelist", node->nid().value(), node->start_pfn().value(),
                        node->spanned_pages(), node->present_pages());
    for (const ZoneRef& ref : node->zonelist().zones()) {
      text += fmt::format(" {}/{}", ref.zone->node().nid().value(), ref.zone->name());
    }
    text += "\n";
    node->for_each_zone([&](const Zone& zone) { text += snapshot_zone(mem, zone, detail); });
  }
  text += mem.iomem().text();
  for (Pfn pfn{}; pfn < mem.max_pfn(); pfn += kPageblockPages) {
    if (!mem.pfn_valid(pfn)) continue;
    text += fmt::format("block {:#x} {}{}", pfn.value(),
                        detail == Snapshot::kAll ? migratetype_name(mem.pageblock_migratetype(pfn)) : "",
                        mem.page_initialised(pfn) ? "" : " not online");
    if (mem.page_initialised(pfn)) {
      // In use and free frames, and to whom they belong.
      std::uint64_t sum = 0;
      for (std::uint64_t i = 0; i < kPageblockPages; ++i) {
        const Page& page = mem.pfn_to_page(pfn + i);
        const std::uint64_t word = page.flags ^ static_cast<std::uint64_t>(page.refcount) << 40;
        sum = (sum ^ word) * 0x100000001b3;
      }
      text += fmt::format(" {:#x}", sum);
    }
    text += "\n";
  }
  return text;
}

}  // namespace quire::phys
