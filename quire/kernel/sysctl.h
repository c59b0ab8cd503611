// Tunables under Linux's names. A table row names one, its default and its bounds as /proc/sys/vm has them on 6.1; a
// value of −1 as default means that boot computes it (min_free_kbytes).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "quire/base/user_error.h"

namespace quire::kernel {

struct SysctlRow {
  std::string_view name;
  std::int64_t initial;
  std::int64_t least;
  std::int64_t most;
  std::string_view what;
};

[[nodiscard]] std::span<const SysctlRow> sysctl_rows();
[[nodiscard]] const SysctlRow* find_sysctl(std::string_view name);
// One sentence when the name is unknown (with the nearest known name) or the value out of bounds.
Checked<void> check_sysctl(std::string_view name, std::int64_t value);

}  // namespace quire::kernel
