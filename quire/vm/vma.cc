// Areas as objects: made, linked into tree and reverse maps, changed, freed.
#include "quire/vm/vma.h"

#include "quire/file/vfs.h"
#include "quire/vm/vm.h"

namespace quire::vm {

using file::AddressSpace;

namespace {

void area_insert(AddressSpace& mapping, Vma& vma) { mapping.i_mmap_insert(vma.mapping_node, vma.vm_pgoff, vma.pages()); }

}  // namespace

file::File* Vma::mapped_file() const { return vm_file != nullptr && vm_file->sb().is_special() ? nullptr : vm_file; }

// All of a new area counts as written to (soft-dirty).
Vma* Vm::vm_area_alloc(Mm& mm, Range<VirtAddr> range, VmFlags flags, Pgoff pgoff, file::File* file) {
  if (!mm.mm_vmas.reserve()) return nullptr;  // for its vma_link
  Vma* vma = vma_cache_.alloc(phys::Gfp::kKernel, mm, range, flags | VmFlags::kSoftDirty, pgoff);
  if (vma == nullptr) return nullptr;
  if (file != nullptr) {
    parts_.vfs.fget(*file);
    vma->vm_file = file;
  }
  return vma;
}

// The area of a new mapping, which its file may refuse (call_mmap).
Result<Vma*> Vm::vm_area_map(Mm& mm, Range<VirtAddr> range, VmFlags flags, Pgoff pgoff, file::File* file) {
  Vma* vma = vm_area_alloc(mm, range, flags, pgoff, file);
  if (vma == nullptr) return fail(Errno::kNoMem);
  if (file == nullptr || file->area_ops == nullptr) return vma;
  const Status allowed = file->area_ops->mmap(*file);
  if (allowed) return vma;
  parts_.vfs.fput(*file);
  vma_cache_.free(vma);
  return fail(allowed.error());
}

// A copy that is in no tree yet and has no AnonVmaChain; its anon_vma is that of the original.
Vma* Vm::vm_area_dup(const Vma& vma, Mm& mm) {
  Vma* copy = vm_area_alloc(mm, vma.range(), vma.vm_flags, vma.vm_pgoff, vma.vm_file);
  if (copy == nullptr) return nullptr;
  copy->vm_flags = vma.vm_flags;
  copy->anon_vma = vma.anon_vma;
  if (file::File* file = copy->vm_file; file != nullptr && file->area_ops != nullptr) file->area_ops->vm_open(*file);
  return copy;
}

void Vm::vm_area_free(Vma& vma) {
  if (file::File* file = vma.vm_file; file != nullptr) {
    if (file->area_ops != nullptr) file->area_ops->vm_close(*file);
    parts_.vfs.fput(*file);
  }
  vma_cache_.free(&vma);
}

void Vm::vma_link_file(Vma& vma) {
  if (vma.vm_file == nullptr) return;
  AddressSpace& mapping = vma.vm_file->mapping();
  sim::WriteGuard guard(mapping.i_mmap_rwsem());
  if (vma.is_shared_maywrite()) mapping.mapping_allow_writable();
  area_insert(mapping, vma);
}

void Vm::unlink_file_vma(Vma& vma) {
  if (vma.vm_file == nullptr) return;
  AddressSpace& mapping = vma.vm_file->mapping();
  sim::WriteGuard guard(mapping.i_mmap_rwsem());
  mapping.i_mmap_remove(vma.mapping_node);
  if (vma.is_shared_maywrite()) mapping.mapping_unmap_writable();
}

void Vm::vma_link(Vma& vma) {
  vma.vm_mm->mm_vmas.insert(vma);
  vma_link_file(vma);
  ++vma.vm_mm->map_count;
}

// Out of the reverse maps, after its last page and before its tables go: a walker that has the trees' lock may look at the
// tables of an area it finds there.
void Vm::unlink_rmap(Vma& vma) {
  rmap_.unlink_anon_vmas(vma);
  unlink_file_vma(vma);
}

// Linux's __vma_adjust: the trees that know an area by its bounds are told before and after.
Status Vm::vma_adjust(const VmaChange& change) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  Vma& vma = *change.vma;
  Mm& mm = *vma.vm_mm;

  // An area that takes over pages of another must be found by those pages' AnonVma.
  Vma* giver = change.remove != nullptr ? change.remove : change.next;
  Vma* taker = &vma;
  if (change.remove == nullptr && change.next != nullptr && change.range.end < vma.vm_end) std::swap(giver, taker);
  if (giver != nullptr && giver->anon_vma == nullptr && change.remove2 != nullptr) giver = change.remove2;
  if (giver != nullptr && giver->anon_vma != nullptr && taker->anon_vma == nullptr) {
    taker->anon_vma = giver->anon_vma;
    if (Status cloned = rmap_.anon_vma_clone(*taker, *giver); !cloned) return cloned;
  }

  AddressSpace* mapping = vma.vm_file != nullptr ? &vma.vm_file->mapping() : nullptr;
  AnonVma* anon_vma = vma.anon_vma;
  if (anon_vma == nullptr && change.next != nullptr) anon_vma = change.next->anon_vma;
  if (mapping != nullptr) {
    mapping->i_mmap_rwsem().down_write();
    mapping->i_mmap_remove(vma.mapping_node);
    if (change.next != nullptr) mapping->i_mmap_remove(change.next->mapping_node);
    for (Vma* gone : {change.remove, change.remove2}) {
      if (gone == nullptr) continue;
      mapping->i_mmap_remove(gone->mapping_node);
      if (gone->is_shared_maywrite()) mapping->mapping_unmap_writable();
    }
  }
  if (anon_vma != nullptr) {
    anon_vma->root->rwsem.down_write();
    rmap_.anon_vma_interval_tree_pre_update(vma);
    if (change.next != nullptr) rmap_.anon_vma_interval_tree_pre_update(*change.next);
  }

  for (Vma* gone : {change.remove, change.remove2}) {
    if (gone != nullptr) mm.mm_vmas.erase(*gone);
  }
  const Range<VirtAddr> next_range =
      change.next != nullptr ? Range<VirtAddr>{change.range.end, change.next->vm_end} : Range<VirtAddr>{};
  const bool growing = change.range.end > vma.vm_end;
  if (change.next != nullptr && growing) {
    change.next->vm_pgoff += (next_range.begin - change.next->vm_start) >> kPageShift;
    mm.mm_vmas.adjust(*change.next, next_range);
  }
  mm.mm_vmas.adjust(vma, change.range);
  vma.vm_pgoff = change.pgoff;
  if (change.next != nullptr && !growing) {
    change.next->vm_pgoff -= (change.next->vm_start - next_range.begin) >> kPageShift;
    mm.mm_vmas.adjust(*change.next, next_range);
  }
  if (change.insert != nullptr) {
    mm.mm_vmas.insert(*change.insert);
    ++mm.map_count;
  }

  if (anon_vma != nullptr) {
    rmap_.anon_vma_interval_tree_post_update(vma);
    if (change.next != nullptr) rmap_.anon_vma_interval_tree_post_update(*change.next);
    anon_vma->root->rwsem.up_write();
  }
  if (mapping != nullptr) {
    area_insert(*mapping, vma);
    if (change.next != nullptr) area_insert(*mapping, *change.next);
    if (change.insert != nullptr) {
      if (change.insert->is_shared_maywrite()) mapping->mapping_allow_writable();
      area_insert(*mapping, *change.insert);
    }
    mapping->i_mmap_rwsem().up_write();
  }
  for (Vma* gone : {change.remove, change.remove2}) {
    if (gone == nullptr) continue;
    rmap_.unlink_anon_vmas(*gone);
    --mm.map_count;
    vm_area_free(*gone);
  }
  return {};
}

Status Vm::split_vma(Vma& vma, VirtAddr at, NewPart part) {
  if (vma.vm_mm->map_count >= tunables_.max_map_count) return fail(Errno::kNoMem);
  return split_vma_beyond_limit(vma, at, part);
}

Status Vm::split_vma_beyond_limit(Vma& vma, VirtAddr at, NewPart part) {
  Mm& mm = *vma.vm_mm;
  const bool upper = part == NewPart::kUpper;
  const Range<VirtAddr> below{vma.vm_start, at};
  const Range<VirtAddr> above{at, vma.vm_end};
  Vma* fresh = vm_area_dup(vma, mm);
  if (fresh == nullptr) return fail(Errno::kNoMem);
  // Bounds before the clone, which enters the area into the AnonVmas' trees by them.
  fresh->vm_start = upper ? above.begin : below.begin;
  fresh->vm_end = upper ? above.end : below.end;
  fresh->vm_pgoff = vma.linear_page_index(fresh->vm_start);
  if (Status cloned = rmap_.anon_vma_clone(*fresh, vma); !cloned) {
    vm_area_free(*fresh);
    return cloned;
  }
  const Range<VirtAddr> kept = upper ? below : above;
  const Status adjusted = vma_adjust({.vma = &vma, .range = kept, .pgoff = vma.linear_page_index(kept.begin), .insert = fresh});
  QUIRE_BUG_ON(!adjusted);
  return {};
}

void Vm::vm_stat_account(Mm& mm, VmFlags flags, std::int64_t pages) {
  const auto delta = static_cast<std::uint64_t>(pages);
  mm.total_vm += delta;
  const bool stack = any(flags, VmFlags::kGrowsDown);
  if (all(flags, VmFlags::kExec) && !any(flags, VmFlags::kWrite) && !stack) {
    mm.exec_vm += delta;
  } else if (stack) {
    mm.stack_vm += delta;
  } else if (any(flags, VmFlags::kWrite) && !any(flags, VmFlags::kShared)) {
    mm.data_vm += delta;
  }
}

bool Vm::may_expand_vm(const Mm& mm, VmFlags flags, std::uint64_t pages) const {
  if (mm.total_vm + pages > mm.rlimits.as >> kPageShift) return false;
  const bool data = any(flags, VmFlags::kWrite) && !any(flags, VmFlags::kShared | VmFlags::kGrowsDown);
  if (!data || mm.data_vm + pages <= mm.rlimits.data >> kPageShift) return true;
  return mm.rlimits.data == 0 && mm.data_vm + pages <= mm.rlimits.data_max >> kPageShift;
}

}  // namespace quire::vm
