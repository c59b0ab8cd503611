#include "quire/observe/vmstat.h"

namespace quire::observe {

CounterList vmstat(const phys::PhysMem& phys) {
  CounterList list;
  Counters<phys::ZoneStat>::for_each(
      [&](phys::ZoneStat s) { list.emplace_back(counter_name(s), phys.global_zone_page_state(s)); });
  Counters<phys::NumaStat>::for_each([&](phys::NumaStat s) { list.emplace_back(counter_name(s), phys.global_numa_state(s)); });
  Counters<phys::NodeStat>::for_each(
      [&](phys::NodeStat s) { list.emplace_back(counter_name(s), phys.global_node_page_state(s)); });
  Counters<phys::VmEvent>::for_each([&](phys::VmEvent e) {
    if (counted(phys.arch(), e)) list.emplace_back(counter_name(e), phys.vmstat()[e]);
  });
  return list;
}

}  // namespace quire::observe
