// The files of a recorded machine under /proc and /sys, read back: the same reader serves a recorded folder and what Quire
// itself prints, so that the two are compared by one measure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/types.h"

namespace quire::like {

struct PagesetFigures {
  std::uint64_t cpu = 0, high = 0, batch = 0, threshold = 0;
};

struct ZoneFigures {
  unsigned nid = 0;
  std::string name;
  std::uint64_t start_pfn = 0, spanned = 0, present = 0, managed = 0, cma = 0;
  std::uint64_t min = 0, low = 0, high = 0;  // without the boost of the moment, which the file adds to each
  std::uint64_t boost = 0;
  std::vector<std::uint64_t> protection;
  std::vector<PagesetFigures> pagesets;
  bool whole = false;  // the zone's last line was there

  [[nodiscard]] bool populated() const { return present != 0; }
  [[nodiscard]] Range<Pfn> span() const { return {Pfn(start_pfn), Pfn(start_pfn + spanned)}; }
};
[[nodiscard]] std::vector<ZoneFigures> parse_zoneinfo(std::string_view text);

struct NodeFigures {
  unsigned nid = 0;
  std::vector<unsigned> distances;  // to the nodes of the file, in their order
  std::optional<std::vector<unsigned>> cpus;
  std::optional<std::uint64_t> total_kib;
};
[[nodiscard]] std::vector<NodeFigures> parse_nodes(std::string_view text);

// "min_free_kbytes" → "2743", from lines "/proc/sys/vm/min_free_kbytes: 2743".
[[nodiscard]] std::map<std::string, std::string> parse_sysctl(std::string_view text);

struct IomemLine {
  Range<PhysAddr> range;
  std::string name;
  auto operator<=>(const IomemLine& other) const {
    if (const auto order = range.begin <=> other.range.begin; order != 0) return order;
    if (const auto order = other.range.end <=> range.end; order != 0) return order;  // what contains comes first
    return name <=> other.name;
  }
  bool operator==(const IomemLine&) const = default;
};
struct Iomem {
  std::vector<IomemLine> lines;
  bool hidden = false;  // all addresses are zero: read without the right to see them
};
[[nodiscard]] Iomem parse_iomem(std::string_view text);
// Whether a line follows from the memory map and the kernel's parameters, and not from the devices or the kernel's image.
[[nodiscard]] bool from_memory_map(const IomemLine& line);

// "MemTotal:  480284 kB".
[[nodiscard]] std::optional<std::uint64_t> mem_total_kib(std::string_view meminfo);

}  // namespace quire::like
