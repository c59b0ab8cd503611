// How a machine's physical memory comes up, in Linux's order. Used once, by PhysMem::boot; then only PhysMem is left.
//
//   boot.cc         the order of things; firmware map → memblock; what is reserved; memblock_free_all; late frees
//   boot_bootmem.cc which early allocator; bootmem's part of the boot
//   boot_nodes.cc   RAM and CPUs over the nodes; distances and zonelists
//   boot_memmap.cc  sparse sections, where the memmap lies, initialising struct Pages
//   boot_zones.cc   zone ranges, spanned and present pages
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quire/phys/bootmem.h"
#include "quire/phys/kernel_parameters.h"
#include "quire/phys/phys_mem.h"
#include "quire/phys/range_set.h"

namespace quire::phys {

class PhysBoot {
 public:
  PhysBoot(const PhysConfig& config, sim::Scheduler& scheduler, TraceRegistry& traces, BootLogSink log);
  BootResult<std::unique_ptr<PhysMem>> run();

  // Cuts [pfns) into the largest aligned blocks that fit and calls f(Pfn, Order) for each, ascending.
  template <class F>
  static void for_each_block(Range<Pfn> pfns, F&& f);
  // Calls f(Zone&, Range<Pfn>) for the part of each zone of `nid` inside [pfns).
  template <class F>
  static void for_each_zone_part(Node& node, Range<Pfn> pfns, F&& f);

 private:
  // When something reserved comes to its zone: between init_per_zone_wmark_min and huge pages, or after both.
  enum class Stage : std::uint8_t { kBetween, kLate };
  enum class Use : std::uint8_t { kFree, kHugetlb };  // the latter: managed, but in no free list

  // boot.cc
  BootStatus check_config();
  BootStatus e820_memory_setup();
  BootStatus reserve_boot_images();
  BootStatus reserve_as_recorded();
  std::optional<PhysAddr> recorded_alloc(const MemblockAllocSpec& spec);
  BootStatus find_low_pfn_range();
  BootStatus create_arena();
  BootStatus create_phys_mem();
  // The boot allocator of the machine's kernel: bootmem for 2.4, memblock else. Memblock knows of all that is taken. On a
  // recorded machine from what its own boot had reserved, as long as there is room.
  std::optional<PhysAddr> boot_alloc(const MemblockAllocSpec& spec);
  void boot_reserve(Range<PhysAddr> range, Nid nid);
  BootStatus setup_bootmem();
  void free_to_buddy(Nid nid, Range<Pfn> pfns);
  void free_all_bootmem();
  [[nodiscard]] Range<PhysAddr> hotplug_window() const;
  BootStatus dma_contiguous_reserve();
  void cma_init_reserved_areas();
  BootStatus memory_dev_init();
  [[nodiscard]] Nid target_node(PhysAddr at) const;
  BootStatus apply_zone_managed();
  BootStatus reserve_in_zone(Zone& zone, std::uint64_t pages, const ZoneManaged& target);
  void memblock_free_all();
  void mem_init_print_info();
  void e820_reserve_resources();
  BootStatus check_enough();
  void compute_watermarks();
  [[nodiscard]] HugePagesAtBoot huge_pages_at_boot() const;
  void give_back(Stage stage);
  void apply_recorded_sysctl();
  void free_reserved_area(Range<Pfn> pfns);
  [[nodiscard]] BootError too_small(std::string_view what) const;

  // boot_nodes.cc
  BootStatus initmem_init();
  [[nodiscard]] std::vector<Range<PhysAddr>> installed_ram() const;
  BootStatus split_ram();
  BootStatus take_node_memory();
  BootStatus alloc_node_data();
  void create_nodes();
  void build_all_zonelists();

  // boot_memmap.cc
  BootStatus sparse_init();
  BootStatus sparse_init_node(Nid nid, const std::vector<std::uint64_t>& sections);
  void choose_deferred();
  void memmap_init();

  // boot_zones.cc
  void free_area_init();
  void find_zone_movable_pfns_for_nodes(const std::array<Range<Pfn>, kZoneTypes>& limits, ZoneType movable_zone);
  [[nodiscard]] Range<Pfn> zone_span(const Node& node, Range<Pfn> node_span, ZoneType type,
                                     const std::array<Range<Pfn>, kZoneTypes>& limits, ZoneType movable_zone) const;
  void report_unavailable_ranges();
  [[nodiscard]] std::uint64_t total_pages() const;

  template <class... Args>
  void log(std::string_view format, Args&&... args);
  [[nodiscard]] bool deferred(Pfn pfn) const { return !mem_->sparse_.page_initialised(pfn); }

  PhysConfig config_;
  sim::Scheduler& scheduler_;
  TraceRegistry& traces_;
  BootLogSink sink_;
  std::vector<std::string> log_;
  FirmwareMap map_;          // as the firmware gave it
  Range<PhysAddr> image_{};  // of the kernel
  Pfn max_low_pfn_{};        // i386: where HighMem begins
  FirmwareMap usable_;       // as the kernel's parameters and its own rules left it
  KernelParameters parameters_;
  std::vector<Pfn> movable_start_;  // by node: where ZONE_MOVABLE begins; 0: it has none
  Memblock memblock_;
  RangeSet recorded_;           // of what a recorded machine had reserved, the part that boot has not used yet
  std::optional<Arena> arena_;  // until PhysMem has it
  std::optional<Bootmem> bootmem_;
  std::uint64_t ram_bytes_ = 0;
  std::vector<std::uint64_t> node_bytes_;
  std::vector<std::pair<CmaRequest, Range<PhysAddr>>> cma_;  // what was reserved for CMA areas
  std::vector<std::pair<Range<PhysAddr>, Nid>> installed_;   // how RAM was dealt to the nodes, ascending; empty: one node
  struct LateFree {
    std::string what;  // "initrd"; empty: say nothing
    Range<Pfn> pfns;
    Stage stage = Stage::kLate;
    Use use = Use::kFree;
  };
  BootStatus add_late(const Reservation& reservation, Stage stage, Use use);
  std::vector<LateFree> late_;
  std::unique_ptr<PhysMem> mem_;
};

template <class F>
void PhysBoot::for_each_block(Range<Pfn> pfns, F&& f) {
  Pfn at = pfns.begin;
  while (at < pfns.end) {
    unsigned order = kMaxOrder.value();
    while ((at.value() & ((std::uint64_t{1} << order) - 1)) != 0 || pfns.end - at < std::uint64_t{1} << order) --order;
    f(at, Order(order));
    at += std::uint64_t{1} << order;
  }
}

template <class F>
void PhysBoot::for_each_zone_part(Node& node, Range<Pfn> pfns, F&& f) {
  node.for_each_zone([&](Zone& zone) {
    const Range<Pfn> part = pfns.intersect({zone.start_pfn(), zone.end_pfn()});
    if (!part.empty()) f(zone, part);
  });
}

}  // namespace quire::phys
