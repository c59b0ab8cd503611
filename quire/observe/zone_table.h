// The zones of a machine, for people and for programs.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "quire/phys/phys_mem.h"

namespace quire::observe {

// One line a populated zone: pages spanned, present, managed, free and the watermarks, with the protection of each.
[[nodiscard]] std::string zone_table(phys::PhysMem& phys);
[[nodiscard]] nlohmann::json zones_json(phys::PhysMem& phys);

}  // namespace quire::observe
