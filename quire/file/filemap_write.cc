// write(2) through the page cache, and writing dirty pages of one mapping out and waiting for them.
#include <algorithm>
#include <array>
#include <cstring>

#include "quire/base/bug.h"
#include "quire/file/filemap.h"
#include "quire/file/inode.h"
#include "quire/file/writeback.h"
#include "quire/phys/page_wait.h"
#include "quire/phys/task_flags.h"

namespace quire::file {

using phys::Folio;
using phys::Gfp;

namespace {

constexpr std::size_t kPagevecSize = 15;  // PAGEVEC_SIZE

}  // namespace

void Filemap::zero_folio_range(Folio& folio, std::uint64_t from, std::uint64_t to) {
  if (from >= to) return;
  charge_copy(to - from);
  if (services_.phys.data_mode() != phys::DataMode::kData) return;
  std::memset(services_.phys.page_address(folio) + from, 0, to - from);
}

// The locked folio of the page at `pos`, whose bytes outside the write are right already.
Result<Folio*> Filemap::write_begin(File& file, std::uint64_t pos, std::uint64_t len) {
  AddressSpace& mapping = file.mapping();
  const Pgoff index(pos >> kPageShift);
  Folio* folio = filemap_lock_folio(mapping, index);
  while (folio == nullptr) {
    const Gfp gfp = Gfp::kHighUserMovable | Gfp::kWrite;
    folio = filemap_alloc_folio(gfp);
    if (folio == nullptr) return fail(Errno::kNoMem);
    const Status added = filemap_add_folio(mapping, *folio, index, gfp);
    if (added) break;
    folio_put(*folio);
    if (added.error() != Errno::kExist) return fail(added.error());
    folio = filemap_lock_folio(mapping, index);
  }
  folio_wait_stable(*folio);
  if (phys::folio_test_uptodate(*folio) || len == kPageSize) return folio;
  const std::uint64_t offset = pos % kPageSize;
  if (pos - offset >= file.inode().i_size_read()) {  // nothing of the page is in the file yet
    zero_folio_range(*folio, 0, offset);
    zero_folio_range(*folio, offset + len, kPageSize);
    return folio;
  }
  Status read = filemap_read_folio(mapping, *folio);
  if (read && folio_lock_mapping(*folio, mapping)) return folio;
  folio_put(*folio);
  if (read) return write_begin(file, pos, len);  // truncated while it was read
  return fail(read.error());
}

// Bytes taken; 0 when the copy came short and left a page that cannot be made whole.
std::uint64_t Filemap::write_end(File& file, Folio& folio, std::uint64_t pos, std::uint64_t len, std::uint64_t copied) {
  Inode& inode = file.inode();
  if (copied < len && !phys::folio_test_uptodate(folio)) copied = 0;
  if (copied > 0) {
    phys::folio_set_uptodate(folio);
    folio_mark_dirty(folio);
    if (pos + copied > inode.i_size) {
      inode.i_size = pos + copied;
      if (writeback_ != nullptr) writeback_->mark_inode_dirty(inode, InodeState::kDirtyDatasync);
    }
  }
  phys::folio_unlock(services_.phys, folio);
  folio_put(folio);
  return copied;
}

void Filemap::zero_tail_of_eof_page(Inode& inode) {
  const std::uint64_t tail = inode.i_size % kPageSize;
  if (tail == 0) return;
  Folio* folio = filemap_lock_folio(inode.mapping, Pgoff(inode.i_size >> kPageShift));
  if (folio == nullptr) return;
  if (phys::folio_test_uptodate(*folio)) zero_folio_range(*folio, tail, kPageSize);
  phys::folio_unlock(services_.phys, *folio);
  folio_put(*folio);
}

Result<std::uint64_t> Filemap::generic_perform_write(File& file, std::uint64_t pos, std::uint64_t len, IovIter& from) {
  if (pos >= kMaxLfsFilesize) return fail(Errno::kFBig);
  len = std::min(len, kMaxLfsFilesize - pos);
  if (pos > file.inode().i_size) zero_tail_of_eof_page(file.inode());
  std::uint64_t written = 0;
  Status status;
  while (written < len) {
    const std::uint64_t offset = pos % kPageSize;
    std::uint64_t bytes = std::min(kPageSize - offset, len - written);
    // The source's page is brought in first: under the folio lock it must not fault, it might be this very page.
    bytes = std::min(bytes, from.fault_in_readable(written, bytes));
    if (bytes == 0) {
      status = fail(Errno::kFault);
      break;
    }
    if (phys::task_test(services_.scheduler, phys::TaskFlag::kOomVictim)) {
      status = fail(Errno::kIntr);  // killed
      break;
    }
    const Result<Folio*> folio = write_begin(file, pos, bytes);
    if (!folio) {
      status = fail(folio.error());
      break;
    }
    std::byte* to =
        services_.phys.data_mode() == phys::DataMode::kData ? services_.phys.page_address(**folio) + offset : nullptr;
    charge_copy(bytes);
    const std::uint64_t copied = from.copy_from_iter(written, std::span(to, bytes));
    const std::uint64_t taken = write_end(file, **folio, pos, bytes, copied);
    pos += taken;
    written += taken;
    services_.scheduler.sync_point();
    if (taken > 0 && writeback_ != nullptr) writeback_->balance_dirty_pages_ratelimited(file.mapping());
  }
  if (written == 0 && !status) return fail(status.error());
  return written;
}

// --- writing out ------------------------------------------------------------------------------------------------------

bool Filemap::lock_for_writepage(AddressSpace& mapping, Folio& folio, const WritebackControl& wbc, SubmitWrites submit) {
  if (phys::folio_test_locked(folio)) submit();
  if (!folio_lock_mapping(folio, mapping)) return false;
  if (phys::folio_test_dirty(folio) && phys::folio_test_writeback(folio) && wbc.sync_mode == SyncMode::kAll) {
    submit();
    phys::folio_wait_writeback(services_.phys, folio);
  }
  if (phys::folio_test_dirty(folio) && !phys::folio_test_writeback(folio) && folio_clear_dirty_for_io(folio)) return true;
  phys::folio_unlock(services_.phys, folio);
  return false;
}

void Filemap::tag_pages_for_writeback(AddressSpace& mapping, Pgoff first, Pgoff last) {
  const sim::SpinGuard guard(mapping.i_pages_lock_);
  mapping.i_pages_.for_marked(first.value(), last.value(), kTagDirty,
                              [&](std::uint64_t index, XaEntry) { mapping.i_pages_.set_mark(index, kTagTowrite); });
}

Status Filemap::write_cache_pages(AddressSpace& mapping, WritebackControl& wbc, WriteFolio write, SubmitWrites submit) {
  const bool cyclic = wbc.range == WritebackControl::Range::kCyclic;
  Pgoff index(cyclic ? mapping.writeback_index_ : wbc.range_start >> kPageShift);
  const Pgoff last(cyclic ? XArray::kMaxIndex : wbc.range_end >> kPageShift);
  // For integrity exactly what is dirty now is written, or a busy writer would keep us here for ever.
  const unsigned tag = wbc.sync_mode == SyncMode::kAll ? kTagTowrite : kTagDirty;
  if (tag == kTagTowrite) tag_pages_for_writeback(mapping, index, last);
  Status result;
  Pgoff done_index = index;
  bool done = false;
  std::array<Folio*, kPagevecSize> batch;
  while (!done && index <= last) {
    const std::size_t n = filemap_get_folios_tag(mapping, index, last, tag, batch);
    if (n == 0) break;
    for (std::size_t i = 0; i < n; ++i) {
      Folio& folio = *batch[i];
      if (!done && lock_for_writepage(mapping, folio, wbc, submit)) {
        done_index = Pgoff(folio.index + 1);
        if (const Status written = write(folio); !written) {
          if (result) result = written;
          if (wbc.sync_mode == SyncMode::kNone) done = true;
        }
        if (wbc.nr_to_write > 0) --wbc.nr_to_write;
        if (wbc.nr_to_write == 0 && wbc.sync_mode == SyncMode::kNone) done = true;
      }
      folio_put(folio);
    }
    services_.scheduler.sync_point();
  }
  if (cyclic) mapping.writeback_index_ = done ? done_index.value() : 0;
  return result;
}

Status Filemap::filemap_fdatawrite_range(AddressSpace& mapping, std::uint64_t start, std::uint64_t end, SyncMode mode) {
  if (!mapping.mapping_tagged(kTagDirty)) return {};
  WritebackControl wbc{.sync_mode = mode, .range_start = start, .range_end = end, .caller = WritebackControl::Caller::kFsync};
  return mapping.a_ops().writepages(mapping, wbc);
}

void Filemap::filemap_fdatawait_keep_errors(AddressSpace& mapping, std::uint64_t start, std::uint64_t end) {
  Pgoff index(start >> kPageShift);
  const Pgoff last(end >> kPageShift);
  std::array<Folio*, kPagevecSize> batch;
  while (index <= last) {
    const std::size_t n = filemap_get_folios_tag(mapping, index, last, kTagWriteback, batch);
    if (n == 0) break;
    for (std::size_t i = 0; i < n; ++i) {
      phys::folio_wait_writeback(services_.phys, *batch[i]);
      phys::folio_clear_error(*batch[i]);
      folio_put(*batch[i]);
    }
    services_.scheduler.sync_point();
  }
}

Status Filemap::filemap_fdatawait_range(AddressSpace& mapping, std::uint64_t start, std::uint64_t end) {
  filemap_fdatawait_keep_errors(mapping, start, end);
  return mapping.filemap_check_errors();
}

Status Filemap::filemap_write_and_wait_range(AddressSpace& mapping, std::uint64_t start, std::uint64_t end) {
  const Status written = filemap_fdatawrite_range(mapping, start, end, SyncMode::kAll);
  const Status waited = filemap_fdatawait_range(mapping, start, end);
  return written ? waited : written;
}

}  // namespace quire::file
