// A bar chart for terminals.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quire::cli {

struct Bar {
  std::string label;
  double value = 0;
  std::string text;  // printed behind the bar
};

// One line a bar, the longest `width` cells, to an eighth of a cell. Negative values are drawn as none.
[[nodiscard]] std::string bar_chart(const std::string& title, const std::vector<Bar>& bars, unsigned width = 50);

}  // namespace quire::cli
