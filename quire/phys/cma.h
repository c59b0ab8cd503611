// CMA areas: stretches reserved at boot for large contiguous requests, which movable pages may use meanwhile.
//
//   boot       memblock reserves the area (cma=, PhysConfig::cma); its pageblocks become Cma and go to the buddy
//   use        movable requests take from it, first when it holds more than half of what is free, else as a last resort
//   alloc      finds a run in the area's bitmap and empties it (alloc_contig_range)
//
// Locking: cma_mutex, taken inside, as long as a range is emptied.
// Differs from Linux: Debian's kernels are built without CMA; here a machine has it when it is given an area, and only then
// shows a CMA column in pagetypeinfo, and CmaTotal and CmaFree in meminfo. The bitmaps are host memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quire/base/bitmap.h"
#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/phys/phys_config.h"
#include "quire/sim/mutex.h"

namespace quire::phys {

class Memblock;
class PhysMem;
struct Page;

class CmaArea {
 public:
  CmaArea(std::string name, Range<Pfn> pfns, unsigned order_per_bit);
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] Range<Pfn> pfns() const { return pfns_; }
  [[nodiscard]] std::uint64_t used_pages() const { return bitmap_.count() << order_per_bit_; }
  [[nodiscard]] std::uint64_t alloc_pages_success() const { return success_; }  // pages, as sysfs counts them
  [[nodiscard]] std::uint64_t alloc_pages_fail() const { return fail_; }

 private:
  friend class CmaAreas;
  [[nodiscard]] std::size_t bits_for(std::uint64_t pages) const;
  [[nodiscard]] std::size_t find(std::size_t from, std::size_t count, unsigned align) const;

  std::string name_;
  Range<Pfn> pfns_;
  unsigned order_per_bit_;
  std::vector<Bitmap::Word> words_;
  Bitmap bitmap_;
  std::uint64_t success_ = 0;
  std::uint64_t fail_ = 0;
};

class CmaAreas {
 public:
  explicit CmaAreas(PhysMem& mem);

  // Boot: reserves what `request` asks for, in whole pageblocks (cma_declare_contiguous). Gives the boot log's line. kInval:
  // not aligned, beyond the limit, or no RAM. kBusy: the fixed place is reserved. kNoMem: no room.
  [[nodiscard]] static Result<Range<PhysAddr>> reserve(Memblock& memblock, const CmaRequest& request);
  // Boot, after the buddy has the rest: an area's pages become its movable pages (cma_init_reserved_areas). An area that
  // lies in two zones is given up; its pages are ordinary ones then.
  void activate(std::string name, Range<PhysAddr> range, unsigned order_per_bit);

  // `count` contiguous pages with one reference each, the first aligned to 2^align pages; nullptr: none to be had. A task
  // calls it (it may sleep).
  [[nodiscard]] Page* alloc(CmaArea& area, std::uint64_t count, unsigned align);
  // Gives such a run back, or a part of one. False: it does not lie in the area.
  bool release(CmaArea& area, Page& first, std::uint64_t count);

  [[nodiscard]] std::span<const std::unique_ptr<CmaArea>> areas() const { return areas_; }
  [[nodiscard]] CmaArea* find(std::string_view name);
  [[nodiscard]] std::uint64_t total_pages() const;

 private:
  PhysMem& mem_;
  sim::Mutex mutex_;
  std::vector<std::unique_ptr<CmaArea>> areas_;
};

}  // namespace quire::phys
