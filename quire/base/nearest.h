// "Did you mean ...?": the candidate with the least edit distance.
#pragma once

#include <span>
#include <string_view>

namespace quire {

// The candidate that differs from `word` by the fewest insertions, deletions and replacements; empty when even the best one
// differs in more than half of its letters.
[[nodiscard]] std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace quire
