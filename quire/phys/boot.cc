#include "quire/phys/boot.h"

#include <fmt/format.h>

#include <algorithm>

#include "quire/phys/boot_log.h"
#include "quire/phys/cma.h"
#include "quire/phys/device_memory.h"
#include "quire/phys/memory_hotplug.h"
#include "quire/phys/watermarks.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

namespace {

constexpr PhysAddr kKernelStart{16 * kMiB};
constexpr PhysAddr kLowMemory{kMiB};
constexpr std::uint64_t kWorkingRoom = 2 * kMiB;  // a machine with less to run in is not worth booting
constexpr unsigned kMaxNodes = 64;

// No device is put right behind RAM: up to the next multiple of this the space is kept (e820__reserve_resources_late).
std::uint64_t ram_alignment(PhysAddr at) {
  if (at < kLowMemory) return 64 * kKiB;
  return at < kKernelStart ? kMiB : 64 * kMiB;
}

// There is enough RAM for what is needed, but a range of something else stands in its place. `image`: where the kernel's image
// would go; empty when it has its place.
std::optional<BootError> in_the_way(std::string_view what, std::uint64_t need, const FirmwareMap& firmware,
                                    const FirmwareMap& usable, Range<PhysAddr> image) {
  const std::uint64_t left = usable.ram_bytes();
  const std::uint64_t all = align_up(firmware.ram_bytes(), kMiB) / kMiB;
  for (const E820Entry& e : usable.entries()) {
    if (e.type == E820Type::kRam) continue;
    std::uint64_t taken = 0;
    for (const E820Entry& was : firmware.entries()) {
      if (was.type == E820Type::kRam) taken += was.range.intersect(e.range).size();
    }
    const std::string range =
        fmt::format("[mem {:#010x}-{:#010x}] is {}", e.range.begin.value(), e.range.end.value() - 1, e820_type_name(e.type));
    if (left < need && left + taken >= need) {
      return BootError{fmt::format("no room for {}: {} and leaves {} KiB of {} MiB; make that range smaller, or move it", what,
                                   range, left / kKiB, all)};
    }
    if (left >= need && !e.range.intersect(image).empty()) {
      return BootError{fmt::format(
          "no room for {} of {} KiB, which stands at 16 MiB or, when it fits, at 1 MiB: {}; move that range, or give a smaller "
          "--kernel-reserved",
          what, image.size() / kKiB, range)};
    }
  }
  if (left >= need) return std::nullopt;
  return BootError{fmt::format(
      "RAM too small: the kernel parameters leave {} KiB of {} MiB, which cannot hold {}; let them leave {} MiB or more",
      left / kKiB, all, what, need / kMiB)};
}

}  // namespace

BootResult<std::unique_ptr<PhysMem>> PhysMem::boot(const PhysConfig& config, sim::Scheduler& scheduler, TraceRegistry& traces,
                                                   BootLogSink log) {
  return PhysBoot(config, scheduler, traces, std::move(log)).run();
}

PhysBoot::PhysBoot(const PhysConfig& config, sim::Scheduler& scheduler, TraceRegistry& traces, BootLogSink log)
    : config_(config), scheduler_(scheduler), traces_(traces), sink_(std::move(log)) {}

BootResult<std::unique_ptr<PhysMem>> PhysBoot::run() {
  const auto steps = {&PhysBoot::check_config,    &PhysBoot::reserve_boot_images,    &PhysBoot::initmem_init,
                      &PhysBoot::create_phys_mem, &PhysBoot::dma_contiguous_reserve, &PhysBoot::sparse_init};
  for (const auto step : steps) {
    if (BootStatus status = (this->*step)(); !status) return std::unexpected(status.error());
  }
  free_area_init();
  if (BootStatus status = apply_zone_managed(); !status) return std::unexpected(status.error());
  if (!memblock_.complete()) return std::unexpected(too_small("the tables of all its memory ranges"));
  build_all_zonelists();
  // Nobody adds to memblock from here on: what its tables took comes free with the rest.
  for (const Range<PhysAddr> table : memblock_.discard())
    late_.push_back({"", {phys_to_pfn(table.begin), phys_to_pfn(table.end)}});
  memmap_init();
  if (bootmem_) {
    free_all_bootmem();
  } else {
    memblock_free_all();
  }
  mem_init_print_info();
  if (BootStatus status = check_enough(); !status) return std::unexpected(status.error());
  cma_init_reserved_areas();
  compute_watermarks();
  give_back(Stage::kLate);
  apply_recorded_sysctl();
  e820_reserve_resources();
  mem_->firmware_map_ = map_;
  mem_->memblock_ = std::move(memblock_);
  mem_->boot_log_ = std::move(log_);
  if (BootStatus status = memory_dev_init(); !status) return std::unexpected(status.error());
  return std::move(mem_);
}

BootError PhysBoot::too_small(std::string_view what) const {
  const std::uint64_t sections = (ram_bytes_ + (std::uint64_t{1} << kSectionSizeBits) - 1) >> kSectionSizeBits;
  const std::uint64_t memmap = sections * kPagesPerSection * sizeof(Page);
  const std::uint64_t images = config_.kernel_reserved + config_.initrd_bytes;
  const std::uint64_t need = align_up(images + memmap + 4 * kMiB + kWorkingRoom, kMiB);
  if (ram_bytes_ >= need) {
    const std::uint64_t kernel_bytes = image_.empty() ? config_.kernel_reserved : 0;
    const auto other = in_the_way(what, need, map_, usable_, {kKernelStart, kKernelStart + kernel_bytes});
    if (other) return *other;
  }
  return BootError{fmt::format(
      "RAM too small: {} MiB cannot hold {} (kernel image {} KiB, memory map {} KiB, low memory and node data 4096 KiB, "
      "at least {} KiB to run in); boot with --ram {}M or more, or with a smaller --kernel-reserved",
      ram_bytes_ / kMiB, what, images / kKiB, memmap / kKiB, kWorkingRoom / kKiB, need / kMiB)};
}

BootStatus PhysBoot::check_config() {
  if (config_.lowmem_reserve_ratio.empty()) {
    config_.lowmem_reserve_ratio = config_.arch == Arch::kX86_64 ? std::vector<std::uint32_t>{256, 256, 32, 0, 0}
                                                                 : std::vector<std::uint32_t>{256, 32, 0, 0};
  }
  if (config_.cpus == 0 || config_.cpus != scheduler_.cpus()) {
    return boot_error(fmt::format("the machine has {} CPUs but its scheduler {}; give both the same number, at least 1",
                                  config_.cpus, scheduler_.cpus()));
  }
  if (config_.nodes.size() > kMaxNodes) {
    return boot_error(
        fmt::format("{} NUMA nodes are more than the {} supported; ask for fewer --nodes", config_.nodes.size(), kMaxNodes));
  }
  std::uint64_t node_sum = 0;
  for (const NodeConfig& n : config_.nodes) node_sum += n.bytes;
  ram_bytes_ = config_.ram_bytes;
  if (config_.firmware_map) {
    map_ = *config_.firmware_map;
    map_.sanitize();
    ram_bytes_ = map_.ram_bytes();
  } else {
    if (ram_bytes_ == 0) ram_bytes_ = node_sum;
    if (ram_bytes_ > 64 * kTiB) {
      return boot_error(fmt::format("{} TiB of RAM is more than an address space of 46 bits holds; give --ram 64T or less",
                                    ram_bytes_ / kTiB));
    }
    ram_bytes_ = align_down(ram_bytes_, kPageSize);
    map_ = FirmwareMap::pc(ram_bytes_);
  }
  if (ram_bytes_ < 2 * kMiB + kWorkingRoom) return std::unexpected(too_small("the machine"));
  return e820_memory_setup();
}

BootStatus PhysBoot::e820_memory_setup() {
  if (!config_.cmdline.empty()) log("Command line: {}", config_.cmdline);
  log("BIOS-provided physical RAM map:");
  for (const std::string& line : map_.lines("BIOS-e820")) log("{}", line);
  usable_ = map_;
  auto parameters = KernelParameters::parse(config_.cmdline, usable_, config_.arch);
  if (!parameters) return std::unexpected(parameters.error());
  parameters_ = std::move(*parameters);
  if (parameters_.map == KernelParameters::Map::kUserDefined) {
    log("user-defined physical RAM map:");
    for (const std::string& line : usable_.lines("user")) log("{}", line);
  }
  // What the kernel does before it uses the map: the real-mode vectors and the adapter hole are not RAM.
  FirmwareMap& usable = usable_;
  if (usable.update({PhysAddr(0), PhysAddr(kPageSize)}, E820Type::kRam, E820Type::kReserved) != 0) {
    log("e820: update [mem 0x00000000-0x00000fff] usable ==> reserved");
  }
  usable.remove({PhysAddr(0xa0000), kLowMemory}, E820Type::kRam);
  log("e820: remove [mem 0x000a0000-0x000fffff] usable");
  log("last_pfn = {:#x} max_arch_pfn = 0x400000000", phys_to_pfn(usable.end_of_ram()).value());
  if (config_.arch != Arch::kX86_64) {
    if (BootStatus status = find_low_pfn_range(); !status) return status;
  }
  if (BootStatus status = create_arena(); !status) return status;
  for (const E820Entry& e : usable.entries()) {
    if (e.type == E820Type::kRam) memblock_.add(e.range);
  }
  memblock_.trim_memory(kPageSize);
  if (memblock_.memory_size() < kWorkingRoom) return std::unexpected(too_small("the machine"));
  if (!parameters_.unknown.empty()) {
    log("Unknown kernel command line parameters \"{}\", will be passed to user space.", fmt::join(parameters_.unknown, " "));
  }
  return {};
}

BootStatus PhysBoot::reserve_boot_images() {
  const auto holds = [&](Range<PhysAddr> r) {
    return std::ranges::any_of(memblock_.memory(), [&](const MemblockRegion& m) { return m.range.contains(r); });
  };
  const std::uint64_t kernel_bytes = align_up(config_.kernel_reserved, kPageSize);
  if (kernel_bytes != 0) {
    // A machine too small for the usual place gets the image right above the first MiB.
    Range<PhysAddr> image{kKernelStart, kKernelStart + kernel_bytes};
    if (!holds(image)) image = {kLowMemory, kLowMemory + kernel_bytes};
    if (!holds(image)) return std::unexpected(too_small("the kernel image"));
    memblock_.reserve(image);
    image_ = image;
  }
  memblock_.reserve({PhysAddr(0), kLowMemory});
  if (config_.initrd_bytes != 0) {
    const std::uint64_t bytes = align_up(config_.initrd_bytes, kPageSize);
    const auto at = memblock_.alloc({.size = bytes, .align = kPageSize, .max = PhysAddr(4 * kGiB)});
    if (!at) return std::unexpected(too_small("the initrd"));
    log("RAMDISK: [mem {:#010x}-{:#010x}]", at->value(), at->value() + config_.initrd_bytes - 1);
    late_.push_back({"initrd", {phys_to_pfn(*at), phys_to_pfn(*at + bytes)}});
  }
  for (const Reservation& r : config_.reservations) memblock_.reserve(r.range);
  if (BootStatus status = reserve_as_recorded(); !status) return status;
  for (const std::string& line : memblock_.dump()) log("{}", line);
  return {};
}

BootStatus PhysBoot::reserve_as_recorded() {
  const RecordedBoot& r = config_.recorded;
  if (r.reserved.empty()) return {};
  for (const Range<PhysAddr>& range : r.reserved) {
    memblock_.reserve(range);
    recorded_.add(range);
  }
  // What is used or given back is no room for boot's tables.
  recorded_.remove({PhysAddr(0), kLowMemory});
  for (const Reservation& resource : r.resources) {
    if (resource.name.starts_with("Kernel ")) recorded_.remove(resource.range);
  }
  for (const Reservation& part : r.freed_between) {
    if (BootStatus status = add_late(part, Stage::kBetween, Use::kFree); !status) return status;
  }
  for (const Reservation& part : r.hugetlb) {
    if (BootStatus status = add_late(part, Stage::kBetween, Use::kHugetlb); !status) return status;
  }
  for (const Reservation& part : r.freed_late) {
    if (BootStatus status = add_late(part, Stage::kLate, Use::kFree); !status) return status;
  }
  return {};
}

BootStatus PhysBoot::add_late(const Reservation& reservation, Stage stage, Use use) {
  const Range<Pfn> pfns{phys_to_pfn(align_up(reservation.range.begin, kPageSize)), phys_to_pfn(reservation.range.end)};
  if (pfns.empty()) return {};
  const Range<PhysAddr> whole{pfn_to_phys(pfns.begin), pfn_to_phys(pfns.end)};
  const auto inside = [&whole](std::span<const MemblockRegion> regions) {
    std::uint64_t bytes = 0;
    for (const MemblockRegion& m : regions) bytes += m.range.intersect(whole).size();
    return bytes == whole.size();
  };
  if (!inside(memblock_.memory()) || !inside(memblock_.reserved())) {
    return boot_error(
        fmt::format("{} at {:#x}-{:#x} cannot come free after boot: not all of it is reserved memory; leave it out",
                    reservation.name, whole.begin.value(), whole.end.value() - 1));
  }
  recorded_.remove(whole);
  late_.push_back({reservation.name, pfns, stage, use});
  return {};
}

// The highest place of the recorded reservations that no boot table has taken yet.
std::optional<PhysAddr> PhysBoot::recorded_alloc(const MemblockAllocSpec& spec) {
  std::optional<PhysAddr> found;
  const auto look = [&](bool anywhere) {
    for (const MemblockRegion& m : memblock_.memory()) {
      if (!anywhere && spec.nid != kNoNode && m.nid != spec.nid) continue;
      for (const Range<PhysAddr>& room : recorded_.ranges()) {
        const Range<PhysAddr> usable =
            room.intersect(m.range).intersect({std::max(spec.min, PhysAddr(kPageSize)), m.range.end});
        if (usable.size() < spec.size) continue;
        const PhysAddr at = align_down(usable.end - spec.size, spec.align);
        if (at >= usable.begin) found = std::max(found.value_or(at), at);
      }
    }
  };
  look(false);
  if (!found && spec.node_rule == MemblockAllocSpec::Node::kPrefer) look(true);
  if (found) recorded_.remove({*found, *found + spec.size});
  return found;
}

// Which memory the kernel of i386 maps for good (lowmem), and which it reaches page by page only (HighMem).
BootStatus PhysBoot::find_low_pfn_range() {
  if (config_.nodes.size() > 1) {
    return boot_error(fmt::format("an i386 machine has one node, not {}; leave --nodes out", config_.nodes.size()));
  }
  const bool pae = config_.arch == Arch::kI386Pae;
  const PhysAddr end(pae ? 64 * kGiB : 4 * kGiB);
  if (usable_.end_of_ram() > end) {
    log("Warning only {}GB will be used.", end.value() / kGiB);
    if (!pae) log("Use a HIGHMEM64G enabled kernel.");
    usable_.remove({end, PhysAddr(~std::uint64_t{0})}, E820Type::kRam);
  }
  constexpr Pfn kMaxLow{896 * kMiB >> kPageShift};
  const Pfn max_pfn = phys_to_pfn(usable_.end_of_ram());
  max_low_pfn_ = std::min(kMaxLow, max_pfn);
  // highmem=: that much of the upper end, as long as what is left fits below the usual border and is worth booting.
  if (parameters_.highmem_pages) {
    const std::uint64_t wanted = *parameters_.highmem_pages;
    const std::uint64_t least = 64 * kMiB / kPageSize;
    if (max_pfn - Pfn{} >= wanted + least && max_pfn - wanted <= kMaxLow) {
      max_low_pfn_ = max_pfn - wanted;
    } else {
      log("highmem size specified ({}MB) is bigger than pages available ({}MB)!.", wanted >> 8, (max_pfn - max_low_pfn_) >> 8);
    }
  }
  log("{}MB HIGHMEM available.", (max_pfn - max_low_pfn_) >> 8);
  log("{}MB LOWMEM available.", (max_low_pfn_ - Pfn{}) >> 8);
  memblock_.set_current_limit(pfn_to_phys(max_low_pfn_));
  return {};
}

// An area that cannot be had is told and done without, as in Linux.
BootStatus PhysBoot::dma_contiguous_reserve() {
  if (config_.alloc_policy == AllocPolicyKind::kLinux24) return {};  // 2.4 knows no such thing
  std::vector<CmaRequest> requests = config_.cma;
  if (parameters_.cma.bytes != 0) requests.insert(requests.begin(), parameters_.cma);
  for (const CmaRequest& request : requests) {
    const auto range = CmaAreas::reserve(memblock_, request);
    if (range) {
      log("cma: Reserved {} MiB at {:#018x}", range->size() / kMiB, range->begin.value());
      cma_.emplace_back(request, *range);
    } else {
      log("cma: Failed to reserve {} MiB ({})", request.bytes / kMiB, errno_name(range.error()));
    }
  }
  return {};
}

void PhysBoot::cma_init_reserved_areas() {
  mem_->cma_ = std::make_unique<CmaAreas>(*mem_);
  for (const auto& [request, range] : cma_) mem_->cma_->activate(request.name, range, request.order_per_bit);
}

// Where memory modules that are plugged in later go: above RAM, a GiB more for each slot to align in (as QEMU's pc).
Range<PhysAddr> PhysBoot::hotplug_window() const {
  if (config_.max_ram_bytes <= ram_bytes_) return {};
  const PhysAddr begin = align_up(std::max(PhysAddr(4 * kGiB), map_.end_of_ram()), kGiB);
  return {begin, begin + align_up(config_.max_ram_bytes - ram_bytes_, kPageSize) + config_.memory_slots * kGiB};
}

// RAM is there before memblock is told of it: its tables may have to grow into it.
BootStatus PhysBoot::create_arena() {
  std::vector<Range<PhysAddr>> ram;
  for (const E820Entry& e : usable_.entries()) {
    const Range<PhysAddr> whole{align_up(e.range.begin, kPageSize), align_down(e.range.end, kPageSize)};
    if (e.type == E820Type::kRam && !whole.empty()) ram.push_back(whole);
  }
  if (ram.empty()) return std::unexpected(too_small("the machine"));
  PhysAddr end = std::max(ram.back().end, hotplug_window().end);
  for (const E820Entry& e : usable_.entries()) {
    if (e.type == E820Type::kPram) end = std::max(end, e.range.end);
  }
  auto arena = Arena::create(end);
  if (!arena) return std::unexpected(arena.error());
  for (const Range<PhysAddr>& range : ram) {
    if (BootStatus status = arena->map_ram(range); !status) return status;
  }
  arena_.emplace(std::move(*arena));
  memblock_.allow_resize(arena_->base());
  return {};
}

BootStatus PhysBoot::create_phys_mem() {
  mem_.reset(new PhysMem(config_, scheduler_, traces_, std::move(*arena_)));
  mem_->max_pfn_ = phys_to_pfn(memblock_.end_of_dram());
  create_nodes();
  return {};
}

// Leaves each zone that the configuration names just as many free pages as it says.
BootStatus PhysBoot::apply_zone_managed() {
  std::vector<ZoneManaged> targets = config_.zone_managed;
  const std::size_t strict = targets.size();  // a recorded machine's may ask for more than its map has: memory came later
  targets.insert(targets.end(), config_.recorded.zone_managed.begin(), config_.recorded.zone_managed.end());
  for (std::size_t i = 0; i < targets.size(); ++i) {
    ZoneManaged& target = targets[i];
    const bool known = target.zone < kZoneTypes && has_zone(config_.arch, static_cast<ZoneType>(target.zone));
    if (static_cast<std::size_t>(target.nid.value()) >= mem_->nodes_.size() || !known) {
      return boot_error(
          fmt::format("there is no zone {} on node {}; name a zone of this machine", target.zone, target.nid.value()));
    }
    Zone& zone = mem_->node(target.nid).zone(static_cast<ZoneType>(target.zone));
    std::uint64_t available = 0;
    memblock_.for_each_free_range([&](Range<PhysAddr> range, Nid nid) {
      if (nid != target.nid) return;
      available += Range<Pfn>{phys_to_pfn(align_up(range.begin, kPageSize)), phys_to_pfn(range.end)}
                       .intersect({zone.start_pfn(), zone.end_pfn()})
                       .size();
    });
    // A CMA area in the zone is managed, too.
    for (const auto& [request, range] : cma_) {
      available +=
          Range<Pfn>{phys_to_pfn(range.begin), phys_to_pfn(range.end)}.intersect({zone.start_pfn(), zone.end_pfn()}).size();
    }
    const std::uint64_t most = std::max(target.at_end, target.at_watermarks);
    if (most > available && i >= strict) {
      target.at_watermarks = available - std::min(available, most - target.at_watermarks);
      target.at_end = available;
    } else if (most > available) {
      return boot_error(
          fmt::format("zone {} of node {} cannot manage {} pages: {} are left after the machine's own "
                      "reservations; lower the figure or --kernel-reserved",
                      zone.name(), target.nid.value(), most, available));
    }
    if (BootStatus s = reserve_in_zone(zone, available - target.at_watermarks, target); !s) return s;
  }
  return {};
}

// Reserves `pages` of the zone's free memory, lowest first; the first of them come to the zone later.
BootStatus PhysBoot::reserve_in_zone(Zone& zone, std::uint64_t pages, const ZoneManaged& target) {
  std::vector<Range<Pfn>> taken;
  memblock_.for_each_free_range([&](Range<PhysAddr> range, Nid nid) {
    if (nid != zone.node().nid() || pages == 0) return;
    Range<Pfn> part = Range<Pfn>{phys_to_pfn(align_up(range.begin, kPageSize)), phys_to_pfn(range.end)}.intersect(
        {zone.start_pfn(), zone.end_pfn()});
    if (part.empty()) return;
    if (part.size() > pages) part.end = part.begin + pages;
    pages -= part.size();
    taken.push_back(part);
  });
  const std::uint64_t all = target.at_end - std::min(target.at_end, target.at_watermarks);
  const std::uint64_t between = std::min(target.freed_between, all);
  const std::uint64_t hugetlb = std::min(target.hugetlb, all - between);
  struct Share {
    std::uint64_t pages;
    Stage stage;
    Use use;
  } shares[] = {{between, Stage::kBetween, Use::kFree},
                {hugetlb, Stage::kBetween, Use::kHugetlb},
                {all - between - hugetlb, Stage::kLate, Use::kFree}};
  for (Range<Pfn> part : taken) {
    boot_reserve({pfn_to_phys(part.begin), pfn_to_phys(part.end)}, zone.node().nid());
    for (Share& share : shares) {
      const std::uint64_t n = std::min(share.pages, part.size());
      if (n == 0) continue;
      share.pages -= n;
      late_.push_back({"", {part.begin, part.begin + n}, share.stage, share.use});
      part.begin += n;
    }
  }
  return {};
}

// Everything that is memory and not reserved becomes free, ascending, in the largest blocks that fit.
void PhysBoot::memblock_free_all() {
  memblock_.for_each_free_range([&](Range<PhysAddr> range, Nid nid) {
    free_to_buddy(nid, {phys_to_pfn(align_up(range.begin, kPageSize)), phys_to_pfn(range.end)});
  });
}

void PhysBoot::free_to_buddy(Nid nid, Range<Pfn> pfns) {
  PhysMem& mem = *mem_;
  if (pfns.empty()) return;
  for_each_zone_part(mem.node(nid), pfns, [&](Zone& zone, Range<Pfn> part) {
    zone.managed_pages_ += part.size();
    sim::SpinGuard guard(zone.lock);
    for_each_block(part, [&](Pfn pfn, Order order) {
      // From the first deferred section on, whole blocks of the largest order wait in their turn, so that the buddy
      // hands out the same frames as if everything were initialised.
      const bool wait = order == kMaxOrder && (deferred(pfn) || zone.deferred_pages_ != 0);
      if (!wait) {
        mem.buddy_.free_one_page(zone, mem.pfn_to_page(pfn), order, MigrateType::kMovable, FreeHint::kToTail);
        return;
      }
      if (!zone.deferred_.empty() && zone.deferred_.back().end == pfn) {
        zone.deferred_.back().end = pfn + order.pages();
      } else {
        zone.deferred_.push_back({pfn, pfn + order.pages()});
      }
      zone.deferred_pages_ += order.pages();
      zone.stats.add(ZoneStat::kNrFreePages, static_cast<std::int64_t>(order.pages()));
    });
  });
}

void PhysBoot::mem_init_print_info() {
  std::uint64_t free = 0;
  std::uint64_t present = 0;
  mem_->for_each_populated_zone([&](Zone& zone) {
    free += zone.free_pages();
    present += zone.present_pages();
  });
  std::uint64_t cma = 0;
  for (const auto& [request, range] : cma_) cma += range.size() / kPageSize;
  log("Memory: {}K/{}K available ({}K kernel code, 0K rwdata, 0K rodata, 0K init, 0K bss, {}K reserved, {}K "
      "cma-reserved)",
      free * 4, present * 4, config_.kernel_reserved / kKiB, (present - free - cma) * 4, cma * 4);
  for (const auto& node : mem_->nodes_) {
    std::uint64_t later = 0;
    node->for_each_zone([&](const Zone& zone) { later += zone.deferred_pages(); });
    if (later != 0) log("node {} deferred pages initialised in 0ms", node->nid().value());
  }
}

// The kernel's own image counts as code from end to end: how a machine's --kernel-reserved divides is nobody's figure.
void PhysBoot::e820_reserve_resources() {
  IomemTree& iomem = mem_->iomem_;
  const auto insert = [&iomem](Range<PhysAddr> range, std::string_view name, ResourceUse use = ResourceUse::kFree) {
    static_cast<void>(
        iomem.insert(range, std::string(name), use));  // a map may say anything: what overlaps is left out, as in Linux
  };
  for (const E820Entry& e : usable_.entries()) insert(e.range, iomem_name(e.type), iomem_use(e));
  if (!image_.empty()) insert(image_, "Kernel code", ResourceUse::kBusy);
  for (const Reservation& r : config_.recorded.resources) insert(r.range, r.name);
  const auto reserve_ram_buffers = [&] {
    for (const E820Entry& e : usable_.entries()) {
      if (e.type == E820Type::kRam) iomem.fill({e.range.end, align_up(e.range.end, ram_alignment(e.range.end))}, "RAM buffer");
    }
  };
  if (config_.firmware_map) return reserve_ram_buffers();  // what devices such a machine has, its map does not say
  // The devices of the PC whose map this is: PCI's windows are what RAM leaves.
  constexpr PhysAddr kPciEnd{0xfec0'0000};
  constexpr std::uint64_t kPciHole64 = 2 * kGiB;
  PhysAddr low_end{};
  PhysAddr high_end{4 * kGiB};
  for (const E820Entry& e : map_.entries()) {
    if (e.range.end < kPciEnd) low_end = e.range.end;
    if (e.type == E820Type::kRam && e.range.begin >= high_end) high_end = e.range.end;
  }
  const PhysAddr hole64 = align_up(std::max(high_end, hotplug_window().end), kGiB);
  insert({PhysAddr(0xa0000), PhysAddr(0xc0000)}, "PCI Bus 0000:00");
  insert({PhysAddr(0xc0000), PhysAddr(0xc0600)}, "Video ROM");
  insert({PhysAddr(0xf0000), PhysAddr(0x100000)}, "System ROM");
  insert({low_end, kPciEnd}, "PCI Bus 0000:00");
  insert({PhysAddr(0xfec0'0000), PhysAddr(0xfec0'0400)}, "IOAPIC 0");
  insert({PhysAddr(0xfed0'0000), PhysAddr(0xfed0'0400)}, "HPET 0");
  insert({PhysAddr(0xfed0'0000), PhysAddr(0xfed0'0400)}, "PNP0103:00");
  insert({PhysAddr(0xfee0'0000), PhysAddr(0xfee0'1000)}, "Local APIC");
  insert({hole64, hole64 + kPciHole64}, "PCI Bus 0000:00");
  reserve_ram_buffers();
}

// The drivers that come up last: memory blocks, then persistent memory, whose regions may lie in any node's stretch.
BootStatus PhysBoot::memory_dev_init() {
  mem_->hotplug_ = std::make_unique<MemoryHotplug>(*mem_);
  mem_->device_memory_ = std::make_unique<DeviceMemory>(*mem_);
  for (const E820Entry& e : usable_.entries()) {
    if (e.type != E820Type::kPram) continue;
    // A firmware's map may name parts of pages; memory is made of whole ones.
    const Range<PhysAddr> whole{align_up(e.range.begin, kPageSize), align_down(e.range.end, kPageSize)};
    if (whole.empty()) continue;
    if (BootStatus status = mem_->arena_.map_ram(whole); !status) return status;
    mem_->device_memory_->add_region(whole, target_node(whole.begin));
  }
  if (config_.recorded.pmem.value_or(config_.pmem) != PmemAtBoot::kFsdax) return {};
  const std::size_t told = mem_->boot_log_.size();
  mem_->device_memory_->probe();
  if (sink_) std::ranges::for_each(mem_->boot_log_.begin() + static_cast<std::ptrdiff_t>(told), mem_->boot_log_.end(), sink_);
  return {};
}

// The node in whose stretch of the installed memory an address lies; else the nearest one below it (phys_to_target_node).
Nid PhysBoot::target_node(PhysAddr at) const {
  Nid nid{};
  for (const auto& [range, node] : installed_) {
    if (range.begin <= at) nid = node;
  }
  return nid;
}

BootStatus PhysBoot::check_enough() {
  std::uint64_t managed = 0;
  for (const auto& node : mem_->nodes_) managed += node->managed_pages();
  if (config_.zone_managed.empty() && config_.recorded.zone_managed.empty() && managed * kPageSize < kWorkingRoom)
    return std::unexpected(too_small("the machine"));
  return {};
}

void PhysBoot::compute_watermarks() {
  Watermarks watermarks(mem_->nodes_);
  if (config_.alloc_policy == AllocPolicyKind::kLinux24) {
    mem_->update_watermarks();
    std::uint64_t min = 0;
    mem_->for_each_populated_zone([&](const Zone& zone) { min += zone.watermark(Watermark::kMin); });
    mem_->min_free_kbytes_ = min * (kPageSize / kKiB);
    return;
  }
  mem_->user_min_free_kbytes_ = config_.min_free_kbytes.value_or(0);
  mem_->min_free_kbytes_ = config_.min_free_kbytes.value_or(watermarks.calculate_min_free_kbytes());
  mem_->update_watermarks();
  // hugepage_init comes after: khugepaged raises min_free_kbytes, and everything but protection is computed again.
  give_back(Stage::kBetween);
  watermarks.refresh_zone_stat_thresholds();
  const HugePagesAtBoot huge = huge_pages_at_boot();
  if (huge == HugePagesAtBoot::kOff || config_.min_free_kbytes) return;
  mem_->min_free_kbytes_ = huge == HugePagesAtBoot::kNever
                               ? watermarks.calculate_min_free_kbytes()
                               : std::max(watermarks.recommended_min_free_kbytes(), mem_->min_free_kbytes_);
  mem_->khugepaged_ = huge == HugePagesAtBoot::kOn;
  mem_->totalreserve_pages_ = watermarks.update_wmarks(mem_->watermark_tunables());
}

HugePagesAtBoot PhysBoot::huge_pages_at_boot() const {
  const RecordedBoot& recorded = config_.recorded;
  const HugePagesAtBoot asked = recorded.huge_pages == HugePagesAtBoot::kAuto ? config_.huge_pages : recorded.huge_pages;
  if (asked != HugePagesAtBoot::kAuto) return asked;
  constexpr std::uint64_t kHugePagesFrom = 512 * kMiB;
  std::uint64_t managed = 0;
  for (const auto& node : mem_->nodes_) managed += node->managed_pages();
  if (managed * kPageSize < kHugePagesFrom) return HugePagesAtBoot::kOff;
  const bool never = std::ranges::count(parameters_.unknown, "transparent_hugepage=never") != 0;
  return never ? HugePagesAtBoot::kNever : HugePagesAtBoot::kOn;
}

// The initrd and what else boot alone needed. Watermarks stay as they were computed (Linux does not compute them again).
void PhysBoot::give_back(Stage stage) {
  for (const LateFree& late : late_) {
    if (late.stage != stage) continue;
    if (late.use == Use::kHugetlb) {
      for (const auto& node : mem_->nodes_) {
        for_each_zone_part(*node, late.pfns, [](Zone& zone, Range<Pfn> part) { zone.managed_pages_ += part.size(); });
      }
      continue;
    }
    memblock_.free({pfn_to_phys(late.pfns.begin), pfn_to_phys(late.pfns.end)});
    free_reserved_area(late.pfns);
    if (!late.what.empty()) log("Freeing {} memory: {}K", late.what, late.pfns.size() * 4);
  }
}

// What somebody wrote to /proc/sys/vm on the running machine: each recomputes only what Linux's handler of it does, from the
// pages that the zones manage by then.
void PhysBoot::apply_recorded_sysctl() {
  const RecordedBoot& r = config_.recorded;
  if (r.watermark_scale_factor) mem_->set_watermark_scale_factor(*r.watermark_scale_factor);
  if (r.min_free_kbytes || r.watermarks_again) mem_->set_min_free_kbytes(r.min_free_kbytes.value_or(mem_->min_free_kbytes_));
  if (r.percpu_pagelist_high_fraction) mem_->set_percpu_pagelist_high_fraction(*r.percpu_pagelist_high_fraction);
  if (!r.lowmem_reserve_ratio.empty() || r.protection_again) {
    const auto ratios = r.lowmem_reserve_ratio.empty() ? mem_->config_.lowmem_reserve_ratio : r.lowmem_reserve_ratio;
    mem_->set_lowmem_reserve_ratio(ratios);
  }
}

void PhysBoot::free_reserved_area(Range<Pfn> pfns) {
  for (const auto& node : mem_->nodes_) {
    for_each_zone_part(*node, pfns, [&](Zone& zone, Range<Pfn> part) {
      zone.managed_pages_ += part.size();
      for (Pfn pfn = part.begin; pfn < part.end; ++pfn) {
        Page& page = mem_->pfn_to_page(pfn);
        page.clear(PageFlag::kReserved);
        page.refcount = 0;
        sim::SpinGuard guard(zone.lock);
        mem_->buddy_.free_one_page(zone, page, Order(0), mem_->sparse_.pageblock_type(pfn));
      }
    });
  }
}

}  // namespace quire::phys
