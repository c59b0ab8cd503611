// Swapping in: through the swap cache with readahead, by offsets in the area or by addresses in the VMA, or past the
// cache. Windows are sized as Linux does: hits of the last window plus two, rounded up to a power of two, no larger than
// 1 << page_cluster, and never less than half of the last one.
#include <algorithm>
#include <array>

#include "quire/phys/page_wait.h"
#include "quire/swap/swap_system.h"

namespace quire::swap {

using phys::Folio;
using phys::Gfp;
using phys::VmEvent;

namespace {

// vma->swap_readahead_info: the address of the last fault, the window it led to, and the hits in it.
struct VmaReadaheadInfo {
  static constexpr std::uint64_t kWindowShift = kPageShift / 2;
  static constexpr std::uint64_t kHitsMask = (std::uint64_t{1} << kWindowShift) - 1;
  static constexpr std::uint64_t kHitsMax = kHitsMask;
  static constexpr std::uint64_t kFirst = 4;  // hits a VMA starts with

  explicit VmaReadaheadInfo(std::uint64_t word) {
    if (word == 0) word = kFirst;
    pfn = word >> kPageShift;
    window = static_cast<unsigned>((word >> kWindowShift) & kHitsMask);
    hits = static_cast<unsigned>(word & kHitsMask);
  }
  [[nodiscard]] std::uint64_t pack() const { return (pfn << kPageShift) | (std::uint64_t{window} << kWindowShift) | hits; }

  std::uint64_t pfn;
  unsigned window;
  unsigned hits;
};

constexpr unsigned kSwapRaOrderCeiling = 5;

// __swapin_nr_pages
unsigned window_size(std::uint64_t prev, std::uint64_t here, unsigned hits, unsigned max_pages, unsigned prev_window) {
  unsigned pages = hits + 2;
  if (pages == 2) {
    // No hit of the last window: go on only where a sequence seems to run.
    if (here != prev + 1 && here != prev - 1) pages = 1;
  } else {
    unsigned roundup = 4;
    while (roundup < pages) roundup <<= 1;
    pages = roundup;
  }
  pages = std::min(pages, max_pages);
  return std::max(pages, prev_window / 2);
}

}  // namespace

SwapSystem::NewFolio SwapSystem::read_swap_cache_prepare(SwapEntry entry, Gfp gfp) {
  SwapArea& area = swp_swap_info(entry);
  for (;;) {
    if (Folio* cached = find_get_cached(entry)) return {cached, NewFolio::State::kCached};
    // Nobody names the slot: a neighbour that readahead has no use for.
    if (area.count(entry.offset) == 0) return {};
    Folio* folio = phys_.folio_alloc(gfp);
    if (folio == nullptr) return {};
    Status held;
    {
      sim::SpinGuard guard(area.lock());
      held = area.duplicate_locked(entry.offset, SwapUsage::kCache);
    }
    if (held) {
      phys::folio_set_locked(*folio);
      phys::folio_set_swapbacked(*folio);
      const auto shadow = add_to_swap_cache(*folio, entry);
      if (!shadow) {
        put_swap_folio(entry);
        phys::folio_unlock(phys_, *folio);
        lru_.folio_put(*folio);
        return {};
      }
      if (shadow->is_value()) lru_.workingset_refault(*folio, shadow->value());
      lru_.folio_add_lru(*folio);
      return {folio, NewFolio::State::kAllocated};
    }
    lru_.folio_put(*folio);
    if (held.error() != Errno::kExist) return {};
    // Somebody holds the slot and has not put his folio into the cache yet, or is taking it out.
    scheduler_.sleep_for(kSwapCacheRetry);
  }
}

Folio* SwapSystem::read_swap_cache_async(SwapEntry entry, Gfp gfp, SwapWait wait) {
  const NewFolio got = read_swap_cache_prepare(entry, gfp);
  if (got.folio != nullptr && got.state == NewFolio::State::kAllocated) {
    swap_read_folio(*got.folio, entry);
    if (wait == SwapWait::kForRead) phys::folio_wait_locked(phys_, *got.folio);
  }
  return got.folio;
}

// Reads one page of a window; only the wanted one's folio is what the caller came for.
void SwapSystem::read_ahead_one(SwapEntry entry, SwapEntry wanted, Gfp gfp) {
  const NewFolio got = read_swap_cache_prepare(entry, gfp);
  if (got.folio == nullptr) return;
  if (got.state == NewFolio::State::kAllocated) {
    // Marked before the read: a synchronous device unlocks the folio, and anybody may find it then.
    if (entry != wanted) {
      phys::folio_set_readahead(*got.folio);
      phys_.vmstat().count_vm_event(VmEvent::kSwapRa);
    }
    swap_read_folio(*got.folio, entry);
  }
  lru_.folio_put(*got.folio);
}

unsigned SwapSystem::swapin_nr_pages(std::uint64_t offset) {
  const unsigned max_pages = 1u << tunables_.page_cluster;
  if (max_pages <= 1) return 1;
  const unsigned hits = std::exchange(swapin_readahead_hits_, 0u);
  const unsigned pages = window_size(prev_offset_, offset, hits, max_pages, last_readahead_pages_);
  if (hits == 0) prev_offset_ = offset;
  last_readahead_pages_ = pages;
  return pages;
}

// The aligned block of the area around the slot: what was swapped out together comes back together.
Folio* SwapSystem::swap_cluster_readahead(SwapEntry entry, Gfp gfp) {
  const std::uint64_t mask = swapin_nr_pages(entry.offset) - 1;
  if (mask == 0) return read_swap_cache_async(entry, gfp, SwapWait::kForRead);
  const std::uint64_t first = std::max<std::uint64_t>(entry.offset & ~mask, 1);
  const std::uint64_t last = std::min(entry.offset | mask, swp_swap_info(entry).max() - 1);
  for (std::uint64_t offset = first; offset <= last; ++offset) {
    read_ahead_one(SwapEntry{entry.type, offset}, entry, gfp);
  }
  lru_.lru_add_drain();
  return read_swap_cache_async(entry, gfp);
}

// The pages around the fault's address, ahead of it when the faults run upwards, behind it when they run downwards.
Folio* SwapSystem::swap_vma_readahead(SwapEntry entry, Gfp gfp, SwapVmaWindow& window) {
  const unsigned max_pages = 1u << std::min(tunables_.page_cluster, kSwapRaOrderCeiling);
  if (max_pages == 1) return read_swap_cache_async(entry, gfp, SwapWait::kForRead);
  const std::uint64_t here = window.address().value() >> kPageShift;
  VmaReadaheadInfo info(window.readahead_info());
  const unsigned size = window_size(info.pfn, here, info.hits, max_pages, info.window);
  const std::uint64_t prev = info.pfn;
  info.pfn = here;
  info.window = size;
  info.hits = 0;
  window.readahead_info() = info.pack();
  if (size == 1) return read_swap_cache_async(entry, gfp, SwapWait::kForRead);

  std::uint64_t left = (size - 1) / 2;
  if (here == prev + 1) left = 0;
  if (prev == here + 1) left = size - 1;
  const std::uint64_t low = std::max(here > left ? here - left : 0, window.bounds().begin.value() >> kPageShift);
  const std::uint64_t high = std::min(here - left + size, window.bounds().end.value() >> kPageShift);
  // The entries are taken down first: reading sleeps, and the page table may change or go meanwhile.
  std::array<SwapEntry, 1u << kSwapRaOrderCeiling> entries;
  std::size_t n = 0;
  for (std::uint64_t at = low; at < high; ++at) {
    if (const auto neighbour = window.entry_at(VirtAddr(at << kPageShift))) entries[n++] = *neighbour;
  }
  for (std::size_t i = 0; i < n; ++i) read_ahead_one(entries[i], entry, gfp);
  lru_.lru_add_drain();
  return read_swap_cache_async(entry, gfp);
}

Folio* SwapSystem::swapin_readahead(SwapEntry entry, Gfp gfp, SwapVmaWindow* window) {
  if (window != nullptr && use_vma_readahead()) return swap_vma_readahead(entry, gfp, *window);
  return swap_cluster_readahead(entry, gfp);
}

Folio* SwapSystem::lookup_swap_cache(SwapEntry entry, SwapVmaWindow* window) {
  Folio* folio = find_get_cached(entry);
  if (folio == nullptr) return nullptr;
  // The bit means "reclaim when written" while the folio is under writeback.
  const bool readahead = !phys::folio_test_writeback(*folio) && phys::folio_test_clear_readahead(*folio);
  const bool by_vma = window != nullptr && use_vma_readahead();
  if (by_vma) {
    VmaReadaheadInfo info(window->readahead_info());
    info.pfn = window->address().value() >> kPageShift;
    if (readahead) info.hits = std::min<unsigned>(info.hits + 1, VmaReadaheadInfo::kHitsMax);
    window->readahead_info() = info.pack();
  }
  if (readahead) {
    phys_.vmstat().count_vm_event(VmEvent::kSwapRaHit);
    if (!by_vma) ++swapin_readahead_hits_;
  }
  return folio;
}

bool SwapSystem::should_skip_swap_cache(SwapEntry entry) {
  const SwapArea& area = swp_swap_info(entry);
  return area.synchronous_io() && area.count(entry.offset) == 1 && !area.has_cache(entry.offset);
}

Result<Folio*> SwapSystem::swapin_skip_cache(SwapEntry entry, Gfp gfp) {
  SwapArea& area = swp_swap_info(entry);
  Folio* folio = phys_.folio_alloc(gfp);
  if (folio == nullptr) return fail(Errno::kNoMem);
  Status held;
  {
    sim::SpinGuard guard(area.lock());
    held = area.duplicate_locked(entry.offset, SwapUsage::kCache);
  }
  if (!held) {
    lru_.folio_put(*folio);
    // Also when the slot went away meanwhile: the PTE has changed, and trying again will see that.
    return fail(Errno::kExist);
  }
  phys::folio_set_locked(*folio);
  phys::folio_set_swapbacked(*folio);
  const XaEntry shadow = cache_.stretch(entry).i_pages.load(entry.offset);
  if (shadow.is_value()) lru_.workingset_refault(*folio, shadow.value());
  lru_.folio_add_lru(*folio);
  swap_read_folio_locked(*folio, entry);
  return folio;
}

}  // namespace quire::swap
