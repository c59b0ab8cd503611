// What the mmap family asks of areas: merges and changes of bounds.
#pragma once

#include "quire/base/types.h"
#include "quire/vm/vma.h"

namespace quire::vm {

// May [range) with these properties become part of its neighbours? `prev` is the last area that starts before range.begin
// (or null); range is either free, or starts inside or at an existing area whose properties are to be changed.
struct MergeRequest {
  Vma* prev = nullptr;
  Range<VirtAddr> range;
  VmFlags flags = VmFlags::kNone;
  AnonVma* anon_vma = nullptr;
  file::File* file = nullptr;
  Pgoff pgoff;
};

// New bounds for `vma`; `next`, if any, has its start moved to vma's new end; `remove` areas vanish into vma; `insert`, cut off
// from vma, appears beside it in the same moment, so that no walk of the reverse map misses its pages.
struct VmaChange {
  Vma* vma = nullptr;
  Range<VirtAddr> range;
  Pgoff pgoff;
  Vma* next = nullptr;
  Vma* remove = nullptr;
  Vma* remove2 = nullptr;
  Vma* insert = nullptr;
};

}  // namespace quire::vm
