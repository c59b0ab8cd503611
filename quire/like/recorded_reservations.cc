// What the recorded kernel had reserved, what it freed later, and the lines of iomem that no map tells.
#include <fmt/format.h>

#include <algorithm>

#include "quire/like/lines.h"
#include "quire/like/parts.h"
#include "quire/phys/memblock.h"

namespace quire::like {

namespace {

constexpr std::uint64_t kKibPerPage = kPageSize / kKiB;

struct Freed {
  std::string what;
  Range<PhysAddr> range;  // where it lay; empty: not known
  std::uint64_t pages = 0;
  bool before_watermarks = false;
  [[nodiscard]] bool exact() const { return whole_pages(range).size() == pages; }
};

// Where the kernel's image lies, from the sections in iomem.
//
//   code │ gap │ rodata │ gap │ data … init │ smp locks │ bss … decrypted │
struct Image {
  Range<PhysAddr> code{}, rodata{}, data{}, bss{};
  [[nodiscard]] bool known() const { return !code.empty() && !bss.empty(); }
};

Image image_of(const Iomem& iomem) {
  Image image;
  if (iomem.hidden) return image;
  for (const IomemLine& line : iomem.lines) {
    if (line.name == "Kernel code") image.code = line.range;
    if (line.name == "Kernel rodata") image.rodata = line.range;
    if (line.name == "Kernel data") image.data = line.range;
    if (line.name == "Kernel bss") image.bss = line.range;
  }
  return image;
}

bool names(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// Ranges that end where the next section begins, or at the end of bss.
Range<PhysAddr> ending_at(PhysAddr end, std::uint64_t bytes) { return {end - std::min(bytes, end.value()), end}; }

Range<PhysAddr> freed_range(const Evidence& evidence, const Image& image, const FreedMemory& freed) {
  const std::uint64_t bytes = freed.kib * kKiB;
  if (freed.what == "initrd") return evidence.log.ramdisk.value_or(Range<PhysAddr>{});
  if (!image.known()) return {};
  const auto smp = std::ranges::find(evidence.log.freed, "SMP alternatives", &FreedMemory::what);
  const std::uint64_t smp_bytes = smp == evidence.log.freed.end() ? 0 : smp->kib * kKiB;
  if (freed.what == "SMP alternatives") return ending_at(image.bss.begin, bytes);
  if (names(freed.what, "decrypted")) return ending_at(image.bss.end, bytes);
  if (names(freed.what, "text/rodata gap") && !image.rodata.empty()) {
    return {align_up(image.code.end, kPageSize), image.rodata.begin};
  }
  if (names(freed.what, "rodata/data gap") && !image.rodata.empty() && !image.data.empty()) {
    return {align_up(image.rodata.end, kPageSize), image.data.begin};
  }
  if (names(freed.what, "initmem") || freed.what == "unused kernel image" || freed.what == "unused kernel") {
    return ending_at(image.bss.begin - smp_bytes, bytes);
  }
  return {};
}

// Only what is known to come free after or before the watermarks are computed; what else the log calls freed is no matter of
// the zones (or not of boot).
std::vector<Freed> freed_at_boot(const Evidence& evidence, const Image& image) {
  std::vector<Freed> out;
  for (const FreedMemory& freed : evidence.log.freed) {
    const bool smp = freed.what == "SMP alternatives";
    if (!smp && freed.what != "initrd" && !names(freed.what, "unused ")) continue;
    out.push_back({freed.what, freed_range(evidence, image, freed), freed.kib / kKibPerPage, smp});
    // Without the sections' addresses: by its size only. With them, what the log says and where it lay agree.
    if (freed.what == "initrd" && !out.back().range.empty()) out.back().pages = whole_pages(out.back().range).size();
  }
  return out;
}

// Pages of a range in each of the zones, by the memory of their nodes.
class ZonePages {
 public:
  ZonePages(const Evidence& evidence, const std::vector<phys::NodeConfig>& nodes) : zones_(evidence.zones), nodes_(nodes) {}

  [[nodiscard]] std::uint64_t in(Range<Pfn> pfns, const ZoneFigures& zone) const {
    std::uint64_t pages = 0;
    if (zone.nid >= nodes_.size()) return 0;
    for (const Range<PhysAddr>& memory : nodes_[zone.nid].memory) {
      pages += whole_pages(memory).intersect(zone.span()).intersect(pfns).size();
    }
    return pages;
  }
  [[nodiscard]] std::vector<std::uint64_t> by_zone(Range<PhysAddr> range) const {
    std::vector<std::uint64_t> out;
    for (const ZoneFigures& zone : zones_) out.push_back(in(whole_pages(range), zone));
    return out;
  }

 private:
  const std::vector<ZoneFigures>& zones_;
  const std::vector<phys::NodeConfig>& nodes_;
};

// How many pages of each zone came free after the watermarks, and how many that nobody can place.
struct LatePages {
  std::vector<std::uint64_t> by_zone;
  std::uint64_t unplaced = 0;
};

LatePages late_pages(const Evidence& evidence, const ZonePages& zones, const std::vector<Freed>& freed) {
  LatePages late{std::vector<std::uint64_t>(evidence.zones.size(), 0), 0};
  for (const Freed& f : freed) {
    if (f.before_watermarks) continue;
    std::uint64_t placed = 0;
    const auto parts = zones.by_zone(f.range);
    for (const std::uint64_t part : parts) placed += part;
    // A range that is not just as long as the log says still tells the zone, when it lies in one.
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (f.exact()) late.by_zone[i] += parts[i];
      if (!f.exact() && parts[i] != 0 && parts[i] == placed) late.by_zone[i] += f.pages;
    }
    const bool in_one = std::ranges::count_if(parts, [](std::uint64_t p) { return p != 0; }) == 1;
    if (f.exact() ? placed == 0 : !in_one) late.unplaced += f.pages;
  }
  return late;
}

// The watermarks say in which zone the image lay: min is min_free_kbytes, shared out by what each zone managed then.
std::size_t zone_of_unplaced(const Evidence& evidence, const LatePages& late) {
  const auto& zones = evidence.zones;
  const auto text = evidence.sysctl.find("min_free_kbytes");
  const auto min_free = text == evidence.sysctl.end() ? std::nullopt : decimal(text->second);
  std::size_t largest = 0;
  for (std::size_t i = 1; i < zones.size(); ++i) {
    if (zones[i].managed > zones[largest].managed) largest = i;
  }
  if (!min_free) return largest;
  for (std::size_t candidate = 0; candidate < zones.size(); ++candidate) {
    if (zones[candidate].managed < late.by_zone[candidate] + late.unplaced) continue;
    std::vector<std::uint64_t> managed;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < zones.size(); ++i) {
      managed.push_back(zones[i].managed - std::min(zones[i].managed, late.by_zone[i] + (i == candidate ? late.unplaced : 0)));
      sum += managed.back();
    }
    bool fits = sum != 0;
    for (std::size_t i = 0; i < zones.size() && fits; ++i) fits = *min_free / kKibPerPage * managed[i] / sum == zones[i].min;
    if (fits) return candidate;
  }
  return largest;
}

// Zone by zone, what makes `managed` agree.
void reserve_sums(const Evidence& evidence, const std::vector<Freed>& freed, RecordedMachine& machine) {
  const ZonePages zone_pages(evidence, machine.config.node);
  LatePages late = late_pages(evidence, zone_pages, freed);
  if (late.unplaced != 0) late.by_zone[zone_of_unplaced(evidence, late)] += late.unplaced;
  for (std::size_t i = 0; i < evidence.zones.size(); ++i) {
    const ZoneFigures& zone = evidence.zones[i];
    const auto type = zone_type(zone.name);
    if (!zone.populated() || !type || zone.name == "Device") continue;
    machine.config.recorded->zone_managed.push_back({.nid = Nid(static_cast<int>(zone.nid)),
                                                     .zone = *type,
                                                     .at_watermarks = zone.managed - std::min(zone.managed, late.by_zone[i]),
                                                     .at_end = zone.managed});
  }
}

// What memblock left, in whole pages, of a range of memory.
std::uint64_t free_pages(const phys::Memblock& memblock, Range<Pfn> within, const std::vector<Range<PhysAddr>>& memory) {
  std::uint64_t pages = 0;
  memblock.for_each_free_range([&](Range<PhysAddr> range, Nid) {
    for (const Range<PhysAddr>& part : memory) pages += whole_pages(range.intersect(part)).intersect(within).size();
  });
  return pages;
}

// Takes the log's memblock lines; false (with a note) when they do not lead to what zoneinfo.txt says.
bool reserve_as_logged(const Evidence& evidence, const std::vector<Freed>& freed, RecordedMachine& machine) {
  if (!evidence.log.reserved || machine.config.node.empty()) return false;
  const auto refuse = [&machine](std::string why) {
    machine.notes.push_back("the log's memblock lines are not used: " + std::move(why));
    return false;
  };
  phys::Memblock memblock;
  for (const phys::NodeConfig& node : machine.config.node) {
    for (const Range<PhysAddr>& range : node.memory) memblock.add(range);
  }
  for (const Range<PhysAddr>& range : *evidence.log.reserved) memblock.reserve(range);
  std::vector<phys::Reservation> late;
  for (const Freed& f : freed) {
    if (!f.exact()) return refuse(fmt::format("where the memory of '{}' lay is not known", f.what));
    if (f.before_watermarks) {
      memblock.free(f.range);
    } else {
      late.push_back({f.range, f.what});
    }
  }
  const ZonePages zone_pages(evidence, machine.config.node);
  for (const ZoneFigures& zone : evidence.zones) {
    if (!zone.populated() || zone.nid >= machine.config.node.size() || zone.name == "Device") continue;
    std::uint64_t managed = free_pages(memblock, zone.span(), machine.config.node[zone.nid].memory);
    for (const phys::Reservation& r : late) managed += zone_pages.in(whole_pages(r.range), zone);
    if (managed != zone.managed) {
      return refuse(fmt::format("they leave zone {} of node {} with {} pages, zoneinfo.txt has {}", zone.name, zone.nid,
                                managed, zone.managed));
    }
  }
  for (const phys::MemblockRegion& r : memblock.reserved()) machine.config.recorded->reserved.push_back(r.range);
  machine.config.recorded->freed_late = std::move(late);
  return true;
}

// Without zoneinfo.txt: as much as the log's "Memory:" line counts, as one piece, less what boot reserves on its own.
void reserve_by_memory_line(const Evidence& evidence, RecordedMachine& machine) {
  kernel::MachineConfig& config = machine.config;
  if (!evidence.log.memory) {
    machine.notes.push_back(
        fmt::format("what its zones managed is not known: the kernel gets {}M", config.kernel_reserved >> 20));
    return;
  }
  const std::uint64_t reserved = evidence.log.memory->reserved_kib * kKiB;
  const std::uint64_t own = config.ram / kPageSize * 64 + kMiB;  // the memory map, and low memory
  config.kernel_reserved = align_up(reserved - std::min(reserved, own), kMiB);
  machine.notes.push_back(
      fmt::format("what each zone managed is not known (no zoneinfo.txt): {}K are reserved in all, as the log says",
                  evidence.log.memory->reserved_kib));
}

}  // namespace

Checked<void> take_reservations(const Evidence& evidence, RecordedMachine& machine) {
  const Image image = image_of(evidence.iomem);
  const std::vector<Freed> freed = freed_at_boot(evidence, image);
  if (evidence.zones.empty()) {
    reserve_by_memory_line(evidence, machine);
    return {};
  }
  for (const ZoneFigures& zone : evidence.zones) {
    if (!zone_type(zone.name)) {
      return user_error(fmt::format("{}/zoneinfo.txt: a zone {} is unknown; zones are DMA, DMA32, Normal, Movable, Device",
                                    evidence.folder.path, zone.name));
    }
  }
  machine.config.kernel_reserved = 0;
  if (reserve_as_logged(evidence, freed, machine)) return {};
  if (freed.empty()) {
    machine.notes.emplace_back(
        "what came free at the end of the boot is not known (no 'Freeing' lines in dmesg.txt), so watermarks "
        "may be a little off");
  }
  reserve_sums(evidence, freed, machine);
  return {};
}

void take_resources(const Evidence& evidence, RecordedMachine& machine) {
  if (evidence.iomem.hidden) {
    machine.notes.emplace_back("iomem.txt was read without the right to see addresses, so devices are not known");
    return;
  }
  for (const IomemLine& line : evidence.iomem.lines) {
    if (!from_memory_map(line)) machine.config.recorded->resources.push_back({line.range, line.name});
  }
}

}  // namespace quire::like
