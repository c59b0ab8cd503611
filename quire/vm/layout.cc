// The layout of a new program (arch_pick_mmap_layout and what else x86-64 randomises).
#include "quire/vm/layout.h"

#include <algorithm>

#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

constexpr std::uint64_t kStackRndMask = 0x3fffff;  // pages: __STACK_RND_MASK of a 64-bit program
constexpr std::uint64_t kStackAlignRnd = 8192;     // bytes below the top that arch_align_stack may take
constexpr std::uint64_t kBrkRnd = 32 * kMiB;       // arch_randomize_brk up to 6.8

}  // namespace

VirtAddr Vm::mmap_base_of(const Mm& mm, std::uint64_t random) const {
  const VirtAddr window = default_map_window();
  const std::uint64_t gap_min = 128 * kMiB;
  const std::uint64_t gap_max = window.value() / 6 * 5;
  const std::uint64_t stack_random = mm.randomize == Randomize::kYes ? kStackRndMask << kPageShift : 0;
  const std::uint64_t pad = stack_random + tunables_.stack_guard_gap * kPageSize;
  std::uint64_t gap = mm.rlimits.stack;
  if (gap + pad > gap) gap += pad;
  gap = std::clamp(gap, gap_min, gap_max);
  return align_up(VirtAddr(window.value() - gap - random), kPageSize);
}

void Vm::arch_pick_mmap_layout(Mm& mm, Personality personality) {
  const bool random = !any(personality, Personality::kAddrNoRandomize) && tunables_.randomize_va_space != 0;
  mm.randomize = random ? Randomize::kYes : Randomize::kNo;
  const bool legacy = any(personality, Personality::kAddrCompatLayout) || tunables_.legacy_va_layout;
  mm.layout = legacy ? MmapLayout::kLegacy : MmapLayout::kTopDown;
  const std::uint64_t by = arch_mmap_rnd(mm);
  mm.mmap_legacy_base = align_up(VirtAddr(default_map_window().value() / 3), kPageSize) + by;
  mm.mmap_base = legacy ? mm.mmap_legacy_base : mmap_base_of(mm, by);
}

std::uint64_t Vm::arch_mmap_rnd(const Mm& mm) {
  if (mm.randomize == Randomize::kNo) return 0;
  return (layout_rng_() & ((std::uint64_t{1} << tunables_.mmap_rnd_bits) - 1)) << kPageShift;
}

VirtAddr Vm::randomize_stack_top(const Mm& mm) {
  std::uint64_t top = default_map_window().value();
  if (mm.randomize == Randomize::kYes) top -= (layout_rng_() & kStackRndMask) << kPageShift;
  return align_up(arch_align_stack(mm, VirtAddr(top)), kPageSize);
}

VirtAddr Vm::arch_align_stack(const Mm& mm, VirtAddr sp) {
  if (mm.randomize == Randomize::kYes) sp = VirtAddr(sp.value() - layout_rng_.below(kStackAlignRnd));
  return align_down(sp, 16);
}

VirtAddr Vm::randomize_page(VirtAddr start, std::uint64_t range) {
  start = align_up(start, kPageSize);
  return start + (layout_rng_.below(range >> kPageShift) << kPageShift);
}

VirtAddr Vm::arch_randomize_brk(const Mm& mm) { return randomize_page(mm.brk, kBrkRnd); }

// Above the stack, in the same 2 MiB or where there is no room the next, so that they share a page table.
VirtAddr Vm::vdso_addr(const Mm& mm, std::uint64_t length) {
  const VirtAddr start = align_up(mm.start_stack, kPageSize);
  VirtAddr end = std::min(align_up(start + length, arch::kPmdSize), default_map_window());
  end = VirtAddr(end.value() - length);
  if (end <= start) return start;
  return start + (layout_rng_.below(((end - start) >> kPageShift) + 1) << kPageShift);
}

}  // namespace quire::vm
