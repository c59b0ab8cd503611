// Lists of small numbers as Linux writes them: "0-3,8" in cpulist files, in cpuset and on the command line.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

// Ascending, each number once. nullopt: not such a list, or a number above `most`. The empty list is the empty text.
[[nodiscard]] std::optional<std::vector<unsigned>> parse_number_list(std::string_view text, unsigned most,
                                                                     char separator = ',');
// The shortest such text of ascending numbers.
[[nodiscard]] std::string format_number_list(const std::vector<unsigned>& numbers, char separator = ',');

}  // namespace quire
