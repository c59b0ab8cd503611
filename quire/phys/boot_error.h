// Why a machine could not boot: one clear sentence that names the cause, the figure needed and the mend. These are the
// user's mistakes (or the host's limits), so they are text, not an errno.
#pragma once

#include <expected>
#include <string>
#include <utility>

namespace quire::phys {

struct BootError {
  std::string message;
};

template <class T>
using BootResult = std::expected<T, BootError>;
using BootStatus = std::expected<void, BootError>;

[[nodiscard]] inline std::unexpected<BootError> boot_error(std::string message) {
  return std::unexpected<BootError>(BootError{std::move(message)});
}

}  // namespace quire::phys
