// Persistent memory (memmap=nn!ss) and what drivers make of it.
//
//   region                      1400000000-1fffffffff : Persistent Memory (legacy)
//   attached by the pmem driver   1400000000-1fffffffff : namespace0.0            struct Pages in ZONE_DEVICE (fsdax)
//   or given to the system        1400000000-14001fffff : namespace0.0            the label
//                                 1440000000-1fffffffff : dax0.0
//                                   1440000000-1fffffffff : System RAM (kmem)     memory blocks of a node
//
// Pages of ZONE_DEVICE are reserved and belong to no buddy; the zone spans them and has none present. As in Linux it never
// shrinks again. Each region's struct Pages come from the machine's own RAM (64 bytes for each 4 KiB), those of a stretch
// that shares a section with RAM are there since boot.
// Locking: mem_hotplug_lock, taken inside.
// Differs from Linux: regions are those of the firmware map only, one namespace each; struct Pages never lie on the device.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/phys/memory_hotplug.h"

namespace quire::phys {

enum class PmemMode : std::uint8_t {
  kRaw,    // nobody has it
  kFsdax,  // the pmem driver has it
  kKmem,   // RAM of a node
};

struct PmemRegion {
  unsigned id = 0;
  Range<PhysAddr> range;
  Nid nid{};  // where it lies
  PmemMode mode = PmemMode::kRaw;
  Range<PhysAddr> kmem{};                               // the part that is RAM
  std::set<std::uint64_t> waiting{};                    // sections whose struct Pages nobody has asked for
  std::map<std::uint64_t, std::uint64_t> hole_flags{};  // of sections shared with RAM: flags of the hole's struct Pages
};

class DeviceMemory {
 public:
  explicit DeviceMemory(PhysMem& mem) : mem_(mem) {}

  // Boot: a region of the firmware map. Ascending, disjoint.
  void add_region(Range<PhysAddr> range, Nid nid);
  // The pmem driver comes up and takes what it can; a region it cannot take stays raw.
  void probe();

  [[nodiscard]] std::span<const PmemRegion> regions() const { return regions_; }
  // The region around a range; null: none.
  [[nodiscard]] const PmemRegion* region_of(Range<PhysAddr> range) const;

  // The struct Page of a frame in an attached region. (Those of a large region are initialised a section at a time, when
  // somebody asks; until then they are zero.)
  [[nodiscard]] Page& page(Pfn pfn);

  // nd_pmem takes (gives up) a region. kNoEnt: there is none of that number. kBusy: it is in use (it is not attached).
  // kOpNotSupp: the region is not made of whole 2 MiB. kNoMem: no memory for struct Pages. On failure nothing has changed.
  [[nodiscard]] Status attach(unsigned region);
  [[nodiscard]] Status detach(unsigned region);

  // Gives the whole memory blocks of `range`, which lies in one region, to the system as RAM of `nid`, offline (the dax kmem
  // driver). The pmem driver lets go of the region first. kInval: no block in it, no region, or no such node. kBusy: the
  // region is RAM already. kNoMem. On failure nothing has changed.
  [[nodiscard]] Status dax_kmem_add(Range<PhysAddr> range, Nid nid);
  // Takes it back; the region is raw then. kBusy: a block of it is still online. kNoEnt: it is no such RAM.
  [[nodiscard]] Status dax_kmem_remove(Range<PhysAddr> range);

 private:
  Status devm_memremap_pages(PmemRegion& region);
  void memunmap_pages(PmemRegion& region);
  PmemRegion* find(Range<PhysAddr> range);
  [[nodiscard]] static std::string namespace_name(const PmemRegion& region);
  [[nodiscard]] static std::string dax_name(const PmemRegion& region);
  [[nodiscard]] static Range<PhysAddr> label(const PmemRegion& region);

  PhysMem& mem_;
  std::vector<PmemRegion> regions_;
};

}  // namespace quire::phys
