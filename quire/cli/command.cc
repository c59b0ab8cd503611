#include "quire/cli/command.h"

#include <fmt/core.h>

#include <cstdio>
#include <nlohmann/json.hpp>

namespace quire::cli {

int complain(std::string_view sentence, int status) {
  fmt::print(stderr, "quire: {}\n", sentence);
  return status;
}

void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void print_json(const nlohmann::json& value, JsonLayout layout) {
  const int indent = layout == JsonLayout::kIndented ? 2 : -1;
  print(value.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace quire::cli
