// The parameters of the kernel's command line that shape memory, with the kernel's own semantics (its document
// kernel-parameters; checked against booted 6.1 guests):
//
//   mem=nn[KMGTPE]              nothing at or above nn is RAM
//   memmap=nn                   the same
//   memmap=nn@ss  #ss  $ss  !ss [ss, ss+nn) is RAM, ACPI data, reserved, persistent memory (type 12)
//   memmap=nn%ss-from+to        of type `from` in [ss, ss+nn) becomes type `to`; without `to` it goes, without `from` it is added
//   memmap=exactmap             forget the firmware's map; what follows is all there is
//   kernelcore=nn[KMG] | nn%    at least this much for the kernel, the rest is ZONE_MOVABLE
//   movablecore=nn[KMG] | nn%   this much for ZONE_MOVABLE
//   cma=nn[KMG]@ss[-ee]         an area of nn for contiguous requests, at ss, or anywhere in ss-ee; cma=0: none
//
// Those of the slab allocator (slub_debug= and so on) are read by the machine, kernel/slab_options.h.
//
// Parameters take effect in the order in which they stand. Where entries overlap, the higher type wins afterwards
// (FirmwareMap::sanitize), so that `@` does not make RAM of what the firmware reserves. memmap= takes several, separated by
// commas. What is not known here is kept: the kernel hands it to the init process.
//
// Stricter than Linux, whose map takes whatever stands there: a size that 64 bits do not hold, an empty range, one beyond
// 46 bits of address and persistent memory of no whole pages are errors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/phys/boot_error.h"
#include "quire/phys/firmware_map.h"
#include "quire/phys/phys_config.h"

namespace quire::phys {

// memparse(): decimal, 0x hexadecimal or 0 octal, with one suffix of KMGTPE. Takes what it reads off `text`; 0 and nothing
// taken when no number stands there. Wraps beyond 2^64 as the kernel does.
std::uint64_t memparse(std::string_view& text);

// An amount of memory, or a share of all there is.
struct CoreRequest {
  std::uint64_t pages = 0;
  unsigned percent = 0;
};

struct KernelParameters {
  CoreRequest kernelcore;
  CoreRequest movablecore;
  CmaRequest cma;                              // no bytes: no area
  std::optional<std::uint64_t> highmem_pages;  // highmem=: of i386
  std::vector<std::string> unknown;            // "name" or "name=value"

  // Takes in a command line, words separated by blanks, and changes `map` as they say. An error names the word.
  static BootResult<KernelParameters> parse(std::string_view cmdline, FirmwareMap& map, Arch arch = Arch::kX86_64);

  enum class Map : std::uint8_t { kAsGiven, kUserDefined };
  Map map = Map::kAsGiven;  // did any word touch the map?
};

}  // namespace quire::phys
