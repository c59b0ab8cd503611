// Readahead: reading pages before somebody asks for them.
//
// A file's window [start, start + size) was asked for last; its page size - async_size from the start bears PG_readahead.
// Whoever meets that page starts the next, larger window while the rest of this one is still to be used, so a sequential
// reader finds its pages ready. Documented in Linux's Documentation/core-api/mm-api and mm/readahead.c.
#include <algorithm>
#include <bit>

#include "quire/base/bug.h"
#include "quire/file/filemap.h"
#include "quire/file/inode.h"
#include "quire/phys/page_wait.h"

namespace quire::file {

using phys::Folio;
using phys::Gfp;

namespace {

// The first window after a miss: the request, rounded up and widened while it is small against the largest.
std::uint64_t get_init_ra_size(std::uint64_t size, std::uint64_t max) {
  const std::uint64_t rounded = std::bit_ceil(size);
  if (rounded <= max / 32) return rounded * 4;
  if (rounded <= max / 4) return rounded * 2;
  return max;
}

// The next window of a sequential reader.
std::uint64_t get_next_ra_size(const FileRaState& ra, std::uint64_t max) {
  if (ra.size < max / 16) return std::uint64_t{4} * ra.size;
  if (ra.size <= max / 2) return std::uint64_t{2} * ra.size;
  return max;
}

// First index at or after `index` that is not cached, looking at `max_scan` pages at most.
std::uint64_t page_cache_next_miss(const XArray& i_pages, std::uint64_t index, std::uint64_t max_scan) {
  while (max_scan-- > 0 && i_pages.load(index).is_pointer()) ++index;
  return index;
}

// Cached pages that end right before `index`, `max` at most.
std::uint64_t count_history_pages(const XArray& i_pages, std::uint64_t index, std::uint64_t max) {
  std::uint64_t n = 0;
  while (n < max && n < index && i_pages.load(index - 1 - n).is_pointer()) ++n;
  return n;
}

}  // namespace

void Filemap::page_cache_sync_ra(File& file, Pgoff index, std::uint64_t req_count) {
  FileRaState& ra = file.f_ra;
  if (ra.ra_pages == 0) return force_page_cache_readahead(file, index, 1);
  if (any(file.f_mode, FileMode::kRandom)) return force_page_cache_readahead(file, index, req_count);
  ReadaheadControl rac{.mapping = file.mapping(), .ra = &ra, .index = index};
  ondemand_readahead(rac, ReadaheadTrigger::kMiss, req_count);
}

void Filemap::page_cache_async_ra(File& file, Folio& folio, Pgoff index, std::uint64_t req_count) {
  FileRaState& ra = file.f_ra;
  if (ra.ra_pages == 0) return;
  // The bit means PG_reclaim on a folio under writeback.
  if (phys::folio_test_writeback(folio)) return;
  phys::folio_clear_readahead(folio);
  ReadaheadControl rac{.mapping = file.mapping(), .ra = &ra, .index = index};
  ondemand_readahead(rac, ReadaheadTrigger::kMarker, req_count);
}

void Filemap::force_page_cache_readahead(File& file, Pgoff index, std::uint64_t nr_pages) {
  constexpr std::uint64_t kChunk = 2 * kMiB / kPageSize;
  nr_pages = std::min<std::uint64_t>(nr_pages, std::max(tunables_.io_pages, file.f_ra.ra_pages));
  while (nr_pages > 0) {
    const std::uint64_t n = std::min(nr_pages, kChunk);
    ReadaheadControl rac{.mapping = file.mapping(), .ra = &file.f_ra, .index = index};
    do_page_cache_ra(rac, n, 0);
    index += n;
    nr_pages -= n;
  }
}

bool Filemap::try_context_readahead(AddressSpace& mapping, FileRaState& ra, Pgoff index, std::uint64_t req_size,
                                    std::uint64_t max) {
  std::uint64_t history = count_history_pages(mapping.i_pages_, index.value(), max);
  if (history <= req_size) return false;       // too little for a stream: a random read
  if (history >= index.value()) history *= 2;  // the stream began at the file's start
  ra.start = index.value();
  ra.size = static_cast<std::uint32_t>(std::min(history + req_size, max));
  ra.async_size = 1;
  return true;
}

Filemap::WindowChoice Filemap::choose_window(AddressSpace& mapping, FileRaState& ra, Pgoff at, ReadaheadTrigger trigger,
                                             std::uint64_t req_size, std::uint64_t max) {
  const std::uint64_t index = at.value();
  if (index == 0) return WindowChoice::kInitial;
  if (index == ra.start + ra.size - ra.async_size || index == ra.start + ra.size) {
    // Where the window said it would be met: sequential. Push it on and ramp up.
    ra.start += ra.size;
    ra.size = static_cast<std::uint32_t>(get_next_ra_size(ra, max));
    ra.async_size = ra.size;
    return WindowChoice::kKeep;
  }
  if (trigger == ReadaheadTrigger::kMarker) {
    // A marked page of another stream than the one the window knows (interleaved reads): the cache tells how far it got.
    const std::uint64_t start = page_cache_next_miss(mapping.i_pages_, index + 1, max);
    if (start == 0 || start - index > max) return WindowChoice::kNothing;
    ra.start = start;
    ra.size = static_cast<std::uint32_t>(start - index + req_size);
    ra.size = static_cast<std::uint32_t>(get_next_ra_size(ra, max));
    ra.async_size = ra.size;
    return WindowChoice::kKeep;
  }
  if (req_size > max) return WindowChoice::kInitial;
  // Right behind the last read, or in the same page.
  if (ra.prev_pos >= 0 && index - (static_cast<std::uint64_t>(ra.prev_pos) >> kPageShift) <= 1) {
    return WindowChoice::kInitial;
  }
  if (try_context_readahead(mapping, ra, at, req_size, max)) return WindowChoice::kKeep;
  return WindowChoice::kAsAsked;
}

void Filemap::ondemand_readahead(ReadaheadControl& rac, ReadaheadTrigger trigger, std::uint64_t req_size) {
  FileRaState& ra = *rac.ra;
  std::uint64_t max = ra.ra_pages;
  if (req_size > max && tunables_.io_pages > max) max = std::min<std::uint64_t>(req_size, tunables_.io_pages);
  const std::uint64_t index = rac.index.value();
  switch (choose_window(rac.mapping, ra, rac.index, trigger, req_size, max)) {
    case WindowChoice::kNothing: return;
    case WindowChoice::kAsAsked: return do_page_cache_ra(rac, req_size, 0);
    case WindowChoice::kInitial:
      ra.start = index;
      ra.size = static_cast<std::uint32_t>(get_init_ra_size(req_size, max));
      ra.async_size = ra.size > req_size ? static_cast<std::uint32_t>(ra.size - req_size) : ra.size;
      break;
    case WindowChoice::kKeep: break;
  }
  // This very read would meet the marker it is about to set: take the next window in at once.
  if (index == ra.start && ra.size == ra.async_size) {
    const std::uint64_t add = get_next_ra_size(ra, max);
    if (ra.size + add <= max) {
      ra.async_size = static_cast<std::uint32_t>(add);
      ra.size += static_cast<std::uint32_t>(add);
    } else {
      ra.size = static_cast<std::uint32_t>(max);
      ra.async_size = static_cast<std::uint32_t>(max / 2);
    }
  }
  rac.index = Pgoff(ra.start);
  ra_submit(rac);
}

void Filemap::ra_submit(ReadaheadControl& rac) { do_page_cache_ra(rac, rac.ra->size, rac.ra->async_size); }

void Filemap::do_page_cache_ra(ReadaheadControl& rac, std::uint64_t nr_to_read, std::uint64_t lookahead_size) {
  AddressSpace& mapping = rac.mapping;
  const std::uint64_t end = mapping.host().size_pages();
  const std::uint64_t first = rac.index.value();
  if (first >= end) return;
  const std::uint64_t count = std::min(nr_to_read, end - first);
  const Gfp gfp = Gfp::kHighUserMovable | Gfp::kNoRetry | Gfp::kNoWarn;
  const std::uint64_t marker = count - lookahead_size;  // wraps, and is never met, when the end of the file is nearer
  const sim::ReadGuard guard(mapping.invalidate_lock_);
  for (std::uint64_t i = 0; i < count; ++i) {
    if (mapping.i_pages_.load(first + i).is_pointer()) {
      read_pages(rac);
      rac.index = Pgoff(first + i + 1);
      continue;
    }
    Folio* folio = filemap_alloc_folio(gfp);
    if (folio == nullptr) break;
    if (!filemap_add_folio(mapping, *folio, Pgoff(first + i), gfp)) {
      folio_put(*folio);
      read_pages(rac);
      rac.index = Pgoff(first + i + 1);
      continue;
    }
    if (lookahead_size > 0 && i == marker) phys::folio_set_readahead(*folio);
    ++rac.nr_pages;
    folio_put(*folio);  // the cache's reference and the lock keep it
  }
  read_pages(rac);
}

void Filemap::read_pages(ReadaheadControl& rac) {
  if (rac.nr_pages == 0) return;
  rac.mapping.a_ops().readahead(rac);
  rac.index += rac.nr_pages;
  rac.nr_pages = 0;
}

void Filemap::end_read(AddressSpace& mapping, Pgoff first, std::uint64_t count, Status status) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const XaEntry entry = mapping.i_pages_.load(first.value() + i);
    QUIRE_BUG_ON(!entry.is_pointer());  // a locked folio stays in its place
    Folio& folio = *entry.pointer<Folio>();
    if (status) {
      phys::folio_set_uptodate(folio);
    } else {
      phys::folio_clear_uptodate(folio);
      phys::folio_set_error(folio);
    }
    phys::folio_unlock(services_.phys, folio);
  }
}

}  // namespace quire::file
