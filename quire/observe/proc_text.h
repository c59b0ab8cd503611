// The machine as the kernel's own files show it: the text of /proc and /sys, form and order as Linux 6.1 prints them, so that
// tools which read those read these. Each is a snapshot; a machine at rest shows the same twice.
//
// What the machine does not have yet prints as the kernel prints what is empty: 0. Which lines those are stands in
// docs/fidelity.md.
#pragma once

#include <string>

#include "quire/kernel/machine.h"

namespace quire::observe {

[[nodiscard]] std::string zoneinfo(kernel::Machine& machine);  // /proc/zoneinfo
[[nodiscard]] std::string buddyinfo(phys::PhysMem& phys);      // /proc/buddyinfo
[[nodiscard]] std::string pagetypeinfo(phys::PhysMem& phys);   // /proc/pagetypeinfo
// /sys/kernel/debug/extfrag/extfrag_index and unusable_index; the first is -1.000 where a block of the order is free.
[[nodiscard]] std::string extfrag_index(phys::PhysMem& phys);
[[nodiscard]] std::string unusable_index(phys::PhysMem& phys);
[[nodiscard]] std::string meminfo(kernel::Machine& machine);  // /proc/meminfo
// /proc/slabinfo, the newest cache first. Objects in CPU arrays count as active, as the kernel counts them.
[[nodiscard]] std::string slabinfo(kernel::Machine& machine);
// /proc/vmallocinfo as root sees it.
[[nodiscard]] std::string vmallocinfo(kernel::Machine& machine);
[[nodiscard]] std::string iomem(phys::PhysMem& phys);  // /proc/iomem
// /sys/devices/system/node/node*: meminfo, numastat, distance and cpulist of each, under a heading.
[[nodiscard]] std::string nodes(kernel::Machine& machine);
// The lists of memblock as they stood when boot was over, as memblock=debug prints them.
[[nodiscard]] std::string memblock(const phys::PhysMem& phys);

}  // namespace quire::observe
