// read(2) through the page cache.
#include <algorithm>

#include "quire/base/bug.h"
#include "quire/file/filemap.h"
#include "quire/file/inode.h"
#include "quire/phys/page_wait.h"

namespace quire::file {

using phys::Folio;
using phys::Gfp;

namespace {

// Adjacent small reads of one page count as one access.
bool pos_same_folio(std::uint64_t pos, std::int64_t prev_pos) {
  return prev_pos > 0 && (pos >> kPageShift) == (static_cast<std::uint64_t>(prev_pos - 1) >> kPageShift);
}

}  // namespace

void Filemap::charge_copy(std::uint64_t bytes) { services_.scheduler.charge(services_.scheduler.costs().memcpy_bytes(bytes)); }

Status Filemap::filemap_read_folio(AddressSpace& mapping, Folio& folio) {
  phys::folio_clear_error(folio);
  if (Status started = mapping.a_ops().read_folio(mapping, folio); !started) {
    return started;
  }
  phys::folio_wait_locked(services_.phys, folio);
  if (!phys::folio_test_uptodate(folio)) return fail(Errno::kIo);
  return {};
}

Result<Folio*> Filemap::filemap_create_folio(File& file, Pgoff index) {
  AddressSpace& mapping = file.mapping();
  Folio* folio = filemap_alloc_folio(Gfp::kHighUserMovable);
  if (folio == nullptr) return fail(Errno::kNoMem);
  // Against truncation until the folio is read: a folio that is added after the size shrank must not be filled.
  const sim::ReadGuard guard(mapping.invalidate_lock_);
  Status status = filemap_add_folio(mapping, *folio, index, Gfp::kHighUserMovable);
  if (status) status = filemap_read_folio(mapping, *folio);
  if (!status) {
    folio_put(*folio);
    return fail(status.error());
  }
  return folio;
}

// A folio that is not uptodate: waits for its read, or reads it when the read failed. kAgain: look it up again.
Status Filemap::filemap_update_page(AddressSpace& mapping, Folio& folio) {
  if (!phys::folio_trylock(folio)) {
    phys::folio_wait_locked(services_.phys, folio);
    return fail(Errno::kAgain);
  }
  phys::folio_unlock(services_.phys, folio);
  const sim::ReadGuard guard(mapping.invalidate_lock_);
  if (!folio_lock_mapping(folio, mapping)) return fail(Errno::kAgain);
  if (phys::folio_test_uptodate(folio)) {
    phys::folio_unlock(services_.phys, folio);
    return {};
  }
  return filemap_read_folio(mapping, folio);
}

Result<Folio*> Filemap::filemap_get_page(File& file, Pgoff index, std::uint64_t last) {
  AddressSpace& mapping = file.mapping();
  for (;;) {
    Folio* folio = filemap_get_folio(mapping, index);
    if (folio == nullptr) {
      page_cache_sync_ra(file, index, last - index.value());
      folio = filemap_get_folio(mapping, index);
    }
    if (folio == nullptr) {
      Result<Folio*> created = filemap_create_folio(file, index);
      if (!created && created.error() == Errno::kExist) continue;
      return created;
    }
    if (phys::folio_test_readahead(*folio)) page_cache_async_ra(file, *folio, index, last - index.value());
    if (phys::folio_test_uptodate(*folio)) return folio;
    const Status updated = filemap_update_page(mapping, *folio);
    if (updated) return folio;
    folio_put(*folio);
    if (updated.error() != Errno::kAgain) return fail(updated.error());
  }
}

Result<std::uint64_t> Filemap::filemap_read(File& file, std::uint64_t pos, std::uint64_t len, IovIter& to) {
  if (pos >= kMaxLfsFilesize) return 0;
  len = std::min(len, kMaxLfsFilesize - pos);
  Inode& inode = file.inode();
  std::uint64_t done = 0;
  Status status;
  while (done < len && pos < inode.i_size_read()) {
    services_.scheduler.sync_point();
    const std::uint64_t last = bytes_to_pages_up(pos + len - done);
    const Result<Folio*> folio = filemap_get_page(file, Pgoff(pos >> kPageShift), last);
    if (!folio) {
      status = fail(folio.error());
      break;
    }
    // The size is looked at after the folio was found uptodate, or bytes beyond a new end would show.
    const std::uint64_t size = inode.i_size_read();
    if (pos >= size) {
      folio_put(**folio);
      break;
    }
    if (!pos_same_folio(pos, file.f_ra.prev_pos)) services_.lru.mark_folio_accessed(**folio);
    const std::uint64_t offset = pos % kPageSize;
    const std::uint64_t bytes = std::min({kPageSize - offset, len - done, size - pos});
    const std::byte* from =
        services_.phys.data_mode() == phys::DataMode::kData ? services_.phys.page_address(**folio) + offset : nullptr;
    charge_copy(bytes);
    const std::uint64_t copied = to.copy_to_iter(done, std::span(from, bytes));
    folio_put(**folio);
    done += copied;
    pos += copied;
    file.f_ra.prev_pos = static_cast<std::int64_t>(pos);
    if (copied < bytes) {
      status = fail(Errno::kFault);
      break;
    }
  }
  if (done == 0 && !status) return fail(status.error());
  return done;
}

Result<Folio*> Filemap::read_mapping_folio(AddressSpace& mapping, Pgoff index) {
  for (;;) {
    Folio* folio = filemap_get_folio(mapping, index);
    if (folio == nullptr) {
      folio = filemap_alloc_folio(Gfp::kHighUserMovable);
      if (folio == nullptr) return fail(Errno::kNoMem);
      if (const Status added = filemap_add_folio(mapping, *folio, index, Gfp::kHighUserMovable); !added) {
        folio_put(*folio);
        if (added.error() == Errno::kExist) continue;
        return fail(added.error());
      }
      phys::folio_unlock(services_.phys, *folio);
    }
    if (phys::folio_test_uptodate(*folio)) return folio;
    Status read = fail(Errno::kAgain);
    if (folio_lock_mapping(*folio, mapping)) {
      if (phys::folio_test_uptodate(*folio)) {
        phys::folio_unlock(services_.phys, *folio);
        return folio;
      }
      read = filemap_read_folio(mapping, *folio);
    }
    if (read) return folio;
    folio_put(*folio);
    if (read.error() != Errno::kAgain) return fail(read.error());
  }
}

}  // namespace quire::file
