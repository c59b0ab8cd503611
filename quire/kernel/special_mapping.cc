#include "quire/kernel/special_mapping.h"

#include "quire/phys/folio.h"

namespace quire::kernel {

using vm::VmFlags;

SpecialMappings::SpecialMappings(phys::PhysMem& phys, file::Vfs& vfs)
    : SuperBlock(0, "special"),
      phys_(phys),
      vfs_(vfs),
      mapping_init_(vfs.filemap().mapping_init(*this)),
      vvar_({.sb = *this, .ino = 0, .mapping = mapping_init_, .i_rwsem = vfs.filemap().i_rwsem_class()}),
      vdso_({.sb = *this, .ino = 0, .mapping = mapping_init_, .i_rwsem = vfs.filemap().i_rwsem_class()}) {
  vvar_.i_size = kVvarPages * kPageSize;
  vdso_.i_size = kVdsoPages * kPageSize;
}

SpecialMappings::~SpecialMappings() {
  for (file::Inode* inode : {&vvar_, &vdso_}) inode->mapping.abandon();
  for (phys::Page* page : pages_) {
    if (page == nullptr) continue;
    page->mapping = 0;
    page->clear(phys::PageFlag::kReserved);
    phys_.free_page(*page);
  }
}

Result<file::FilemapFault> SpecialMappings::fault(file::File& file, Pgoff index, file::FaultHint /*hint*/,
                                                  file::UnlockForIo /*unlock_for_io*/, file::FaultTry /*tried*/) {
  const bool vdso = &file.inode() == &vdso_;
  if (index.value() >= (vdso ? kVdsoPages : 1)) return fail(Errno::kFault);
  phys::Page*& page = pages_[vdso ? index.value() : kVdsoPages];
  if (page == nullptr) {
    phys::Page* fresh = phys_.alloc_page(phys::Gfp::kKernel | phys::Gfp::kZero);
    if (fresh == nullptr) return fail(Errno::kNoMem);
    if (page != nullptr) {  // somebody was quicker while memory was found
      phys_.free_page(*fresh);
    } else {
      page = fresh;
      page->set(phys::PageFlag::kReserved);
      page->mapping = reinterpret_cast<std::uint64_t>(&file.mapping());
      page->index = index.value();
      phys::folio_set_uptodate(phys::page_folio(*page));
    }
  }
  phys::Folio& folio = phys::page_folio(*page);
  phys::folio_get(folio);
  return file::FilemapFault{.folio = &folio};
}

Status SpecialMappings::map(vm::Vm& vm, vm::Mm& mm, Range<VirtAddr> range, VmFlags flags, file::Inode& inode) {
  const auto file = vfs_.open(inode, file::FileMode::kRead);
  if (!file) return fail(file.error());
  const Status mapped = vm.install_special_mapping(mm, range, flags, **file);
  vfs_.fput(**file);  // the area holds it
  return mapped;
}

Status SpecialMappings::map_vdso(vm::Vm& vm, vm::Mm& mm) {
  const std::uint64_t length = (kVvarPages + kVdsoPages) * kPageSize;
  const auto at = vm.get_unmapped_area(mm, vm.vdso_addr(mm, length), length, vm::MapFlags::kNone);
  if (!at) return fail(at.error());
  const VirtAddr text = *at + kVvarPages * kPageSize;
  const VmFlags code = VmFlags::kRead | VmFlags::kExec | VmFlags::kMayFlags;
  if (Status mapped = map(vm, mm, {text, *at + length}, code, vdso_); !mapped) return mapped;
  const VmFlags data = VmFlags::kRead | VmFlags::kMayRead | VmFlags::kIo | VmFlags::kDontDump | VmFlags::kPfnMap;
  if (Status mapped = map(vm, mm, {*at, text}, data, vvar_); !mapped) {
    static_cast<void>(vm.munmap(mm, text, kVdsoPages * kPageSize));
    return mapped;
  }
  mm.vdso = text;
  return {};
}

}  // namespace quire::kernel
