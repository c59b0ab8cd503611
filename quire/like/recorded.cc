#include "quire/like/recorded.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "quire/like/lines.h"
#include "quire/like/parts.h"
#include "quire/phys/kernel_parameters.h"
#include "quire/phys/page.h"
#include "quire/phys/range_set.h"

namespace quire::like {

namespace {

// Words in a kernel's version or log that no x86-64 kernel has.
constexpr std::array<std::string_view, 9> kOtherArchitectures = {"aarch64", "arm64",   "armv7",  "ppc64",    "powerpc",
                                                                 "s390x",   "riscv64", "mips64", "loongarch"};

std::string first_words(std::string_view text, std::size_t n) {
  std::string out;
  for (const std::string_view word : words_of(text)) {
    if (n-- == 0) break;
    out += (out.empty() ? "" : " ") + std::string(word);
  }
  return out;
}

std::string kernel_version(const Evidence& evidence) {
  if (!evidence.log.version.empty()) return evidence.log.version;
  std::string_view text = evidence.folder.text("version.txt");
  constexpr std::string_view kOpening = "Linux version ";
  if (text.starts_with(kOpening)) text.remove_prefix(kOpening.size());
  return std::string(trim(text.substr(0, text.find('\n'))));
}

// A type that our maps do not have is kept from use: "type 20", "soft reserved".
phys::FirmwareMap map_of(const std::vector<MapLine>& lines, std::vector<std::string>& notes) {
  constexpr std::array kTypes = {phys::E820Type::kRam, phys::E820Type::kReserved, phys::E820Type::kAcpi,
                                 phys::E820Type::kNvs, phys::E820Type::kUnusable, phys::E820Type::kPmem,
                                 phys::E820Type::kPram};
  phys::FirmwareMap map;
  for (const MapLine& line : lines) {
    const auto type = std::ranges::find(kTypes, std::string_view(line.type), phys::e820_type_name);
    if (type == kTypes.end()) {
      notes.push_back(fmt::format("the map's '{}' at {:#x}-{:#x} is taken as reserved", line.type, line.range.begin.value(),
                                  line.range.end.value() - 1));
    }
    map.add(line.range, type == kTypes.end() ? phys::E820Type::kReserved : *type);
  }
  map.sanitize();
  return map;
}

std::vector<MapLine> map_from_iomem(const Iomem& iomem) {
  constexpr std::pair<std::string_view, std::string_view> kTypes[] = {{"System RAM", "usable"},
                                                                      {"Reserved", "reserved"},
                                                                      {"reserved", "reserved"},
                                                                      {"ACPI Tables", "ACPI data"},
                                                                      {"ACPI Non-volatile Storage", "ACPI NVS"},
                                                                      {"Unusable memory", "unusable"},
                                                                      {"Persistent Memory", "persistent (type 7)"},
                                                                      {"Persistent Memory (legacy)", "persistent (type 12)"}};
  std::vector<MapLine> out;
  if (iomem.hidden) return out;
  for (const IomemLine& line : iomem.lines) {
    for (const auto& [name, type] : kTypes) {
      if (line.name == name) out.push_back({line.range, std::string(type)});
    }
  }
  return out;
}

// The words that Quire's kernel takes; one that only Linux understands is left out and said.
std::string words_taken(std::string_view cmdline, const phys::FirmwareMap& map, std::vector<std::string>& notes) {
  std::string out;
  for (const std::string_view word : words_of(cmdline)) {
    phys::FirmwareMap copy = map;
    if (!phys::KernelParameters::parse(word, copy)) {
      notes.push_back(fmt::format("the kernel parameter '{}' is left out", word));
      continue;
    }
    out += (out.empty() ? "" : " ") + std::string(word);
  }
  return out;
}

// Of a command line, the words that do not change the map.
std::string without_map_words(std::string_view cmdline) {
  std::string out;
  for (const std::string_view word : words_of(cmdline)) {
    if (word.starts_with("mem=") || word.starts_with("memmap=")) continue;
    out += (out.empty() ? "" : " ") + std::string(word);
  }
  return out;
}

// A kernel that the parameters leave without the memory of its own image or initrd adds it to the map. What the log counts as a
// node's memory and the parameters do not is put back, in their own words.
void add_what_the_kernel_added(const Evidence& evidence, RecordedMachine& machine) {
  phys::FirmwareMap usable = *machine.config.firmware_map;
  if (!phys::KernelParameters::parse(machine.config.cmdline, usable)) return;
  phys::RangeSet ram;
  for (const phys::E820Entry& e : usable.entries()) {
    if (e.type == phys::E820Type::kRam) ram.add(e.range);
  }
  for (const NodeRange& node : evidence.log.node_ranges) {
    for (const Range<PhysAddr>& gap : ram.gaps(node.range)) {
      machine.config.cmdline += fmt::format(" memmap={:#x}@{:#x}", gap.size(), gap.begin.value());
      machine.notes.push_back(fmt::format("{:#x}-{:#x} is counted as RAM, as the kernel did: it lay there itself",
                                          gap.begin.value(), gap.end.value() - 1));
    }
  }
}

}  // namespace

std::optional<unsigned> zone_type(std::string_view name) {
  constexpr std::array<std::string_view, 5> kNames = {"DMA", "DMA32", "Normal", "Movable", "Device"};
  const auto it = std::ranges::find(kNames, name);
  if (it == kNames.end()) return std::nullopt;
  using Zone = phys::ZoneType;
  constexpr std::array kTypes = {Zone::kDma, Zone::kDma32, Zone::kNormal, Zone::kMovable, Zone::kDevice};
  return static_cast<unsigned>(kTypes[static_cast<std::size_t>(it - kNames.begin())]);
}

std::optional<std::size_t> protection_index(std::string_view name) {
  constexpr std::array<std::string_view, 5> kNames = {"DMA", "DMA32", "Normal", "Movable", "Device"};
  const auto it = std::ranges::find(kNames, name);
  return it == kNames.end() ? std::nullopt : std::optional(static_cast<std::size_t>(it - kNames.begin()));
}

Evidence read_evidence(const Folder& folder) {
  Evidence evidence{.folder = folder,
                    .log = parse_boot_log(folder.text("dmesg.txt")),
                    .zones = parse_zoneinfo(folder.text("zoneinfo.txt")),
                    .nodes = parse_nodes(folder.text("nodes.txt")),
                    .sysctl = parse_sysctl(folder.text("sysctl_vm.txt")),
                    .iomem = parse_iomem(folder.text("iomem.txt"))};
  return evidence;
}

Checked<void> take_kernel(const Evidence& evidence, RecordedMachine& machine) {
  const std::string version = kernel_version(evidence);
  const std::string_view dmesg = evidence.folder.text("dmesg.txt");
  const std::string_view path = evidence.folder.path;
  if (evidence.log.firmware_map.empty()) {
    for (const std::string_view other : kOtherArchitectures) {
      if (version.find(other) == std::string::npos) continue;
      return user_error(fmt::format("{}: its kernel ({}) is of another architecture; only x86-64 machines can be booted", path,
                                    first_words(version, 1)));
    }
    if (dmesg.find("Booting Linux on physical CPU") != std::string_view::npos) {
      return user_error(fmt::format("{}: its log is of an ARM machine; only x86-64 machines can be booted", path));
    }
  }
  if (std::ranges::any_of(evidence.zones, [](const ZoneFigures& z) { return z.name == "HighMem"; })) {
    return user_error(
        fmt::format("{}: it has a HighMem zone, so its kernel is a 32-bit one; only x86-64 machines can be booted", path));
  }
  const auto broken = std::ranges::find_if(evidence.zones, [](const ZoneFigures& z) { return !z.whole; });
  if (broken != evidence.zones.end()) {
    return user_error(
        fmt::format("{}/zoneinfo.txt: zone {} of node {} breaks off; copy the whole file", path, broken->name, broken->nid));
  }
  if (evidence.folder.has("zoneinfo.txt") && evidence.zones.empty()) {
    return user_error(fmt::format("{}/zoneinfo.txt: no line says 'Node N, zone NAME'; copy the text of /proc/zoneinfo", path));
  }
  if (version.empty()) {
    machine.notes.emplace_back("neither dmesg.txt nor version.txt says which kernel it was; it is taken as 6.1");
  } else if (!version.starts_with("6.1.") && !version.starts_with("6.1-")) {
    machine.notes.push_back(
        fmt::format("the kernel was {}; what follows is what 6.1 makes of the same machine", first_words(version, 1)));
  }
  if (evidence.log.boots > 1) {
    machine.notes.push_back(fmt::format("dmesg.txt holds {} boots; the last one counts", evidence.log.boots));
  }
  if (!dmesg.empty() && !evidence.log.from_the_start)
    machine.notes.emplace_back("dmesg.txt has lost the beginning of the boot");
  return {};
}

Checked<void> take_map(const Evidence& evidence, RecordedMachine& machine) {
  kernel::MachineConfig& config = machine.config;
  const std::string_view path = evidence.folder.path;
  std::vector<MapLine> lines = evidence.log.firmware_map;
  bool of_firmware = !lines.empty();
  if (lines.empty() && evidence.folder.has("memmap.txt")) {
    lines = parse_boot_log(evidence.folder.text("memmap.txt")).firmware_map;
    of_firmware = !lines.empty();
    if (of_firmware) machine.notes.emplace_back("the map is that of memmap.txt: dmesg.txt has no BIOS-e820 lines");
  }
  if (lines.empty()) {
    lines = map_from_iomem(evidence.iomem);
    if (!lines.empty()) machine.notes.emplace_back("the map is that of iomem.txt: dmesg.txt has no BIOS-e820 lines");
  }
  if (lines.empty()) {
    return user_error(fmt::format(
        "{}: nothing says where its memory lies: no BIOS-e820 lines in dmesg.txt, no memmap.txt, {}; copy one of them", path,
        evidence.iomem.hidden ? "and iomem.txt was read without the right to see addresses" : "no System RAM in iomem.txt"));
  }
  phys::FirmwareMap map = map_of(lines, machine.notes);
  for (const Range<PhysAddr>& range : evidence.log.removed_ram) map.remove(range, phys::E820Type::kRam);
  for (const Range<PhysAddr>& range : evidence.log.reserved_ram) {
    map.update(range, phys::E820Type::kRam, phys::E820Type::kReserved);
  }
  map.sanitize();
  if (map.ram_bytes() == 0) return user_error(fmt::format("{}: no range of its memory map is usable", path));
  config.ram = map.ram_bytes();
  config.firmware_map = std::move(map);

  std::string_view cmdline = evidence.folder.text("cmdline.txt");
  cmdline = trim(cmdline.substr(0, cmdline.find('\n')));
  config.cmdline = evidence.log.cmdline.value_or(std::string(cmdline));
  config.cmdline = words_taken(config.cmdline, *config.firmware_map, machine.notes);
  if (!of_firmware) config.cmdline = without_map_words(config.cmdline);
  if (of_firmware) add_what_the_kernel_added(evidence, machine);
  return {};
}

Checked<RecordedMachine> describe(const Folder& folder) {
  const Evidence evidence = read_evidence(folder);
  RecordedMachine machine;
  machine.config.recorded.emplace();
  for (const auto step : {take_kernel, take_map, take_nodes, take_reservations}) {
    if (auto ok = step(evidence, machine); !ok) return std::unexpected(ok.error());
  }
  take_resources(evidence, machine);
  if (auto ok = take_tunables(evidence, machine); !ok) return std::unexpected(ok.error());
  return machine;
}

}  // namespace quire::like
