#include "quire/cli/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace quire::cli {

std::string bar_chart(const std::string& title, const std::vector<Bar>& bars, unsigned width) {
  static constexpr std::array<const char*, 8> kEighths = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  std::size_t label_width = 0;
  double most = 0;
  for (const Bar& bar : bars) {
    label_width = std::max(label_width, bar.label.size());
    most = std::max(most, bar.value);
  }
  std::string text = title + "\n";
  for (const Bar& bar : bars) {
    const double share = most > 0 ? std::max(0.0, bar.value) / most : 0;
    const auto eighths = static_cast<unsigned>(std::lround(share * width * 8));
    text += fmt::format("  {:>{}} ", bar.label, label_width);
    for (unsigned i = 0; i < eighths / 8; ++i) text += "█";
    text += fmt::format("{} {}\n", kEighths[eighths % 8], bar.text);
  }
  return text;
}

}  // namespace quire::cli
