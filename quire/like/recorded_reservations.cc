// What the recorded kernel had reserved, what it freed later, and the lines of iomem that no map tells.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "quire/like/lines.h"
#include "quire/like/parts.h"
#include "quire/phys/range_set.h"

namespace quire::like {

namespace {

constexpr std::uint64_t kKibPerPage = kPageSize / kKiB;

// When memory came to its zones, by the moments at which Linux computes watermarks: init_per_zone_wmark_min, then the start of
// huge pages.
enum class Moment : std::uint8_t { kBeforeBoth, kBetween, kHugetlb, kAfterBoth };

struct Freed {
  std::string what;
  std::vector<Range<PhysAddr>> ranges;  // where it lay; empty: not known
  std::uint64_t pages = 0;
  Moment moment = Moment::kAfterBoth;
  // The ranges are just as long as the log says.
  [[nodiscard]] bool exact() const {
    std::uint64_t sum = 0;
    for (const Range<PhysAddr>& range : ranges) sum += whole_pages(range).size();
    return !ranges.empty() && sum == pages;
  }
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

// EFI's boot services below 1 MiB stay reserved, like all of it.
std::vector<Range<PhysAddr>> above_low_memory(const std::vector<Range<PhysAddr>>& ranges) {
  std::vector<Range<PhysAddr>> out;
  for (Range<PhysAddr> range : ranges) {
    range.begin = std::max(range.begin, PhysAddr(kMiB));
    if (!range.empty()) out.push_back(range);
  }
  return out;
}

// What is known to come to the zones while watermarks are computed; what else the log calls freed is no matter of the zones.
std::vector<Freed> freed_at_boot(const Evidence& evidence, const Image& image) {
  std::vector<Freed> out;
  for (const FreedMemory& freed : evidence.log.freed) {
    Freed part{.what = freed.what, .ranges = {}, .pages = freed.kib / kKibPerPage};
    if (names(freed.what, "EFI boot services")) {
      part.moment = Moment::kBetween;
      part.ranges = above_low_memory(evidence.log.efi_boot_services);
    } else if (freed.what == "SMP alternatives" || freed.what == "initrd" || names(freed.what, "unused ")) {
      if (freed.what == "SMP alternatives") part.moment = Moment::kBeforeBoth;
      const Range<PhysAddr> range = freed_range(evidence, image, freed);
      if (!range.empty()) part.ranges = {range};
      if (freed.what == "initrd" && !range.empty()) part.pages = whole_pages(range).size();
    } else {
      continue;
    }
    out.push_back(std::move(part));
  }
  if (evidence.log.gigantic_bytes != 0) {
    out.push_back({"gigantic pages", evidence.log.gigantic_pages, evidence.log.gigantic_bytes / kPageSize, Moment::kHugetlb});
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

// Of each moment, how many pages came to each zone, and how many that nobody can place.
struct Shares {
  std::vector<std::uint64_t> by_zone;
  std::uint64_t unplaced = 0;
};

Shares shares_of(const Evidence& evidence, const ZonePages& zones, const std::vector<Freed>& freed, Moment moment) {
  Shares shares{std::vector<std::uint64_t>(evidence.zones.size(), 0), 0};
  for (const Freed& f : freed) {
    if (f.moment != moment) continue;
    std::vector<std::uint64_t> parts(evidence.zones.size(), 0);
    for (const Range<PhysAddr>& range : f.ranges) {
      const auto of_range = zones.by_zone(range);
      for (std::size_t i = 0; i < parts.size(); ++i) parts[i] += of_range[i];
    }
    // Ranges that are not just as long as the log says still tell the zone, when they lie in one.
    const auto touched = std::ranges::count_if(parts, [](std::uint64_t p) { return p != 0; });
    if (f.exact() ? touched == 0 : touched != 1) {
      shares.unplaced += f.pages;
      continue;
    }
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (parts[i] != 0) shares.by_zone[i] += f.exact() ? parts[i] : f.pages;
    }
  }
  return shares;
}

bool takes_part(const ZoneFigures& zone) { return zone.populated() && zone_type(zone.name) && zone.name != "Device"; }

std::size_t largest_zone(const Evidence& evidence) {
  std::size_t largest = 0;
  for (std::size_t i = 1; i < evidence.zones.size(); ++i) {
    if (evidence.zones[i].managed > evidence.zones[largest].managed) largest = i;
  }
  return largest;
}

// The watermarks say in which zone the image lay: min is min_free_kbytes, shared out by what each zone managed then.
std::size_t zone_by_watermarks(const Evidence& evidence, const Shares& late) {
  const auto& zones = evidence.zones;
  const auto text = evidence.sysctl.find("min_free_kbytes");
  const auto min_free = text == evidence.sysctl.end() ? std::nullopt : decimal(text->second);
  for (std::size_t candidate = 0; candidate < zones.size() && min_free; ++candidate) {
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
  return largest_zone(evidence);
}

// What is reserved below 16 MiB is missing in the log's "Total pages": so many pages did ZONE_DMA manage then.
std::optional<std::uint64_t> dma_managed_at_first(const Evidence& evidence) {
  if (!evidence.log.total_pages) return std::nullopt;
  std::uint64_t total = 0;
  const ZoneFigures* dma = nullptr;
  for (const ZoneFigures& zone : evidence.zones) {
    if (!takes_part(zone)) continue;
    if (zone.name == "DMA") dma = &zone;
    const std::uint64_t covered = zone.spanned > zone.present + (zone.present >> 4) ? zone.present : zone.spanned;
    total += zone.present - std::min(zone.present, bytes_to_pages_up(covered * 64));
  }
  if (dma == nullptr || total < *evidence.log.total_pages || total - *evidence.log.total_pages > dma->present)
    return std::nullopt;
  return dma->present - (total - *evidence.log.total_pages);
}

// At least and at most how many pages a zone missed when the protection of the zones below it was computed.
struct Missing {
  std::uint64_t least = 0;
  std::uint64_t most = ~std::uint64_t{0};
};

// A zone's protection against a higher one is what both and those between them managed then, by a ratio: the rounding leaves a
// span. Zones that have none below them stay free. (As far as the ratios are the usual ones, which they were at boot.)
std::vector<Missing> missing_by_protection(const Evidence& evidence, const std::vector<std::uint64_t>& others) {
  constexpr std::uint64_t kRatios[] = {256, 256, 32};
  const auto& zones = evidence.zones;
  std::vector<Missing> out(zones.size());
  for (std::size_t low = 0; low < zones.size(); ++low) {
    const auto type = protection_index(zones[low].name);
    if (!takes_part(zones[low]) || *type >= std::size(kRatios)) continue;
    std::uint64_t managed = 0;
    Missing below;  // of the zones between, together
    below.most = 0;
    for (std::size_t high = low + 1; high < zones.size() && zones[high].nid == zones[low].nid; ++high) {
      const auto upper = protection_index(zones[high].name);
      if (!takes_part(zones[high]) || *upper >= zones[low].protection.size()) continue;
      managed += zones[high].managed - std::min(zones[high].managed, others[high]);
      const std::uint64_t floor = zones[low].protection[*upper] * kRatios[*type];
      const std::uint64_t most = managed - std::min(managed, floor);
      const std::uint64_t least = managed - std::min(managed, floor + kRatios[*type] - 1);
      out[high].least = std::max(out[high].least, least - std::min(least, below.most));
      out[high].most = std::min(out[high].most, most - std::min(most, below.least));
      below = {least, most};
    }
  }
  return out;
}

// Memory that came between the two moments and that the log does not place: ZONE_DMA's part follows from "Total pages", that of
// zones above others from the protection; the rest lies where neither says anything.
void place_between(const Evidence& evidence, Shares& shares, const std::vector<std::uint64_t>& others) {
  const auto& zones = evidence.zones;
  const auto give = [&shares](std::size_t zone, std::uint64_t pages) {
    const std::uint64_t part = std::min(pages, shares.unplaced);
    shares.by_zone[zone] += part;
    shares.unplaced -= part;
  };
  const auto dma = std::ranges::find(zones, "DMA", &ZoneFigures::name);
  const auto managed = dma_managed_at_first(evidence);
  if (dma != zones.end() && managed && *managed < dma->managed) {
    const auto i = static_cast<std::size_t>(dma - zones.begin());
    const std::uint64_t missing = dma->managed - *managed;
    give(i, missing - std::min(missing, others[i] + shares.by_zone[i]));
  }
  const auto missing = missing_by_protection(evidence, others);
  const auto bound = [&missing](std::size_t i) { return missing[i].most != Missing{}.most; };
  for (std::size_t i = 0; i < zones.size(); ++i) {
    if (bound(i)) give(i, missing[i].least);
  }
  std::optional<std::size_t> free;
  for (std::size_t i = 0; i < zones.size(); ++i) {
    if (!takes_part(zones[i]) || bound(i) || zones[i].name == "DMA") continue;
    if (!free || zones[i].managed > zones[*free].managed) free = i;
  }
  if (free) give(*free, shares.unplaced);
  for (const bool certain : {true, false}) {  // where some of it is for sure there is more of it rather than elsewhere
    for (std::size_t i = 0; i < zones.size(); ++i) {
      if (bound(i) && (missing[i].least != 0) == certain)
        give(i, missing[i].most - std::min(missing[i].most, missing[i].least));
    }
  }
  give(largest_zone(evidence), shares.unplaced);
}

// Zone by zone, what makes `managed` agree.
void reserve_sums(const Evidence& evidence, const std::vector<Freed>& freed, RecordedMachine& machine) {
  const ZonePages zone_pages(evidence, machine.config.node);
  Shares late = shares_of(evidence, zone_pages, freed, Moment::kAfterBoth);
  if (late.unplaced != 0) {
    const std::size_t zone = zone_by_watermarks(evidence, late);
    late.by_zone[zone] += std::exchange(late.unplaced, 0);
  }
  Shares hugetlb = shares_of(evidence, zone_pages, freed, Moment::kHugetlb);
  if (hugetlb.unplaced != 0) place_between(evidence, hugetlb, late.by_zone);
  Shares between = shares_of(evidence, zone_pages, freed, Moment::kBetween);
  if (between.unplaced != 0) {
    std::vector<std::uint64_t> others = late.by_zone;
    for (std::size_t i = 0; i < others.size(); ++i) others[i] += hugetlb.by_zone[i];
    place_between(evidence, between, others);
    machine.notes.emplace_back("where EFI's boot services lay is not logged: their pages are put where the figures agree");
  }
  for (std::size_t i = 0; i < evidence.zones.size(); ++i) {
    const ZoneFigures& zone = evidence.zones[i];
    if (!takes_part(zone)) continue;
    const std::uint64_t later = late.by_zone[i] + hugetlb.by_zone[i] + between.by_zone[i];
    machine.config.recorded->zone_managed.push_back({.nid = Nid(static_cast<int>(zone.nid)),
                                                     .zone = *zone_type(zone.name),
                                                     .at_watermarks = zone.managed - std::min(zone.managed, later),
                                                     .at_end = zone.managed,
                                                     .freed_between = between.by_zone[i],
                                                     .hugetlb = hugetlb.by_zone[i]});
  }
}

// What is left of a range of memory, in whole pages, beside what is reserved.
std::uint64_t free_pages(const phys::RangeSet& reserved, Range<Pfn> within, const std::vector<Range<PhysAddr>>& memory) {
  std::uint64_t pages = 0;
  for (const Range<PhysAddr>& part : memory) {
    for (const Range<PhysAddr>& gap : reserved.gaps(part)) pages += whole_pages(gap).intersect(within).size();
  }
  return pages;
}

// Takes the log's memblock lines; false (with a note) when they do not lead to what zoneinfo.txt says.
bool reserve_as_logged(const Evidence& evidence, const std::vector<Freed>& freed, RecordedMachine& machine) {
  if (!evidence.log.reserved || machine.config.node.empty()) return false;
  const auto refuse = [&machine](std::string why) {
    machine.notes.push_back("the log's memblock lines are not used: " + std::move(why));
    return false;
  };
  phys::RangeSet reserved;
  for (const Range<PhysAddr>& range : *evidence.log.reserved) reserved.add(range);
  phys::RecordedBoot recorded = *machine.config.recorded;
  for (const Freed& f : freed) {
    if (!f.exact()) return refuse(fmt::format("where the memory of '{}' lay is not known", f.what));
    for (const Range<PhysAddr>& range : f.ranges) {
      switch (f.moment) {
        case Moment::kBeforeBoth: reserved.remove(range); break;
        case Moment::kBetween: recorded.freed_between.push_back({range, f.what}); break;
        case Moment::kHugetlb: recorded.hugetlb.push_back({range, f.what}); break;
        case Moment::kAfterBoth: recorded.freed_late.push_back({range, f.what}); break;
      }
    }
  }
  const ZonePages zone_pages(evidence, machine.config.node);
  for (const ZoneFigures& zone : evidence.zones) {
    if (!takes_part(zone) || zone.nid >= machine.config.node.size()) continue;
    std::uint64_t managed = free_pages(reserved, zone.span(), machine.config.node[zone.nid].memory);
    for (const auto* list : {&recorded.freed_between, &recorded.hugetlb, &recorded.freed_late}) {
      for (const phys::Reservation& r : *list) managed += zone_pages.in(whole_pages(r.range), zone);
    }
    if (managed != zone.managed) {
      return refuse(fmt::format("they leave zone {} of node {} with {} pages, zoneinfo.txt has {}", zone.name, zone.nid,
                                managed, zone.managed));
    }
  }
  recorded.reserved = reserved.ranges();
  machine.config.recorded = std::move(recorded);
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
  // Without the pmem driver nobody takes persistent memory, and it gets no struct Pages.
  const auto of_driver = [](const IomemLine& line) { return line.name.starts_with("namespace"); };
  const bool spanned =
      std::ranges::any_of(evidence.zones, [](const ZoneFigures& zone) { return zone.name == "Device" && zone.spanned != 0; });
  const bool attached = spanned || std::ranges::any_of(evidence.iomem.lines, of_driver);
  machine.config.recorded->pmem = attached ? phys::PmemAtBoot::kFsdax : phys::PmemAtBoot::kNone;
  if (evidence.iomem.hidden) {
    machine.notes.emplace_back("iomem.txt was read without the right to see addresses, so devices are not known");
    return;
  }
  for (const IomemLine& line : evidence.iomem.lines) {
    if (!from_memory_map(line) && !of_driver(line)) machine.config.recorded->resources.push_back({line.range, line.name});
  }
}

}  // namespace quire::like
