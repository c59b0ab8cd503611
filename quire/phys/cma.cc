#include "quire/phys/cma.h"

#include <algorithm>

#include "quire/phys/memblock.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

namespace {

constexpr std::uint64_t kMinAlign = kPageblockPages * kPageSize;
constexpr PhysAddr kAboveDma32{4 * kGiB};

bool is_ram(const Memblock& memblock, Range<PhysAddr> range) {
  return std::ranges::any_of(memblock.memory(), [&](const MemblockRegion& m) { return m.range.contains(range); });
}

bool is_region_reserved(const Memblock& memblock, Range<PhysAddr> range) {
  return std::ranges::any_of(memblock.reserved(), [&](const MemblockRegion& r) { return r.range.overlaps(range); });
}

}  // namespace

CmaArea::CmaArea(std::string name, Range<Pfn> pfns, unsigned order_per_bit)
    : name_(std::move(name)),
      pfns_(pfns),
      order_per_bit_(order_per_bit),
      words_(Bitmap::words_for(pfns.size() >> order_per_bit)),
      bitmap_(words_, pfns.size() >> order_per_bit) {}

std::size_t CmaArea::bits_for(std::uint64_t pages) const {
  return (pages + (std::uint64_t{1} << order_per_bit_) - 1) >> order_per_bit_;
}

// The first run of `count` clear bits at or after `from` whose first page is aligned; the bitmap's size: there is none.
std::size_t CmaArea::find(std::size_t from, std::size_t count, unsigned align) const {
  const unsigned bits = align > order_per_bit_ ? align - order_per_bit_ : 0;
  const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
  const std::uint64_t offset = pfns_.begin.value() >> order_per_bit_ & mask;  // bit 0 need not be aligned itself
  for (;;) {
    const std::size_t zero = bitmap_.find_next_zero(from);
    const std::size_t start = ((zero + offset + mask) & ~mask) - offset;
    if (start >= bitmap_.size() || count > bitmap_.size() - start) return bitmap_.size();
    const std::size_t taken = bitmap_.find_next(start);
    if (taken >= start + count) return start;
    from = taken + 1;
  }
}

CmaAreas::CmaAreas(PhysMem& mem) : mem_(mem), mutex_(mem.scheduler(), mem.scheduler().locks().lock_class("cma_mutex")) {}

Result<Range<PhysAddr>> CmaAreas::reserve(Memblock& memblock, const CmaRequest& request) {
  const std::uint64_t size = align_up(request.bytes, kMinAlign);
  const PhysAddr base = align_up(request.base, kMinAlign);
  const PhysAddr end = memblock.end_of_dram();
  PhysAddr limit = align_down(request.limit, kMinAlign);
  if (limit == PhysAddr{} || limit > end) limit = end;
  const bool fixed = request.place == CmaRequest::Place::kFixed && base != PhysAddr{};
  if (size == 0 || (fixed && base != request.base) || base + size > limit || base + size < base) return fail(Errno::kInval);
  if ((size >> kPageShift) % (std::uint64_t{1} << request.order_per_bit) != 0) return fail(Errno::kInval);
  if (fixed) {
    const Range<PhysAddr> range{base, base + size};
    if (!is_ram(memblock, range)) return fail(Errno::kInval);
    if (is_region_reserved(memblock, range)) return fail(Errno::kBusy);
    memblock.reserve(range);
    return range;
  }
  MemblockAllocSpec spec{.size = size, .align = kMinAlign, .min = kAboveDma32, .max = limit};
  std::optional<PhysAddr> at;
  if (end >= kAboveDma32 + size && limit >= kAboveDma32 + size) {
    // Low in the upper memory: the zones below 4 GiB are spared, and compaction moves pages out of the area, not into it.
    memblock.set_direction(MemblockDirection::kBottomUp);
    at = memblock.find(spec);
    memblock.set_direction(MemblockDirection::kTopDown);
  }
  spec.min = base;
  if (!at) at = memblock.find(spec);
  if (!at) return fail(Errno::kNoMem);
  memblock.reserve({*at, *at + size});
  return Range<PhysAddr>{*at, *at + size};
}

void CmaAreas::activate(std::string name, Range<PhysAddr> range, unsigned order_per_bit) {
  const Range<Pfn> pfns{phys_to_pfn(range.begin), phys_to_pfn(range.end)};
  mem_.init_deferred(pfns);
  Zone& zone = mem_.page_zone(mem_.pfn_to_page(pfns.begin));
  const bool one_zone = zone.spans(pfns.begin) && zone.spans(pfns.end - 1);
  for (Pfn block = pfns.begin; block < pfns.end; block += kPageblockPages) {
    Page& head = mem_.pfn_to_page(block);
    for (std::uint64_t i = 0; i < kPageblockPages; ++i) {
      (&head)[i].clear(PageFlag::kReserved);
      (&head)[i].refcount = 0;
    }
    Zone& of_block = mem_.page_zone(head);
    const MigrateType type = one_zone ? MigrateType::kCma : MigrateType::kMovable;
    const sim::SpinGuard guard(of_block.lock);
    mem_.sparse_.set_pageblock_type(block, type);
    mem_.buddy_.free_one_page(of_block, head, kPageblockOrder, type);
    of_block.managed_pages_ += kPageblockPages;
    if (one_zone) of_block.cma_pages_ += kPageblockPages;
  }
  if (one_zone) areas_.push_back(std::make_unique<CmaArea>(std::move(name), pfns, order_per_bit));
}

Page* CmaAreas::alloc(CmaArea& area, std::uint64_t count, unsigned align) {
  const std::size_t bits = area.bits_for(count);
  if (count == 0 || bits > area.bitmap_.size() || align > 63 - kPageShift) return nullptr;
  const std::uint64_t step = std::uint64_t{1} << (align > area.order_per_bit_ ? align - area.order_per_bit_ : 0);
  std::size_t from = 0;
  for (;;) {
    const std::size_t bit = area.find(from, bits, align);
    if (bit >= area.bitmap_.size()) break;
    area.bitmap_.set_range(bit, bits);
    const Pfn pfn = area.pfns_.begin + (static_cast<std::uint64_t>(bit) << area.order_per_bit_);
    Status status;
    {
      const sim::MutexGuard guard(mutex_);
      status = mem_.alloc_contig_range({pfn, pfn + count}, MigrateType::kCma, Gfp::kKernel);
    }
    if (status) {
      area.success_ += count;
      return &mem_.pfn_to_page(pfn);
    }
    area.bitmap_.clear_range(bit, bits);
    if (status.error() != Errno::kBusy) break;
    from = bit + step;  // pinned pages in there: a little further on
  }
  area.fail_ += count;
  return nullptr;
}

bool CmaAreas::release(CmaArea& area, Page& first, std::uint64_t count) {
  const Pfn pfn = mem_.page_to_pfn(first);
  const Range<Pfn> pfns{pfn, pfn + count};
  if (count == 0 || !area.pfns_.contains(pfns)) return false;
  mem_.free_contig_range(pfns);
  area.bitmap_.clear_range((pfn - area.pfns_.begin) >> area.order_per_bit_, area.bits_for(count));
  return true;
}

CmaArea* CmaAreas::find(std::string_view name) {
  const auto found = std::ranges::find_if(areas_, [&](const auto& area) { return area->name() == name; });
  return found == areas_.end() ? nullptr : found->get();
}

std::uint64_t CmaAreas::total_pages() const {
  std::uint64_t pages = 0;
  for (const auto& area : areas_) pages += area->pfns().size();
  return pages;
}

}  // namespace quire::phys
