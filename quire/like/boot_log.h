// What a kernel's boot log tells of its machine's memory. The log may carry any of the usual marks before its lines (seconds,
// dates, syslog's host and program, levels), several boots (the last counts), and gaps.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/types.h"

namespace quire::like {

struct NodeRange {
  unsigned nid = 0;
  Range<PhysAddr> range;
};

// "Freeing initrd memory: 1436K"
struct FreedMemory {
  std::string what;  // "initrd", "SMP alternatives", "unused kernel image (initmem)"
  std::uint64_t kib = 0;
};

// "Memory: 83532K/130552K available (14343K kernel code, … 46816K reserved, …)"
struct MemoryLine {
  std::uint64_t total_kib = 0;
  std::uint64_t code_kib = 0;
  std::uint64_t rodata_kib = 0;
  std::uint64_t reserved_kib = 0;
};

struct MapLine {
  Range<PhysAddr> range;
  std::string type;
};

struct BootLog {
  bool from_the_start = false;  // it begins with the kernel's version
  unsigned boots = 0;
  std::string version;  // behind "Linux version "
  std::optional<std::string> cmdline;
  std::vector<MapLine> firmware_map;          // BIOS-e820
  std::vector<Range<PhysAddr>> reserved_ram;  // what the kernel itself called reserved in the map
  std::vector<Range<PhysAddr>> removed_ram;   // and what it took out of it
  std::vector<NodeRange> node_ranges;         // "Early memory node ranges"
  std::vector<NodeRange> srat;                // ACPI's affinity table
  std::vector<unsigned> srat_cpus;            // the node of each processor, in ACPI's order
  std::optional<unsigned> cpus;               // "smp: Brought up …"
  std::optional<Range<PhysAddr>> ramdisk;
  std::optional<MemoryLine> memory;
  std::vector<FreedMemory> freed;
  // With memblock=debug: what was reserved when the rest went to the buddy. nullopt: not logged, or not from a known state on.
  std::optional<std::vector<Range<PhysAddr>>> reserved;
  // The first state that the log shows, in which the kernel's own image is the largest part.
  std::vector<Range<PhysAddr>> reserved_first;
  // Of it, what EFI's boot services had, and the gigantic pages that the command line asked for.
  std::vector<Range<PhysAddr>> efi_boot_services;
  std::vector<Range<PhysAddr>> gigantic_pages;
  std::uint64_t gigantic_bytes = 0;          // "HugeTLB: registered 1.00 GiB page size, pre-allocated 1 pages"
  std::optional<std::uint64_t> total_pages;  // "Built … Total pages: …", which 6.1 counts less what is reserved below 16 MiB
  unsigned dropped = 0;                      // places where the kernel says that it lost lines
  std::vector<std::string> layout;           // lines on zones, nodes and zonelists, word for word
};

[[nodiscard]] BootLog parse_boot_log(std::string_view text);
// A line without what stands before the kernel's own words.
[[nodiscard]] std::string_view log_message(std::string_view line);

}  // namespace quire::like
