// Which nodes the kernel shows: those that have memory or CPUs (the others are only possible).
#pragma once

#include "quire/phys/node.h"

namespace quire::observe {

[[nodiscard]] inline bool node_online(const phys::Node& node) { return node.has_memory() || !node.cpus().empty(); }

}  // namespace quire::observe
