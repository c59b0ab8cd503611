// /sys/kernel/debug/extfrag: how broken up the free memory of each zone is, a figure an order.
#include <fmt/format.h>

#include "quire/observe/proc_text.h"
#include "quire/phys/fragmentation.h"

namespace quire::observe {

namespace {

template <class F>
std::string by_order(phys::PhysMem& phys, int width, F&& index) {
  std::string text;
  phys.for_each_populated_zone([&](const phys::Zone& zone) {
    text += fmt::format("Node {}, zone {:>8} ", zone.node().nid().value(), zone.name());
    for (unsigned order = 0; order < phys::kNrOrders; ++order) {
      const int thousandths = static_cast<int>(index(zone, Order(order)));
      text += fmt::format("{:{}}.{:03} ", thousandths / 1000, width, thousandths % 1000);
    }
    text += '\n';
  });
  return text;
}

}  // namespace

std::string extfrag_index(phys::PhysMem& phys) {
  return by_order(phys, 2, [](const phys::Zone& zone, Order order) { return phys::fragmentation_index(zone, order); });
}

std::string unusable_index(phys::PhysMem& phys) {
  return by_order(phys, 1, [](const phys::Zone& zone, Order order) { return phys::unusable_free_index(zone, order); });
}

}  // namespace quire::observe
