// /proc/zoneinfo.
#include <fmt/format.h>

#include "quire/observe/online.h"
#include "quire/observe/proc_text.h"
#include "quire/reclaim/scan_control.h"

namespace quire::observe {

namespace {

using phys::Watermark;
using phys::Zone;

template <class Stat, class Value>
void counters(std::string& text, Value&& value) {
  Counters<Stat>::for_each([&](Stat s) { text += fmt::format("\n      {:<12} {}", counter_name(s), value(s)); });
}

void watermarks(std::string& text, const phys::PhysMem& phys, const Zone& zone) {
  text += fmt::format("\n  pages free     {}", zone.free_pages());
  const auto line = [&text](std::string_view name, std::uint64_t pages) {
    text += fmt::format("\n        {:<8} {}", name, pages);
  };
  line("boost", zone.watermark_boost());
  line("min", zone.wmark_pages(Watermark::kMin));
  line("low", zone.wmark_pages(Watermark::kLow));
  line("high", zone.wmark_pages(Watermark::kHigh));
  line("spanned", zone.spanned_pages());
  line("present", zone.present_pages());
  line("managed", zone.managed_pages());
  line("cma", zone.cma_pages());
  text += "\n        protection: (";
  phys.for_each_zone_type([&](phys::ZoneType type) {
    text += fmt::format("{}{}", type == phys::ZoneType::kDma ? "" : ", ", zone.lowmem_reserve(type));
  });
  text += ')';
}

void pagesets(std::string& text, const Zone& zone) {
  text += "\n  pagesets";
  for (unsigned cpu = 0; cpu < zone.cpus(); ++cpu) {
    const phys::PerCpuPages& pcp = zone.pcp(cpu);
    text += fmt::format(
        "\n    cpu: {}\n              count: {}\n              high:  {}\n              batch: {}\n  vm stats threshold: {}",
        cpu, pcp.count, pcp.high, pcp.batch, zone.stat_threshold());
  }
}

}  // namespace

std::string zoneinfo(kernel::Machine& machine) {
  std::string text;
  const phys::PhysMem& phys = machine.phys();
  for (const auto& node : machine.phys().nodes()) {
    if (!node_online(*node)) continue;
    bool first = true;  // of the node's populated zones: it shows the node's counters
    node->for_each_zone([&](const Zone& zone) {
      if (!phys.has_zone(zone.type())) return;
      text += fmt::format("Node {}, zone {:>8}", node->nid().value(), zone.name());
      if (zone.populated() && first) {
        first = false;
        text += "\n  per-node stats";
        counters<phys::NodeStat>(text, [&](phys::NodeStat s) { return node->stats[s]; });
      }
      watermarks(text, phys, zone);
      if (zone.populated()) {
        counters<phys::ZoneStat>(text, [&](phys::ZoneStat s) { return zone.state(s); });
        // Debian's i386 kernel is built for one node.
        if (phys.arch() == phys::Arch::kX86_64) counters<phys::NumaStat>(text, [&](phys::NumaStat s) { return zone.numa[s]; });
        pagesets(text, zone);
        text += fmt::format("\n  node_unreclaimable:  {}\n  start_pfn:           {}",
                            machine.reclaim().node_reclaim(node->nid()).kswapd_failures >= reclaim::kMaxReclaimRetries ? 1 : 0,
                            zone.start_pfn().value());
      }
      text += '\n';
    });
  }
  return text;
}

}  // namespace quire::observe
