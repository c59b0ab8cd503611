// A person's mistake (a bad size, an unknown option, RAM too small): one sentence that names the cause, the place and the
// mend. Used by what people configure; the machine itself reports errno values.
#pragma once

#include <expected>
#include <string>
#include <utility>

namespace quire {

struct UserError {
  std::string sentence;
};

template <class T>
using Checked = std::expected<T, UserError>;

[[nodiscard]] inline std::unexpected<UserError> user_error(std::string sentence) {
  return std::unexpected(UserError{std::move(sentence)});
}

}  // namespace quire
