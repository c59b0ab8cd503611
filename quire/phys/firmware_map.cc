#include "quire/phys/firmware_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>

namespace quire::phys {

namespace {

constexpr std::uint64_t kGap = 4 * kGiB;
constexpr std::uint64_t kEndOfAddresses = 64 * kTiB;  // 46 bits

Range<PhysAddr> bytes_at(std::uint64_t begin, std::uint64_t end) { return {PhysAddr(begin), PhysAddr(end)}; }

}  // namespace

std::string_view e820_type_name(E820Type type) {
  switch (type) {
    case E820Type::kRam: return "usable";
    case E820Type::kReserved: return "reserved";
    case E820Type::kAcpi: return "ACPI data";
    case E820Type::kNvs: return "ACPI NVS";
    case E820Type::kUnusable: return "unusable";
    case E820Type::kPmem: return "persistent (type 7)";
    case E820Type::kPram: return "persistent (type 12)";
  }
  return "unknown";
}

FirmwareMap FirmwareMap::pc(std::uint64_t ram_bytes) {
  // RAM that would reach 3.5 GiB is split at 3 GiB, so that the part above 4 GiB starts at a whole GiB.
  constexpr std::uint64_t kLowmemLimit = 0xe000'0000;
  constexpr std::uint64_t kLowmemSplit = 3 * kGiB;
  // From the fifth module of 16 GiB on, the description of the modules (SMBIOS) needs a page of its own up there.
  const std::uint64_t acpi_tables = ram_bytes > 64 * kGiB ? 132 * kKiB : 128 * kKiB;
  // An AMD processor's HyperTransport stretch: RAM that would touch it moves up as a whole.
  constexpr std::uint64_t kHtStart = 0xfd'0000'0000;
  constexpr std::uint64_t kHtEnd = kTiB;

  const std::uint64_t below = ram_bytes >= kLowmemLimit ? kLowmemSplit : ram_bytes;
  const std::uint64_t above = ram_bytes - below;
  const std::uint64_t above_start = kGap + above > kHtStart ? kHtEnd : kGap;

  FirmwareMap map;
  const std::uint64_t conventional = std::min<std::uint64_t>(below, 0x9fc00);
  map.add(bytes_at(0, conventional), E820Type::kRam);
  map.add(bytes_at(0x9fc00, 0xa0000), E820Type::kReserved);
  map.add(bytes_at(0xf0000, 0x100000), E820Type::kReserved);
  if (below > kMiB + acpi_tables) {
    map.add(bytes_at(kMiB, below - acpi_tables), E820Type::kRam);
    map.add(bytes_at(below - acpi_tables, below), E820Type::kReserved);
  }
  map.add(bytes_at(0xfffc0000, kGap), E820Type::kReserved);
  if (above != 0) map.add(bytes_at(above_start, above_start + above), E820Type::kRam);
  map.add(bytes_at(kHtStart, kHtEnd), E820Type::kReserved);
  map.sanitize();
  return map;
}

BootResult<FirmwareMap> FirmwareMap::parse(std::string_view text) {
  constexpr std::array kTypes = {E820Type::kRam,      E820Type::kReserved, E820Type::kAcpi, E820Type::kNvs,
                                 E820Type::kUnusable, E820Type::kPmem,     E820Type::kPram};
  constexpr std::string_view kFirmwareLines = "BIOS-e820:";
  const bool log = text.find(kFirmwareLines) != std::string_view::npos;
  FirmwareMap map;
  unsigned number = 0;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    ++number;
    const std::size_t at = line.find("[mem 0x");
    if (at == std::string_view::npos || (log && line.find(kFirmwareLines) == std::string_view::npos)) continue;
    const auto wrong = [&](std::string_view why) { return boot_error(fmt::format("line {}: {}: {}", number, why, line)); };
    std::string_view rest = line.substr(at + 5);
    const auto address = [&rest]() -> std::optional<std::uint64_t> {
      if (!rest.starts_with("0x")) return std::nullopt;
      std::uint64_t value = 0;
      const auto [end, error] = std::from_chars(rest.data() + 2, rest.data() + rest.size(), value, 16);
      if (error != std::errc{}) return std::nullopt;
      rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
      return value;
    };
    const auto first = address();
    if (!first || !rest.starts_with('-')) return wrong("write [mem 0xFIRST-0xLAST] and a type");
    rest.remove_prefix(1);
    const auto last = address();
    if (!last || !rest.starts_with("] ")) return wrong("write [mem 0xFIRST-0xLAST] and a type");
    if (*last < *first) return wrong("the range ends before it begins");
    rest.remove_prefix(2);
    while (rest.ends_with('\r') || rest.ends_with(' ')) rest.remove_suffix(1);
    const auto type = std::ranges::find(kTypes, rest, e820_type_name);
    if (type == kTypes.end()) {
      return wrong(
          "unknown type; known are usable, reserved, ACPI data, ACPI NVS, unusable, persistent (type 7), "
          "persistent (type 12)");
    }
    const bool memory = *type == E820Type::kRam || *type == E820Type::kPram;
    if (memory && *last >= kEndOfAddresses) return wrong("memory beyond the address space of 46 bits; leave the line out");
    const std::uint64_t end = *last == std::numeric_limits<std::uint64_t>::max() ? *last : *last + 1;
    map.add({PhysAddr(*first), PhysAddr(end)}, *type);
  }
  if (map.entries_.empty()) return boot_error("no line has the form [mem 0xFIRST-0xLAST] TYPE");
  map.sanitize();
  if (map.ram_bytes() == 0) return boot_error("no range of the map is usable RAM");
  return map;
}

void FirmwareMap::add(Range<PhysAddr> range, E820Type type) {
  if (!range.empty()) entries_.push_back({range, type});
}

std::uint64_t FirmwareMap::update(Range<PhysAddr> range, E820Type from, E820Type to) {
  std::uint64_t changed = 0;
  std::vector<E820Entry> out;
  for (const E820Entry& e : entries_) {
    const Range<PhysAddr> hit = e.range.intersect(range);
    if (e.type != from || hit.empty()) {
      out.push_back(e);
      continue;
    }
    if (e.range.begin < hit.begin) out.push_back({{e.range.begin, hit.begin}, e.type});
    out.push_back({hit, to});
    if (hit.end < e.range.end) out.push_back({{hit.end, e.range.end}, e.type});
    changed += hit.size();
  }
  entries_ = std::move(out);
  return changed;
}

std::uint64_t FirmwareMap::remove(Range<PhysAddr> range, E820Type type) {
  return remove_if(range, [type](E820Type t) { return t == type; });
}

std::uint64_t FirmwareMap::remove(Range<PhysAddr> range) {
  return remove_if(range, [](E820Type) { return true; });
}

template <class Matches>
std::uint64_t FirmwareMap::remove_if(Range<PhysAddr> range, Matches&& matches) {
  std::uint64_t removed = 0;
  std::vector<E820Entry> out;
  for (const E820Entry& e : entries_) {
    const Range<PhysAddr> hit = e.range.intersect(range);
    if (!matches(e.type) || hit.empty()) {
      out.push_back(e);
      continue;
    }
    if (e.range.begin < hit.begin) out.push_back({{e.range.begin, hit.begin}, e.type});
    if (hit.end < e.range.end) out.push_back({{hit.end, e.range.end}, e.type});
    removed += hit.size();
  }
  entries_ = std::move(out);
  return removed;
}

void FirmwareMap::sanitize() {
  std::vector<PhysAddr> edges;
  for (const E820Entry& e : entries_) {
    edges.push_back(e.range.begin);
    edges.push_back(e.range.end);
  }
  std::ranges::sort(edges);
  edges.erase(std::ranges::unique(edges).begin(), edges.end());

  std::vector<E820Entry> out;
  for (std::size_t i = 0; i + 1 < edges.size(); ++i) {
    const Range<PhysAddr> piece{edges[i], edges[i + 1]};
    const E820Entry* top = nullptr;
    for (const E820Entry& e : entries_) {
      if (e.range.contains(piece) && (top == nullptr || e.type > top->type)) top = &e;
    }
    if (top == nullptr) continue;
    if (!out.empty() && out.back().type == top->type && out.back().range.end == piece.begin) {
      out.back().range.end = piece.end;
    } else {
      out.push_back({piece, top->type});
    }
  }
  entries_ = std::move(out);
}

std::uint64_t FirmwareMap::ram_bytes() const {
  std::uint64_t bytes = 0;
  for (const E820Entry& e : entries_) {
    if (e.type == E820Type::kRam) bytes += e.range.size();
  }
  return bytes;
}

PhysAddr FirmwareMap::end_of_ram() const {
  PhysAddr end{};
  for (const E820Entry& e : entries_) {
    if (e.type == E820Type::kRam) end = std::max(end, e.range.end);
  }
  return end;
}

std::vector<std::string> FirmwareMap::lines(std::string_view who) const {
  std::vector<std::string> out;
  for (const E820Entry& e : entries_) {
    out.push_back(fmt::format("{}: [mem {:#018x}-{:#018x}] {}", who, e.range.begin.value(), e.range.end.value() - 1,
                              e820_type_name(e.type)));
  }
  return out;
}

}  // namespace quire::phys
