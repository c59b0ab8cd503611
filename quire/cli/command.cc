#include "quire/cli/command.h"

#include <fmt/core.h>

#include <cstdio>

namespace quire::cli {

int complain(std::string_view sentence, int status) {
  fmt::print(stderr, "quire: {}\n", sentence);
  return status;
}

void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

}  // namespace quire::cli
