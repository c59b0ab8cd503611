#include "quire/phys/hot_memmap.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "quire/phys/phys_mem.h"

namespace quire::phys {

namespace {

constexpr Order kMemmapOrder{9};  // a section's struct Pages: 2 MiB
constexpr std::uint64_t kUsageSlotBytes = 64;
constexpr std::uint64_t kAllSlots = ~std::uint64_t{0};
constexpr Gfp kMemmapGfp = Gfp::kKernel | Gfp::kRetryMayFail | Gfp::kNoWarn;

}  // namespace

std::uint64_t HotMemmap::subsections(std::uint64_t section, Range<Pfn> pfns) {
  const Pfn start = SparseMemory::section_start(section);
  const Range<Pfn> part = pfns.intersect({start, start + kPagesPerSection});
  const std::uint64_t first = (part.begin - start) / kPageblockPages;
  const std::uint64_t count = part.size() / kPageblockPages;
  return count >= 64 ? ~std::uint64_t{0} : ((std::uint64_t{1} << count) - 1) << first;
}

bool HotMemmap::in_early_section(Range<Pfn> pfns) const {
  for (std::uint64_t s = SparseMemory::section_of(pfns.begin); s <= SparseMemory::section_of(pfns.end - 1); ++s) {
    const MemSection& section = mem_.sparse_.section(s);
    if (section.state != SectionState::kAbsent && section.early) return true;
  }
  return false;
}

Status HotMemmap::add_pages(Nid nid, Range<Pfn> pfns) {
  if (pfns.empty() || align_down(pfns.begin, kPageblockPages) != pfns.begin ||
      align_down(pfns.end, kPageblockPages) != pfns.end) {
    return fail(Errno::kInval);
  }
  if (SparseMemory::section_of(pfns.end - 1) >= mem_.sparse_.size()) return fail(Errno::kTooBig);
  const std::uint64_t first = SparseMemory::section_of(pfns.begin);
  const std::uint64_t last = SparseMemory::section_of(pfns.end - 1);
  for (std::uint64_t s = first; s <= last; ++s) {
    const MemSection& section = mem_.sparse_.section(s);
    if (section.state == SectionState::kAbsent) continue;
    const std::uint64_t wanted = subsections(s, pfns);
    // A section of boot has them for its holes too; only a part of such a section may be added.
    if (section.early ? wanted == kAllSlots : (section.subsections & wanted) != 0) return fail(Errno::kExist);
  }
  for (std::uint64_t s = first; s <= last; ++s) {
    MemSection& section = mem_.sparse_.section(s);
    if (section.state != SectionState::kAbsent && section.early) continue;
    const bool fresh = section.state == SectionState::kAbsent;
    Status status = fresh ? add_section(nid, s) : Status();
    const Pfn start = SparseMemory::section_start(s);
    const Range<Pfn> part = pfns.intersect({start, start + kPagesPerSection});
    if (status) {
      status = populate(nid, part, sections_[s]);
      if (!status && fresh) remove_section(s);
    }
    if (!status) {
      if (start > pfns.begin) remove_pages({pfns.begin, start});
      return status;
    }
    section.subsections |= subsections(s, part);
  }
  return {};
}

// The section itself: its pageblock flags, all movable, and no struct Pages yet.
Status HotMemmap::add_section(Nid nid, std::uint64_t number) {
  HotSection hot;
  if (Status status = take_usage(nid, number, hot); !status) return status;
  MemSection& section = mem_.sparse_.section(number);
  section.state = SectionState::kOffline;
  section.nid = nid;
  section.early = false;
  section.subsections = 0;
  sections_[number] = std::move(hot);
  const Pfn start = SparseMemory::section_start(number);
  for (Pfn pfn = start; pfn < start + kPagesPerSection; pfn += kPageblockPages) {
    mem_.sparse_.set_pageblock_type(pfn, MigrateType::kMovable);
  }
  return {};
}

void HotMemmap::remove_section(std::uint64_t number) {
  give_usage(sections_[number]);
  sections_.erase(number);
  mem_.sparse_.section(number) = MemSection{};
}

void HotMemmap::remove_pages(Range<Pfn> pfns) {
  for (std::uint64_t s = SparseMemory::section_of(pfns.begin); s <= SparseMemory::section_of(pfns.end - 1); ++s) {
    MemSection& section = mem_.sparse_.section(s);
    if (section.early) continue;
    const Pfn start = SparseMemory::section_start(s);
    const Range<Pfn> part = pfns.intersect({start, start + kPagesPerSection});
    section.subsections &= ~subsections(s, part);
    mem_.arena_.unmap_memmap(part);
    depopulate(sections_[s], part);
    if (section.subsections == 0) remove_section(s);
  }
}

// Backs the struct Pages of [pfns), within one section, with frames of the machine.
Status HotMemmap::populate(Nid nid, Range<Pfn> pfns, HotSection& hot) {
  const auto back = [&](Range<Pfn> part, Order order) {
    Page* frames = mem_.alloc_pages(kMemmapGfp, order, nid);
    if (frames == nullptr) return false;
    hot.frames.push_back({part, frames, order});
    const PhysAddr at = mem_.page_to_phys(*frames);
    mem_.arena_.discard({at, at + order.bytes()});  // zeros, and no host memory until somebody writes there
    return mem_.arena_.map_memmap(part, mem_.page_to_phys(*frames)).has_value();
  };
  constexpr std::uint64_t kPagesPerFrame = kPageSize / sizeof(Page);
  bool done = pfns.size() == kPagesPerSection && back(pfns, kMemmapOrder);
  if (!done) {
    depopulate(hot, pfns);
    done = true;
    for (Pfn pfn = pfns.begin; done && pfn < pfns.end; pfn += kPagesPerFrame)
      done = back({pfn, pfn + kPagesPerFrame}, Order(0));
  }
  if (!done) {
    mem_.arena_.unmap_memmap(pfns);
    depopulate(hot, pfns);
    return fail(Errno::kNoMem);
  }
  mem_.scheduler().charge(mem_.scheduler().costs().clear_page * bytes_to_pages_up(pfns.size() * sizeof(Page)));
  return {};
}

void HotMemmap::depopulate(HotSection& hot, Range<Pfn> pfns) {
  for (const Frames& frames : hot.frames) {
    if (pfns.contains(frames.serves)) mem_.free_pages(*frames.first, frames.order);
  }
  std::erase_if(hot.frames, [&](const Frames& frames) { return pfns.contains(frames.serves); });
}

Status HotMemmap::take_usage(Nid nid, std::uint64_t section, HotSection& hot) {
  auto place = std::ranges::find_if(usage_, [](const auto& page) { return page.second != kAllSlots; });
  if (place == usage_.end()) {
    Page* page = mem_.alloc_pages(Gfp::kKernel | Gfp::kZero, Order(0), nid);
    if (page == nullptr) return fail(Errno::kNoMem);
    place = usage_.emplace(mem_.page_to_pfn(*page), 0).first;
  }
  hot.usage_page = place->first;
  hot.usage_slot = static_cast<unsigned>(std::countr_one(place->second));
  place->second |= std::uint64_t{1} << hot.usage_slot;
  std::byte* at = mem_.page_address(mem_.pfn_to_page(hot.usage_page)) + hot.usage_slot * kUsageSlotBytes;
  std::memset(at, 0, kUsageSlotBytes);
  mem_.sparse_.section(section).pageblock_flags = reinterpret_cast<std::uint64_t*>(at);
  return {};
}

void HotMemmap::give_usage(const HotSection& hot) {
  const auto place = usage_.find(hot.usage_page);
  place->second &= ~(std::uint64_t{1} << hot.usage_slot);
  if (place->second != 0) return;
  mem_.free_page(mem_.pfn_to_page(hot.usage_page));
  usage_.erase(place);
}

}  // namespace quire::phys
