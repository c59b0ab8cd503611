// A booted machine beside the folder that describes it: every figure of the folder's that both have and that no run changes.
//
// Compared: each zone's start, spanned, present, managed, cma, min, low and high less boost, protection, and for each CPU high, batch and
// stat threshold; nodes, their CPUs, distances and MemTotal; the tunables that the machine has; the lines of iomem that follow
// from the map (devices and the kernel's sections are taken from the folder); the log's lines on zones, nodes and zonelists.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "quire/kernel/machine.h"
#include "quire/like/folder.h"

namespace quire::like {

struct Difference {
  std::string figure;  // "node 0 zone DMA32 min"
  std::string recorded;
  std::string here;
};

struct Comparison {
  std::uint64_t equal = 0;
  std::vector<Difference> differences;
  std::vector<std::string> not_compared;  // files that are missing, a sentence each
};

[[nodiscard]] Comparison compare(const Folder& folder, kernel::Machine& machine);

// For people and for programs; `notes` are those of the description.
[[nodiscard]] std::string comparison_text(const Comparison& comparison, const std::vector<std::string>& notes);
[[nodiscard]] nlohmann::json comparison_json(const Comparison& comparison, const std::vector<std::string>& notes);

}  // namespace quire::like
