// The machine's counters as /proc/vmstat lists them: names and order of Linux 6.1, one value a name.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "quire/kernel/machine.h"

namespace quire::observe {

using CounterList = std::vector<std::pair<std::string_view, std::int64_t>>;

[[nodiscard]] CounterList vmstat(const phys::PhysMem& phys);

}  // namespace quire::observe
