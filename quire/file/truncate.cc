// Taking pages out of the cache: truncation drops them with their changes, invalidation only what is clean and unused.
#include <algorithm>
#include <array>

#include "quire/base/bug.h"
#include "quire/file/filemap.h"
#include "quire/file/inode.h"
#include "quire/phys/page_wait.h"

namespace quire::file {

using phys::Folio;

void Filemap::unmap_mapping_range(AddressSpace& mapping, Pgoff first, std::uint64_t count, EvenCows even_cows) {
  if (upcalls_ == nullptr || !mapping.mapping_mapped() || count == 0) return;
  upcalls_->unmap_mapping_pages(mapping, first, count, even_cows);
}

// Drops one locked folio of the mapping.
void Filemap::truncate_folio(AddressSpace& mapping, Folio& folio) {
  if (folio_mapped(folio)) unmap_mapping_range(mapping, Pgoff(folio.index), 1, EvenCows::kNo);
  folio_cancel_dirty(folio);
  phys::folio_clear_mappedtodisk(folio);
  filemap_remove_folio(folio);
}

void Filemap::zero_partial_folio(AddressSpace& mapping, Pgoff index, std::uint64_t from, std::uint64_t to) {
  Folio* folio = filemap_lock_folio(mapping, index);
  if (folio == nullptr) return;
  phys::folio_wait_writeback(services_.phys, *folio);
  if (phys::folio_test_uptodate(*folio)) zero_folio_range(*folio, from, to);
  phys::folio_unlock(services_.phys, *folio);
  folio_put(*folio);
}

// The entry at `index` goes, whatever it is, unless it has been replaced meanwhile.
void Filemap::truncate_entry(AddressSpace& mapping, std::uint64_t index, XaEntry entry) {
  if (entry.is_value()) {  // a shadow
    const sim::SpinGuard guard(mapping.i_pages_lock_);
    if (mapping.i_pages_.load(index) == entry) mapping.i_pages_.erase(index);
    return;
  }
  Folio& folio = *entry.pointer<Folio>();
  if (!folio_try_get(folio)) return;
  if (folio_lock_mapping(folio, mapping)) {
    phys::folio_wait_writeback(services_.phys, folio);
    truncate_folio(mapping, folio);
    phys::folio_unlock(services_.phys, folio);
  }
  folio_put(folio);
}

void Filemap::truncate_inode_pages_range(AddressSpace& mapping, std::uint64_t start, std::uint64_t end) {
  const std::uint64_t first = bytes_to_pages_up(start);
  const std::uint64_t stop = end == kToTheEnd ? kToTheEnd : (end + 1) >> kPageShift;  // pages, not included
  const std::uint64_t start_page = start >> kPageShift;
  if (end != kToTheEnd && start_page == (end + 1) >> kPageShift) {  // within one page
    return zero_partial_folio(mapping, Pgoff(start_page), start % kPageSize, (end + 1) % kPageSize);
  }
  if (start % kPageSize != 0) zero_partial_folio(mapping, Pgoff(start_page), start % kPageSize, kPageSize);
  if (end != kToTheEnd && (end + 1) % kPageSize != 0) zero_partial_folio(mapping, Pgoff(stop), 0, (end + 1) % kPageSize);
  // What is added behind the scan's back (by a read that began before) is met by the next scan.
  while (stop > first) {
    bool any_found = false;
    for (auto found = mapping.i_pages_.find(first, stop - 1); found; found = mapping.i_pages_.next(found->index, stop - 1)) {
      any_found = true;
      truncate_entry(mapping, found->index, found->entry);
    }
    preload_.trim();
    if (!any_found) break;
  }
}

void Filemap::truncate_pagecache(Inode& inode, std::uint64_t new_size) {
  const Pgoff hole(bytes_to_pages_up(new_size));
  // Twice: a fault may have copied a page for a private mapping between the first unmap and the truncation.
  unmap_mapping_range(inode.mapping, hole, kToTheEnd - hole.value(), EvenCows::kYes);
  truncate_inode_pages_range(inode.mapping, new_size, kToTheEnd);
  unmap_mapping_range(inode.mapping, hole, kToTheEnd - hole.value(), EvenCows::kYes);
}

void Filemap::truncate_pagecache_range(Inode& inode, std::uint64_t start, std::uint64_t end) {
  const std::uint64_t first = bytes_to_pages_up(start);
  const std::uint64_t stop = (end + 1) >> kPageShift;
  if (stop > first) unmap_mapping_range(inode.mapping, Pgoff(first), stop - first, EvenCows::kNo);
  truncate_inode_pages_range(inode.mapping, start, end);
}

void Filemap::truncate_inode_pages_final(AddressSpace& mapping) {
  mapping.flags_ |= AddressSpaceFlag::kExiting;  // no new shadows
  truncate_inode_pages_range(mapping, 0, kToTheEnd);
  QUIRE_BUG_ON(mapping.nrpages_ != 0 || !mapping.i_pages_.empty());
}

bool Filemap::mapping_evict_folio(AddressSpace& mapping, Folio& folio) {
  if (AddressSpace::of(folio) != &mapping) return false;
  if (phys::folio_test_dirty(folio) || phys::folio_test_writeback(folio) || folio_mapped(folio)) return false;
  if (!mapping.a_ops().release_folio(folio)) return false;
  if (!remove_mapping(folio, Reclaimed::kNo)) return false;
  folio_ref_unfreeze(folio, 1);  // the caller's
  return true;
}

std::uint64_t Filemap::invalidate_mapping_pages(AddressSpace& mapping, Pgoff first, Pgoff last) {
  std::uint64_t dropped = 0;
  for (auto found = mapping.i_pages_.find(first.value(), last.value()); found;
       found = mapping.i_pages_.next(found->index, last.value())) {
    if (found->entry.is_value()) {
      // A shadow of a file's page; in a shmem mapping it is a swap entry, and no shmem folio is ever invalidated.
      if (mapping.a_ops().values_are_shadows()) truncate_entry(mapping, found->index, found->entry);
      continue;
    }
    Folio& folio = *found->entry.pointer<Folio>();
    if (!folio_try_get(folio)) continue;
    if (phys::folio_trylock(folio)) {
      const bool evicted = mapping_evict_folio(mapping, folio);
      phys::folio_unlock(services_.phys, folio);
      if (evicted) {
        ++dropped;
      } else {
        services_.lru.deactivate_file_folio(folio);  // it would go if it could: let reclaim take it soon
      }
    }
    folio_put(folio);
    services_.scheduler.sync_point();
  }
  preload_.trim();
  return dropped;
}

}  // namespace quire::file
