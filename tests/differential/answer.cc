#include "answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace quire::differential {
namespace {

// smaps lines that are compared. Referenced is not, nor LazyFree: when the kernel looks at accessed bits is its own affair, and
// a page that MADV_FREE was told of counts from when the CPU's batch is drained, by whomever.
constexpr std::array<std::string_view, 11> kFigures{"Rss",          "Pss",           "Pss_Dirty",     "Shared_Clean",
                                                    "Shared_Dirty", "Private_Clean", "Private_Dirty", "Anonymous",
                                                    "Swap",         "SwapPss",       "Locked"};
// Flags that not every kernel shows: soft-dirty tracking depends on the configuration; lock-on-fault has letters since 6.7,
// "there may be guards" a flag since 6.18.
constexpr std::array<std::string_view, 3> kFlagsLeftOut{"sd", "lf", "gu"};

bool is_area(const std::string& line) {
  const std::size_t dash = line.find('-');
  const std::size_t blank = line.find(' ');
  return dash != std::string::npos && dash < blank && line.find(':') > blank;
}

std::string flags_of(const std::string& line) {
  std::istringstream words(line.substr(line.find(':') + 1));
  std::string text;
  for (std::string word; words >> word;) {
    if (std::ranges::find(kFlagsLeftOut, word) == kFlagsLeftOut.end()) text += " " + word;
  }
  return text;
}

}  // namespace

std::string describe(const Op& op, const Answer& answer) {
  if (answer.signal != 0) return fmt::format("signal {} code {}", answer.signal, answer.si_code);
  std::string text = answer.error != 0 ? fmt::format("= -1 errno {} ({})", answer.error, std::strerror(answer.error))
                                       : fmt::format("= {:#x}", answer.result);
  if (op.call == Call::kRead || op.call == Call::kWrite) text += fmt::format(", {} minor faults", answer.minor_faults);
  return text;
}

std::string arena_of(std::string_view smaps) {
  std::istringstream lines{std::string(smaps)};
  std::string text;
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (is_area(line)) {
      std::uint64_t begin = 0;
      std::uint64_t end = 0;
      unsigned long offset = 0;
      std::array<char, 5> rights{};
      if (std::sscanf(line.c_str(), "%lx-%lx %4s %lx", &begin, &end, rights.data(), &offset) != 4) continue;
      const bool low = begin < kBase;
      const std::uint64_t base = low ? kLow : kBase;
      inside = low ? begin >= kLow && end <= kLow + kLowPages * kPage * 4 : begin < kArenaEnd;
      if (!inside) continue;
      end = std::min(end, kArenaEnd);  // what lies behind the arena is no matter
      text += fmt::format("{}{}{}-{} {} {:x}:", text.empty() ? "" : "\n", low ? "low " : "", (begin - base) / kPage,
                          (end - base) / kPage, rights.data(), offset);
      continue;
    }
    if (!inside) continue;
    const std::string name = line.substr(0, line.find(':'));
    if (name == "VmFlags") {
      text += flags_of(line);
    } else if (std::ranges::find(kFigures, name) != kFigures.end()) {
      const unsigned long kilobytes = std::stoul(line.substr(line.find(':') + 1));
      if (kilobytes != 0) text += fmt::format(" {} {}", name, kilobytes);
    }
  }
  return text;
}

namespace {

struct Area {
  unsigned long first = 0;
  unsigned long end = 0;
  unsigned long offset = 0;
  std::string kind;                           // where, rights and flags
  std::map<std::string, unsigned long> sums;  // of figures
};

// A line of arena_of().
Area parse_area(const std::string& line, std::span<const std::string_view> figures) {
  Area area;
  std::array<char, 5> rights{};
  const bool low = line.starts_with("low ");
  if (std::sscanf(line.c_str() + (low ? 4 : 0), "%lu-%lu %4s %lx", &area.first, &area.end, rights.data(), &area.offset) != 4) {
    throw std::runtime_error("no area: " + line);
  }
  area.kind = fmt::format("{}{}", low ? "low " : "", rights.data());
  std::istringstream words(line.substr(line.find(':') + 1));
  for (std::string word; words >> word;) {
    unsigned long kilobytes = 0;
    if (std::ranges::find(kFigures, word) == kFigures.end()) {
      area.kind += " " + word;
    } else if (words >> kilobytes && std::ranges::find(figures, word) != figures.end()) {
      area.sums[word] += kilobytes;
    }
  }
  return area;
}

bool joins(const Area& before, const Area& next) {
  return before.end == next.first && before.kind == next.kind &&
         (next.offset == 0 || before.offset + (before.end - before.first) * kPage == next.offset);
}

}  // namespace

std::string merged_areas(const std::string& arena, std::span<const std::string_view> figures) {
  std::vector<Area> areas;
  std::istringstream lines(arena);
  for (std::string line; std::getline(lines, line);) {
    Area area = parse_area(line, figures);
    if (areas.empty() || !joins(areas.back(), area)) {
      areas.push_back(std::move(area));
      continue;
    }
    areas.back().end = area.end;
    for (const auto& [name, kilobytes] : area.sums) areas.back().sums[name] += kilobytes;
  }
  std::string text;
  for (const Area& area : areas) {
    text += fmt::format("{}-{} {:x} {}", area.first, area.end, area.offset, area.kind);
    for (const auto& [name, kilobytes] : area.sums) text += fmt::format(" {} {}", name, kilobytes);
    text += "\n";
  }
  return text;
}

std::int64_t hash_page(const volatile unsigned char* page) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::uint64_t i = 0; i < kPage; ++i) hash = (hash ^ page[i]) * 0x100000001b3;
  return static_cast<std::int64_t>(hash >> 1);
}

}  // namespace quire::differential
