// The kernel's own pages in a program's address space: [vdso] and [vvar] (Linux's special mappings), as files of a file system
// that has no device, no numbers and no names but these. Their pages are the machine's, taken when first touched; they are in
// no cache and on no LRU list, so nothing reclaims them.
//
//   [vvar]  4 pages, of which a program may read the first (the others belong to clocks of hypervisors and time namespaces)
//   [vdso]  2 pages
//
// Differs from Linux: there is no code in the pages, since programs are not executed: they read as zeroes.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "quire/base/bug.h"
#include "quire/base/result.h"
#include "quire/file/vfs.h"
#include "quire/phys/phys_mem.h"
#include "quire/vm/vm.h"

namespace quire::kernel {

class SpecialMappings final : public file::SuperBlock, private file::AddressSpaceOps {
 public:
  static constexpr std::uint64_t kVvarPages = 4;
  static constexpr std::uint64_t kVdsoPages = 2;

  SpecialMappings(phys::PhysMem& phys, file::Vfs& vfs);
  ~SpecialMappings() override;

  // arch_setup_additional_pages: both areas, near the stack or where there is room; Mm::vdso says where. kNoMem.
  Status map_vdso(vm::Vm& vm, vm::Mm& mm);

  // --- SuperBlock ---
  [[nodiscard]] bool can_writeback() const override { return false; }
  [[nodiscard]] bool is_special() const override { return true; }
  Result<std::uint64_t> read_iter(file::File&, std::uint64_t, std::uint64_t, file::IovIter&) override {
    return fail(Errno::kInval);
  }
  Result<std::uint64_t> write_iter(file::File&, std::uint64_t&, std::uint64_t, file::IovIter&) override {
    return fail(Errno::kInval);
  }
  Result<file::FilemapFault> fault(file::File& file, Pgoff index, file::FaultHint hint, file::UnlockForIo unlock_for_io,
                                   file::FaultTry tried) override;
  void map_pages(file::File&, Pgoff, Pgoff, file::MapPageCallback) override {}
  Status page_mkwrite(file::File&, phys::Folio&) override { return fail(Errno::kAcces); }
  Status truncate(file::Inode&, std::uint64_t) override { return fail(Errno::kInval); }
  Status fallocate(file::Inode&, file::FallocateMode, std::uint64_t, std::uint64_t) override { return fail(Errno::kNoDev); }
  Status fsync_range(file::Inode&, std::uint64_t, std::uint64_t, file::SyncKind) override { return fail(Errno::kInval); }
  Result<std::uint64_t> seek(file::Inode&, std::uint64_t, file::SeekKind) override { return fail(Errno::kSPipe); }
  void evict_inode(file::Inode&) override {}  // they stay
  [[nodiscard]] std::string path_of(const file::Inode& inode) const override { return &inode == &vdso_ ? "[vdso]" : "[vvar]"; }

 private:
  Status map(vm::Vm& vm, vm::Mm& mm, Range<VirtAddr> range, vm::VmFlags flags, file::Inode& inode);

  // AddressSpaceOps: nothing of theirs is in the page cache.
  Status read_folio(file::AddressSpace&, phys::Folio&) override { return fail(Errno::kIo); }
  void readahead(file::ReadaheadControl&) override { bug("the kernel's own pages have no readahead"); }
  Result<file::WritepageOutcome> writepage(phys::Folio&, file::WritebackControl&) override { return fail(Errno::kIo); }
  Status writepages(file::AddressSpace&, file::WritebackControl&) override { return {}; }
  bool dirty_folio(file::AddressSpace&, phys::Folio&) override { return false; }

  phys::PhysMem& phys_;
  file::Vfs& vfs_;
  file::AddressSpaceInit mapping_init_;
  file::Inode vvar_;
  file::Inode vdso_;
  std::array<phys::Page*, kVdsoPages + 1> pages_{};  // of [vdso], and the first of [vvar]
};

}  // namespace quire::kernel
