#include "quire/like/proc_files.h"

#include <algorithm>
#include <array>

#include "quire/base/cpu_list.h"
#include "quire/like/lines.h"

namespace quire::like {

namespace {

constexpr unsigned kMostCpu = 8191;

// "Node 0, zone    DMA32"
std::optional<ZoneFigures> zone_heading(std::string_view line) {
  const auto words = words_of(line);
  if (words.size() != 4 || words[0] != "Node" || !words[1].ends_with(',') || words[2] != "zone") return std::nullopt;
  const auto nid = decimal(words[1].substr(0, words[1].size() - 1));
  if (!nid) return std::nullopt;
  ZoneFigures zone;
  zone.nid = static_cast<unsigned>(*nid);
  zone.name = words[3];
  return zone;
}

std::vector<std::uint64_t> numbers_in(std::string_view text) {
  std::vector<std::uint64_t> out;
  constexpr std::string_view kDigits = "0123456789";
  for (;;) {
    const std::size_t begin = text.find_first_of(kDigits);
    if (begin == std::string_view::npos) return out;
    text.remove_prefix(begin);
    const std::string_view number = text.substr(0, text.find_first_not_of(kDigits));
    text.remove_prefix(number.size());
    if (const auto value = decimal(number)) out.push_back(*value);
  }
}

void zone_line(ZoneFigures& zone, std::string_view line) {
  const auto words = words_of(line);
  if (words.size() < 2) return;
  if (words[0] == "protection:") {
    zone.protection = numbers_in(line);
    zone.whole = zone.present == 0;
    return;
  }
  const auto value = decimal(words.back());
  if (!value) return;
  const std::pair<std::string_view, std::uint64_t*> figures[] = {{"spanned", &zone.spanned},
                                                                 {"present", &zone.present},
                                                                 {"managed", &zone.managed},
                                                                 {"cma", &zone.cma},
                                                                 {"boost", &zone.boost}};
  for (const auto& [name, into] : figures) {
    if (words[0] == name) *into = *value;
  }
  if (words[0] == "start_pfn:") {
    zone.start_pfn = *value;
    zone.whole = true;
  } else if (words[0] == "cpu:") {
    zone.pagesets.push_back({.cpu = *value});
  } else if (words[0] == "vm" && !zone.pagesets.empty()) {
    zone.pagesets.back().threshold = *value;
  } else if (words[0] == "batch:" && !zone.pagesets.empty()) {
    zone.pagesets.back().batch = *value;
  } else if ((words[0] == "high:" || words[0] == "high_min:") && !zone.pagesets.empty()) {
    zone.pagesets.back().high = *value;
  } else if (words[0] == "min") {
    zone.min = *value - std::min(*value, zone.boost);
  } else if (words[0] == "low") {
    zone.low = *value - std::min(*value, zone.boost);
  } else if (words[0] == "high") {
    zone.high = *value - std::min(*value, zone.boost);
  }
}

}  // namespace

std::vector<ZoneFigures> parse_zoneinfo(std::string_view text) {
  std::vector<ZoneFigures> zones;
  for (const std::string_view line : lines_of(text)) {
    if (auto zone = zone_heading(line)) {
      zones.push_back(std::move(*zone));
    } else if (!zones.empty()) {
      zone_line(zones.back(), line);
    }
  }
  return zones;
}

std::vector<NodeFigures> parse_nodes(std::string_view text) {
  std::vector<NodeFigures> nodes;
  std::string_view file;
  for (const std::string_view line : lines_of(text)) {
    if (line.starts_with("== ")) {
      const auto nid = number_after(line, "/node/node");
      if (!nid) continue;
      nodes.push_back({.nid = static_cast<unsigned>(*nid), .distances = {}, .cpus = {}, .total_kib = {}});
      file = {};
    } else if (line.starts_with("-- ")) {
      file = trim(line.substr(3));
    } else if (nodes.empty()) {
      continue;
    } else if (file == "distance" && nodes.back().distances.empty()) {
      for (const std::uint64_t n : numbers_in(line)) nodes.back().distances.push_back(static_cast<unsigned>(n));
    } else if (file == "cpulist" && !nodes.back().cpus) {
      nodes.back().cpus = parse_number_list(trim(line), kMostCpu);
    } else if (file == "meminfo" && line.find("MemTotal:") != std::string_view::npos) {
      const auto words = words_of(line);
      if (words.size() > 3) nodes.back().total_kib = decimal(words[3]);
    }
  }
  return nodes;
}

std::map<std::string, std::string> parse_sysctl(std::string_view text) {
  std::map<std::string, std::string> values;
  constexpr std::string_view kFolder = "/proc/sys/vm/";
  for (const std::string_view line : lines_of(text)) {
    const std::size_t colon = line.find(':');
    if (!line.starts_with(kFolder) || colon == std::string_view::npos) continue;
    std::string value;
    for (const std::string_view word : words_of(line.substr(colon + 1)))
      value += (value.empty() ? "" : " ") + std::string(word);
    values[std::string(line.substr(kFolder.size(), colon - kFolder.size()))] = value;
  }
  return values;
}

Iomem parse_iomem(std::string_view text) {
  Iomem out;
  bool any_address = false;
  for (const std::string_view line : lines_of(text)) {
    const std::size_t colon = line.find(" : ");
    if (colon == std::string_view::npos) continue;
    const auto range = address_range(trim(line.substr(0, colon)));
    if (!range) continue;
    any_address = any_address || range->size() > 1;
    out.lines.push_back({*range, std::string(trim(line.substr(colon + 3)))});
  }
  out.hidden = !out.lines.empty() && !any_address;
  return out;
}

bool from_memory_map(const IomemLine& line) {
  constexpr std::array<std::string_view, 8> kNames = {
      "System RAM",      "Reserved",          "ACPI Tables", "ACPI Non-volatile Storage",
      "Unusable memory", "Persistent Memory", "RAM buffer",  "Persistent Memory (legacy)"};
  return std::ranges::find(kNames, line.name) != kNames.end();
}

std::optional<std::uint64_t> mem_total_kib(std::string_view meminfo) {
  for (const std::string_view line : lines_of(meminfo)) {
    const auto words = words_of(line);
    if (words.size() >= 2 && words[0] == "MemTotal:") return decimal(words[1]);
  }
  return std::nullopt;
}

}  // namespace quire::like
