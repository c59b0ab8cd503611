// What a machine's physical memory is made of, before boot.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/types.h"
#include "quire/phys/data_mode.h"
#include "quire/phys/firmware_map.h"
#include "quire/sim/fault_injection.h"

namespace quire::phys {

struct NodeConfig {
  std::uint64_t bytes = 0;                   // RAM of this node (as installed, before the firmware's holes); 0: memory-less
  std::vector<unsigned> cpus = {};           // empty on every node: CPUs are dealt out in turn
  std::vector<unsigned> distances = {};      // to each node; empty: 10 to itself, 20 to the others
  std::vector<Range<PhysAddr>> memory = {};  // where its RAM lies, in place of `bytes`; named on one node, it counts on all
};

enum class DeferredInit : std::uint8_t {
  kAuto,  // when the machine is large enough for it to pay
  kOff,
  kOn,
};

// Whether huge pages are on at boot, which raises min_free_kbytes as khugepaged does.
enum class HugePagesAtBoot : std::uint8_t {
  kAuto,  // as Linux: on from 512 MiB, unless the command line says never
  kOff,   // not compiled in, or the machine is too small for them
  kOn,
  kNever,  // there but switched off: khugepaged computes min_free_kbytes once more, now less what the watermarks keep
};

// What becomes of persistent memory (memmap=nn!ss) at boot: the pmem driver takes it and gives it struct Pages, as on a
// system whose initrd loads nd_pmem, or it lies untouched.
enum class PmemAtBoot : std::uint8_t { kFsdax, kNone };

// Which machine's zones: i386 maps the lower 896 MiB only and addresses 4 GiB, with PAE 64 GiB.
enum class Arch : std::uint8_t { kX86_64, kI386, kI386Pae };

// Whose way of finding a page (alloc/alloc_policy.h).
enum class AllocPolicyKind : std::uint8_t { kLinux24, kLinux40, kLinux6 };

// A stretch that something other than memblock's own users took before or during boot.
struct Reservation {
  Range<PhysAddr> range;
  std::string name;
};

// How many pages a zone manages, given from outside (a recorded machine): boot reserves the rest of what is free there.
// Linux computes watermarks before all of it is there, so there are several figures.
struct ZoneManaged {
  Nid nid{};
  unsigned zone = 0;                // ZoneType
  std::uint64_t at_watermarks = 0;  // when init_per_zone_wmark_min runs
  std::uint64_t at_end = 0;         // when boot is over
  // Of the difference, what came between that and the huge pages, which compute watermarks again: what was freed (EFI's boot
  // services), and what stays in the pool of gigantic pages. The rest (initrd, init sections) comes after.
  std::uint64_t freed_between = 0;
  std::uint64_t hugetlb = 0;
};

// What is known of a recorded machine's boot besides its map and parameters; what is empty is not known.
struct RecordedBoot {
  // All that memblock had reserved when it gave the rest to the buddy. Boot puts what it allocates itself inside.
  std::vector<Range<PhysAddr>> reserved;
  // Parts of it that were freed, and what the log calls them: between init_per_zone_wmark_min and the huge pages' start, which
  // computes watermarks again, and after both.
  std::vector<Reservation> freed_between;
  std::vector<Reservation> freed_late;
  std::vector<Reservation> hugetlb;       // gigantic pages: their zone manages them from the first of these moments on
  std::vector<ZoneManaged> zone_managed;  // for a machine whose `reserved` is not known
  std::vector<Reservation> resources;     // lines of iomem that no memory map tells: devices, sections of the kernel's image
  HugePagesAtBoot huge_pages = HugePagesAtBoot::kAuto;
  std::optional<PmemAtBoot> pmem;  // what had become of persistent memory

  // What was written to /proc/sys/vm when boot was over; Linux then computes what hangs on it from the final figures.
  std::optional<std::uint64_t> min_free_kbytes;
  std::optional<std::uint32_t> watermark_scale_factor;
  std::optional<std::uint32_t> percpu_pagelist_high_fraction;
  std::vector<std::uint32_t> lowmem_reserve_ratio;  // empty: not written
  bool watermarks_again = false;  // computed again without another value (huge pages switched, the same written)
  bool protection_again = false;
};

// A CMA area to be reserved at boot (cma.h).
struct CmaRequest {
  std::string name;
  std::uint64_t bytes = 0;  // rounded up to pageblocks
  PhysAddr base{};          // not below this, or just there
  PhysAddr limit{};         // not above this; 0: anywhere
  enum class Place : std::uint8_t { kAnywhere, kFixed } place = Place::kAnywhere;
  unsigned order_per_bit = 0;  // of the area's bitmap
};

struct PhysConfig {
  sim::FaultInjection* faults = nullptr;  // failures of boot's own allocations (FaultPoint::kPageAlloc); not kept
  std::uint64_t ram_bytes = 0;            // used when firmware_map is not given
  std::optional<FirmwareMap> firmware_map;
  std::string cmdline;            // the kernel's parameters; kernel_parameters.h says which count
  std::vector<NodeConfig> nodes;  // empty: one node with everything
  unsigned cpus = 1;
  std::uint64_t kernel_reserved = 16 * kMiB;  // kernel image, from 16 MiB up; 0: none
  std::uint64_t initrd_bytes = 0;             // freed again once the machine has booted
  std::vector<Reservation> reservations;      // more, at fixed places
  std::vector<ZoneManaged> zone_managed;
  std::uint64_t max_ram_bytes = 0;  // with what may be plugged in later (QEMU's maxmem); up to ram_bytes: nothing may
  unsigned memory_slots = 0;        // for modules plugged in later; each widens the room by 1 GiB to align in
  std::vector<CmaRequest> cma;      // areas besides that of the parameter cma=
  PmemAtBoot pmem = PmemAtBoot::kFsdax;
  RecordedBoot recorded;  // its zone_managed adds to the one above
  Arch arch = Arch::kX86_64;
  DataMode data_mode = DataMode::kData;
  DeferredInit deferred_init = DeferredInit::kAuto;
  HugePagesAtBoot huge_pages = HugePagesAtBoot::kAuto;
  AllocPolicyKind alloc_policy = AllocPolicyKind::kLinux6;

  // Tunables under their sysctl names; nullopt: as Linux computes them.
  std::optional<std::uint64_t> min_free_kbytes;
  std::uint32_t watermark_scale_factor = 10;
  std::uint32_t watermark_boost_factor = 15000;
  std::vector<std::uint32_t> lowmem_reserve_ratio;  // by the kernel's zone numbers; empty: 256 for DMA and DMA32, 32 for Normal
  std::uint32_t percpu_pagelist_high_fraction = 0;
};

using BootLogSink = std::function<void(std::string_view line)>;

}  // namespace quire::phys
