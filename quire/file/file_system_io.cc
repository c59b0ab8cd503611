// Between the page cache and the simulated disk: which pages make a request, and what happens when it ends.
//
// A request is named by its mapping, its first page and its length, which fit in the event itself: the pages are locked
// (read) or under writeback (write), so they are still in their places when it ends. No memory is needed to do I/O.
// A write takes the page's bytes when it starts, a read brings them when it ends.
#include <cstring>
#include <span>

#include "quire/base/bug.h"
#include "quire/file/file_system.h"
#include "quire/file/writeback.h"
#include "quire/phys/page_wait.h"

namespace quire::file {

using phys::Folio;

namespace {

std::int64_t kib(std::uint64_t pages) { return static_cast<std::int64_t>(pages * (kPageSize / kKiB)); }

}  // namespace

// --- reading ----------------------------------------------------------------------------------------------------------

void FileSystem::submit_read(AddressSpace& mapping, Pgoff first, std::uint64_t count) {
  services_.phys.vmstat().count_vm_events(phys::VmEvent::kPgpgin, kib(count));
  const std::uint64_t bytes = pages_to_bytes(count);
  const IoStatus status = services_.faults.should_fail(sim::FaultPoint::kIoRead, bytes) ? IoStatus::kFailed : IoStatus::kOk;
  const auto packed_count = static_cast<std::uint32_t>(count);
  disk_.submit(sim::DiskOp::kRead, disk_inode(mapping.host()).disk_start + pages_to_bytes(first.value()), bytes,
               [this, &mapping, first, packed_count, status] { end_read_run(mapping, first, packed_count, status); });
}

void FileSystem::end_read_run(AddressSpace& mapping, Pgoff first, std::uint64_t count, IoStatus status) {
  Status result;
  if (status == IoStatus::kFailed) result = fail(Errno::kIo);
  const bool data = services_.phys.data_mode() == phys::DataMode::kData;
  DiskInode& inode = disk_inode(mapping.host());
  for (std::uint64_t i = 0; i < count; ++i) {
    const Pgoff index = first + i;
    Status page = result;
    if (data && page) {
      Folio& folio = *mapping.i_pages().load(index.value()).pointer<Folio>();
      page = inode.backing.read_page(index, std::span(services_.phys.page_address(folio), kPageSize));
    }
    filemap_.end_read(mapping, index, 1, page);
  }
}

Status FileSystem::read_folio(AddressSpace& mapping, Folio& folio) {
  submit_read(mapping, Pgoff(folio.index), 1);
  return {};
}

void FileSystem::readahead(ReadaheadControl& rac) {
  for (std::uint64_t done = 0; done < rac.nr_pages; done += kMaxRunPages) {
    submit_read(rac.mapping, rac.index + done, std::min(kMaxRunPages, rac.nr_pages - done));
  }
}

// --- writing ----------------------------------------------------------------------------------------------------------

bool FileSystem::dirty_folio(AddressSpace& mapping, Folio& folio) { return filemap_.filemap_dirty_folio(mapping, folio); }

void FileSystem::store_folio(DiskInode& inode, Folio& folio) {
  const Pgoff index(folio.index);
  // What a mapping stored behind the end of the file is not written.
  if (index.value() + 1 == inode.size_pages() && inode.i_size % kPageSize != 0) {
    filemap_.zero_folio_range(folio, inode.i_size % kPageSize, kPageSize);
  }
  if (services_.phys.data_mode() != phys::DataMode::kData) return;
  inode.backing.write_page(index, std::span<const std::byte>(services_.phys.page_address(folio), kPageSize));
}

// A locked folio, already clean, becomes part of the run (or of a new one) and is unlocked.
void FileSystem::add_to_write_run(DiskInode& inode, Folio& folio, WriteRun& run) {
  if (folio.index >= inode.size_pages()) {  // the file shrank: truncation will come for it
    phys::folio_unlock(services_.phys, folio);
    return;
  }
  if (run.count > 0 && (folio.index != run.first + run.count || run.count == kMaxRunPages)) {
    submit_write(inode.mapping, run);
    run = WriteRun{};
  }
  if (run.count == 0) {
    run.first = folio.index;
    run.status = services_.faults.should_fail(sim::FaultPoint::kIoWrite) ? IoStatus::kFailed : IoStatus::kOk;
  }
  ++run.count;
  filemap_.folio_start_writeback(folio);
  if (run.status == IoStatus::kOk) store_folio(inode, folio);
  phys::folio_unlock(services_.phys, folio);
}

void FileSystem::submit_write(AddressSpace& mapping, const WriteRun& run) {
  if (run.count == 0) return;
  services_.phys.vmstat().count_vm_events(phys::VmEvent::kPgpgout, kib(run.count));
  const Pgoff first(run.first);
  const auto count = static_cast<std::uint32_t>(run.count);
  const IoStatus status = run.status;
  disk_.submit(sim::DiskOp::kWrite, disk_inode(mapping.host()).disk_start + pages_to_bytes(run.first),
               pages_to_bytes(run.count),
               [this, &mapping, first, count, status] { end_write_run(mapping, first, count, status); });
}

void FileSystem::end_write_run(AddressSpace& mapping, Pgoff first, std::uint64_t count, IoStatus status) {
  writeback_.wb_writeout_add(count);
  if (status == IoStatus::kFailed) mapping.mapping_set_error(Errno::kIo);
  for (std::uint64_t i = 0; i < count; ++i) {
    Folio& folio = *mapping.i_pages().load((first + i).value()).pointer<Folio>();
    if (status == IoStatus::kFailed) phys::folio_set_error(folio);
    filemap_.folio_end_writeback(folio);
  }
}

Result<WritepageOutcome> FileSystem::writepage(Folio& folio, WritebackControl& /*wbc*/) {
  DiskInode& inode = disk_inode(AddressSpace::of(folio)->host());
  WriteRun run;
  add_to_write_run(inode, folio, run);
  submit_write(inode.mapping, run);
  return WritepageOutcome::kStarted;
}

Status FileSystem::writepages(AddressSpace& mapping, WritebackControl& wbc) {
  DiskInode& inode = disk_inode(mapping.host());
  WriteRun run;
  const auto submit = [&] {
    submit_write(mapping, run);
    run = WriteRun{};
  };
  const auto write = [&](Folio& folio) {
    add_to_write_run(inode, folio, run);
    return Status{};
  };
  const Status status = filemap_.write_cache_pages(mapping, wbc, write, submit);
  submit();
  return status;
}

}  // namespace quire::file
