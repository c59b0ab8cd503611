// Page faults on files: one page, the pages around it that are cached already, and the first write to a shared page.
#include <algorithm>

#include "quire/base/bug.h"
#include "quire/file/filemap.h"
#include "quire/file/inode.h"
#include "quire/phys/page_wait.h"

namespace quire::file {

using phys::Folio;
using phys::Gfp;

namespace {

constexpr std::uint32_t kMmapLotsaMiss = 100;  // MMAP_LOTSAMISS: so many misses in a row, and read-around is given up

}  // namespace

void Filemap::do_sync_mmap_readahead(File& file, Pgoff index, FaultHint hint, UnlockForIo unlock_for_io) {
  FileRaState& ra = file.f_ra;
  if (hint == FaultHint::kRandom || ra.ra_pages == 0) return;
  if (hint == FaultHint::kSequential) {
    unlock_for_io();
    return page_cache_sync_ra(file, index, ra.ra_pages);
  }
  if (ra.mmap_miss < kMmapLotsaMiss * 10) ++ra.mmap_miss;
  if (ra.mmap_miss > kMmapLotsaMiss) return;
  // Read-around: a window with the faulting page in its middle.
  unlock_for_io();
  ra.start = index.value() > ra.ra_pages / 2 ? index.value() - ra.ra_pages / 2 : 0;
  ra.size = ra.ra_pages;
  ra.async_size = ra.ra_pages / 4;
  ReadaheadControl rac{.mapping = file.mapping(), .ra = &ra, .index = Pgoff(ra.start)};
  ra_submit(rac);
}

void Filemap::do_async_mmap_readahead(File& file, Folio& folio, Pgoff index, FaultHint hint, UnlockForIo unlock_for_io) {
  FileRaState& ra = file.f_ra;
  if (hint == FaultHint::kRandom || ra.ra_pages == 0) return;
  if (ra.mmap_miss > 0) --ra.mmap_miss;
  if (!phys::folio_test_readahead(folio)) return;
  unlock_for_io();
  page_cache_async_ra(file, folio, index, ra.ra_pages);
}

Result<FilemapFault> Filemap::filemap_fault(File& file, Pgoff index, FaultHint hint, UnlockForIo unlock_for_io,
                                            FaultTry tried) {
  AddressSpace& mapping = file.mapping();
  Inode& inode = file.inode();
  if (index.value() >= inode.size_pages()) return fail(Errno::kFault);
  FaultCost cost = FaultCost::kMinor;
  Folio* folio = filemap_get_folio(mapping, index);
  if (folio != nullptr) {
    // What the first try read is no hit of the second.
    if (tried == FaultTry::kFirst) do_async_mmap_readahead(file, *folio, index, hint, unlock_for_io);
  } else {
    services_.phys.vmstat().count_vm_event(phys::VmEvent::kPgmajfault);
    cost = FaultCost::kMajor;
    do_sync_mmap_readahead(file, index, hint, unlock_for_io);
  }
  for (;;) {
    if (folio == nullptr) folio = filemap_get_folio(mapping, index);
    if (folio == nullptr) {
      unlock_for_io();
      Result<Folio*> created = filemap_create_folio(file, index);
      if (!created && created.error() == Errno::kExist) continue;
      if (!created) return fail(created.error());
      folio = *created;
    }
    if (const Status ready = fault_folio_uptodate(mapping, *folio, unlock_for_io); !ready) {
      folio_put(*folio);
      folio = nullptr;
      if (ready.error() == Errno::kAgain) continue;
      return fail(ready.error());
    }
    // The size may have shrunk while the fault slept.
    if (index.value() >= inode.size_pages()) {
      folio_put(*folio);
      return fail(Errno::kFault);
    }
    return FilemapFault{.folio = folio, .cost = cost};
  }
}

Status Filemap::fault_folio_uptodate(AddressSpace& mapping, Folio& folio, UnlockForIo unlock_for_io) {
  if (phys::folio_test_locked(folio)) unlock_for_io();
  if (!folio_lock_mapping(folio, mapping)) return fail(Errno::kAgain);
  const bool uptodate = phys::folio_test_uptodate(folio);
  phys::folio_unlock(services_.phys, folio);
  if (uptodate) return {};
  unlock_for_io();
  return filemap_update_page(mapping, folio);
}

void Filemap::filemap_map_pages(File& file, Pgoff first, Pgoff last, MapPageCallback map) {
  AddressSpace& mapping = file.mapping();
  std::uint32_t mmap_miss = file.f_ra.mmap_miss;
  for (auto found = mapping.i_pages_.find(first.value(), last.value()); found;
       found = mapping.i_pages_.next(found->index, last.value())) {
    if (!found->entry.is_pointer()) continue;
    Folio& folio = *found->entry.pointer<Folio>();
    // A folio with the readahead marker is left to a fault of its own, which starts the next window.
    if (phys::folio_test_locked(folio) || !phys::folio_test_uptodate(folio) || phys::folio_test_readahead(folio)) continue;
    if (phys::folio_test_hwpoison(folio) || !folio_try_get(folio)) continue;
    if (!phys::folio_trylock(folio)) {
      folio_put(folio);
      continue;
    }
    // Nothing could run since the lookup. But a folio beyond the end waits for its truncation: it is not to be mapped.
    QUIRE_DCHECK(AddressSpace::of(folio) == &mapping);
    MapPage mapped = MapPage::kSkipped;
    if (found->index < file.inode().size_pages()) {
      if (mmap_miss > 0) --mmap_miss;
      mapped = map(folio, Pgoff(found->index));
    }
    phys::folio_unlock(services_.phys, folio);
    if (mapped == MapPage::kSkipped) folio_put(folio);
  }
  file.f_ra.mmap_miss = mmap_miss;
}

Status Filemap::filemap_page_mkwrite(File& file, Folio& folio) {
  if (!folio_lock_mapping(folio, file.mapping())) return fail(Errno::kFault);
  // Dirty before it is writable: a writeback that starts now finds the page dirty and write-protects it again.
  folio_mark_dirty(folio);
  folio_wait_stable(folio);
  return {};
}

}  // namespace quire::file
