// Where the host sees the kernel's vmalloc area: a stretch of the host's address space in which kernel address `va` of the
// area's lower part stands at base + (va - VMALLOC_START), the very frames behind it shown a second time (Arena::map_view).
//
//   kernel    VMALLOC_START        |guard|                     … reach … VMALLOC_END
//   host      base_  | frames of a | --- | frames of b | --- …   |
//
// What is not mapped is not accessible, so a use after vfree and a step into a guard page are faults on the host, too.
// Reserved at the first mapping only, and of bounded size (reach), for many machines live in one process: 1 GiB, or twice the
// machine's RAM when that is more, 64 GiB at most. Areas are laid from the bottom up, so it is the part that is used.
// Each run of consecutive frames is one mapping of the host, of which a process has vm.max_map_count (65,530 unless raised).
// A few are kept as ballast, for to hide something takes a mapping, too, and must work when there are none left.
//
// Locking: none; a range belongs to who allocated it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/phys/phys_mem.h"

namespace quire::kvirt {

class NativeWindow {
 public:
  NativeWindow(phys::PhysMem& phys, Range<VirtAddr> area);
  ~NativeWindow();
  NativeWindow(const NativeWindow&) = delete;
  NativeWindow& operator=(const NativeWindow&) = delete;

  // Kernel addresses that have a place here.
  [[nodiscard]] Range<VirtAddr> reach() const { return reach_; }
  // kNoMem: the host has no address space (ulimit -v).
  [[nodiscard]] Status reserve();

  // Shows the pages at va on, run by run. kNoMem: the host has no more mappings; nothing of it is shown then.
  [[nodiscard]] Status show(VirtAddr va, std::span<phys::Page* const> pages, phys::Arena::ViewAccess access);
  void hide(Range<VirtAddr> range);

  [[nodiscard]] std::byte* native(VirtAddr va) const { return base_ + (va - reach_.begin); }
  [[nodiscard]] VirtAddr kva(const void* p) const {
    return reach_.begin + static_cast<std::uint64_t>(static_cast<const std::byte*>(p) - base_);
  }
  [[nodiscard]] bool contains(const void* p) const { return base_ != nullptr && p >= base_ && p < base_ + reach_.size(); }
  // Host mappings made since boot.
  [[nodiscard]] std::uint64_t mappings() const { return mappings_; }

 private:
  phys::PhysMem& phys_;
  Range<VirtAddr> reach_;
  std::byte* base_ = nullptr;
  void take_ballast();
  void drop_ballast();

  std::byte* ballast_ = nullptr;
  std::uint64_t mappings_ = 0;
};

}  // namespace quire::kvirt
