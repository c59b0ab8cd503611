// /proc/buddyinfo and /proc/pagetypeinfo: what is free, by order, and by order and migrate type.
#include <fmt/format.h>

#include <vector>

#include "quire/observe/proc_text.h"
#include "quire/phys/cma.h"

namespace quire::observe {

namespace {

using phys::kMaxOrder;
using phys::kPageblockOrder;
using phys::MigrateType;
using phys::Zone;

// In the kernel's order. A kernel without CMA, as Debian's, has no such column; here a machine has CMA when it was given an
// area.
std::vector<MigrateType> shown_types(phys::PhysMem& phys) {
  std::vector types = {MigrateType::kUnmovable, MigrateType::kMovable, MigrateType::kReclaimable, MigrateType::kHighAtomic};
  if (!phys.cma().areas().empty()) types.push_back(MigrateType::kCma);
  types.push_back(MigrateType::kIsolate);
  return types;
}

std::uint64_t free_blocks(const Zone& zone, Order order, MigrateType type) {
  std::uint64_t blocks = zone.free_area(order).free_list[static_cast<unsigned>(type)].count();
  // What deferred boot has not come to yet is free, movable and in blocks of the largest order.
  if (type == MigrateType::kMovable && order == kMaxOrder) blocks += zone.deferred_pages() / order.pages();
  return blocks;
}

std::uint64_t pageblocks(const phys::PhysMem& phys, const Zone& zone, MigrateType type) {
  std::uint64_t blocks = 0;
  for (Pfn pfn = zone.start_pfn(); pfn < zone.end_pfn(); pfn += phys::kPageblockPages) {
    if (!phys.pfn_online(pfn) || phys.pageblock_migratetype(pfn) != type) continue;
    const bool known = phys.page_initialised(pfn);
    blocks += !known || phys.pfn_to_page(pfn).zone_type() == zone.type() ? 1 : 0;
  }
  return blocks;
}

std::string zone_heading(const Zone& zone) {
  return fmt::format("Node {}, zone {:>8} ", zone.node().nid().value(), zone.name());
}

void node_pagetypeinfo(std::string& text, phys::PhysMem& phys, phys::Node& node) {
  const auto for_each_populated = [&node](auto&& f) {
    node.for_each_zone([&](Zone& zone) {
      if (zone.populated()) f(zone);
    });
  };
  const std::vector<MigrateType> types = shown_types(phys);
  text += fmt::format("Page block order: {}\nPages per block:  {}\n\n", kPageblockOrder.value(), phys::kPageblockPages);
  text += fmt::format("{:<43} ", "Free pages count per migrate type at order");
  for (unsigned order = 0; order < phys::kNrOrders; ++order) text += fmt::format("{:>6} ", order);
  text += '\n';
  for_each_populated([&](const Zone& zone) {
    for (const MigrateType type : types) {
      text += fmt::format("Node {:>4}, zone {:>8}, type {:>12} ", node.nid().value(), zone.name(), migratetype_name(type));
      for (unsigned order = 0; order < phys::kNrOrders; ++order) {
        text += fmt::format("{:>6} ", free_blocks(zone, Order(order), type));
      }
      text += '\n';
    }
  });
  text += fmt::format("\n{:<23}", "Number of blocks type ");
  for (const MigrateType type : types) text += fmt::format("{:>12} ", migratetype_name(type));
  text += '\n';
  for_each_populated([&](const Zone& zone) {
    text += zone_heading(zone);
    for (const MigrateType type : types) text += fmt::format("{:>12} ", pageblocks(phys, zone, type));
    text += '\n';
  });
}

}  // namespace

std::string buddyinfo(phys::PhysMem& phys) {
  std::string text;
  phys.for_each_populated_zone([&](const Zone& zone) {
    text += zone_heading(zone);
    for (unsigned order = 0; order < phys::kNrOrders; ++order) text += fmt::format("{:>6} ", zone.nr_free(Order(order)));
    text += '\n';
  });
  return text;
}

std::string pagetypeinfo(phys::PhysMem& phys) {
  std::string text;
  for (const auto& node : phys.nodes()) {
    if (node->has_memory()) node_pagetypeinfo(text, phys, *node);
  }
  return text;
}

}  // namespace quire::observe
