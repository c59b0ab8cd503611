// The firmware's map of physical memory (e820): ranges with a type, as the BIOS hands it to the kernel, and what the
// kernel does with it before memblock (sorting, overlaps, trimming).
//
// FirmwareMap::pc(bytes) is the map that QEMU's i440fx "pc" gives for -m bytes:
//
//   0 ─ 9fc00 usable, ─ a0000 reserved, f0000 ─ 100000 reserved, 100000 ─ top−128 KiB usable, ─ top reserved (ACPI),
//   fffc0000 ─ 4 GiB reserved (BIOS), 4 GiB ─ … usable (RAM above 3.5 GiB is split at 3 GiB), fd00000000 ─ 1 TiB reserved
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/types.h"
#include "quire/phys/boot_error.h"

namespace quire::phys {

enum class E820Type : std::uint32_t {
  kRam = 1,
  kReserved = 2,
  kAcpi = 3,
  kNvs = 4,
  kUnusable = 5,
  kPmem = 7,
  kPram = 12,  // "persistent (type 12)": what memmap=nn!ss makes
};
[[nodiscard]] std::string_view e820_type_name(E820Type type);  // "usable", "reserved", …

struct E820Entry {
  Range<PhysAddr> range;
  E820Type type = E820Type::kRam;
  bool operator==(const E820Entry&) const = default;
};

class FirmwareMap {
 public:
  static FirmwareMap pc(std::uint64_t ram_bytes);
  // From text: every line with "[mem 0xA-0xB] TYPE" as the kernel prints its map, so that a boot log will do. Lines marked
  // BIOS-e820 count alone when there are any (a log also has the map that the kernel's parameters made of it); other lines
  // are passed over. An error names the line.
  static BootResult<FirmwareMap> parse(std::string_view text);

  void add(Range<PhysAddr> range, E820Type type);
  // Changes the parts of `range` that are of type `from` (e820__range_update); gives the bytes changed.
  std::uint64_t update(Range<PhysAddr> range, E820Type from, E820Type to);
  // Removes the parts of `range` that are of `type` (e820__range_remove); gives the bytes removed.
  std::uint64_t remove(Range<PhysAddr> range, E820Type type);
  // The same whatever the type.
  std::uint64_t remove(Range<PhysAddr> range);
  // Sorts, resolves overlaps (the higher type wins) and joins neighbours of one type (e820__update_table).
  void sanitize();

  [[nodiscard]] const std::vector<E820Entry>& entries() const { return entries_; }
  [[nodiscard]] std::uint64_t ram_bytes() const;
  [[nodiscard]] PhysAddr end_of_ram() const;  // end of the highest usable range
  // "BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable" a line each; `who` is "BIOS-e820".
  [[nodiscard]] std::vector<std::string> lines(std::string_view who) const;

 private:
  template <class Matches>
  std::uint64_t remove_if(Range<PhysAddr> range, Matches&& matches);

  std::vector<E820Entry> entries_;
};

}  // namespace quire::phys
