// Where a mapping goes (x86-64's arch_get_unmapped_area and its top-down sibling).
//
// With five levels of tables user space is 2^56 bytes, but addresses above the default window of 2^47 go only to who asks: by a
// hint above the window (or MAP_FIXED). Programs that keep something in an address's upper bits so never meet one.
#include "quire/file/vfs.h"
#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

// MAP_32BIT looks here only.
constexpr Range<VirtAddr> kLow32{VirtAddr(0x40000000), VirtAddr(0x80000000)};
constexpr std::uint64_t kLow32Rnd = 32 * kMiB;  // its beginning, in a randomised program

}  // namespace

Result<VirtAddr> Vm::find_area(Mm& mm, VirtAddr hint, std::uint64_t length, MapFlags flags) {
  const bool low32 = any(flags, MapFlags::k32Bit);
  const bool random32 = low32 && mm.randomize == Randomize::kYes && !any(flags, MapFlags::kFixed);
  const bool top_down = mm.layout == MmapLayout::kTopDown && !low32;
  const VirtAddr address = top_down ? align_down(hint, kPageSize) : align_up(hint, kPageSize);
  const VirtAddr window = default_map_window();
  const bool beyond_window = address > window;
  const VirtAddr whole = beyond_window ? mm.task_size : window;
  const VirtAddr end = low32 ? kLow32.end : whole;
  if (top_down ? length > mm.task_size.value() : length > end.value()) return fail(Errno::kNoMem);
  // A mapping lies within the window or wholly beyond it (mmap_address_hint_valid).
  if (hint.value() != 0 && length <= end.value() && address.value() <= end.value() - length) {
    const Vma* vma = mm.mm_vmas.find(address);
    if (vma == nullptr || address + length <= mm.mm_vmas.start_with_gap(*vma)) return address;
  }
  if (top_down) {
    if (auto gap = mm.mm_vmas.highest_gap(
            length, {VirtAddr(kPageSize), beyond_window ? mm.mmap_base + (mm.task_size - window) : mm.mmap_base})) {
      return *gap;
    }
    if (length > end.value()) return fail(Errno::kNoMem);
  }
  Range<VirtAddr> limits = low32 ? kLow32 : Range<VirtAddr>{mm.mmap_legacy_base, end};
  if (random32) limits.begin = randomize_page(limits.begin, kLow32Rnd);
  if (auto gap = mm.mm_vmas.lowest_gap(length, limits)) return *gap;
  return fail(Errno::kNoMem);
}

// thp_get_unmapped_area: where a huge page of the file would lie whole, it lies so that one entry could map it.
Result<VirtAddr> Vm::thp_find_area(Mm& mm, VirtAddr hint, std::uint64_t length, MapFlags flags, Pgoff pgoff) {
  const std::uint64_t offset = pages_to_bytes(pgoff.value());
  const std::uint64_t end = offset + length;
  const std::uint64_t first_huge = align_up(offset, arch::kPmdSize);
  if (end > first_huge && end - first_huge >= arch::kPmdSize) {
    const Result<VirtAddr> padded = find_area(mm, hint, length + arch::kPmdSize, flags);
    if (padded && *padded == hint) return hint;
    if (padded) return *padded + ((offset - padded->value()) & (arch::kPmdSize - 1));
  }
  return find_area(mm, hint, length, flags);
}

Result<VirtAddr> Vm::get_unmapped_area(Mm& mm, VirtAddr hint, std::uint64_t length, MapFlags flags, const file::File* file,
                                       Pgoff pgoff) {
  if (length > mm.task_size.value()) return fail(Errno::kNoMem);
  VirtAddr address = hint;
  if (!any(flags, MapFlags::kFixed)) {
    const bool huge_aligned = file != nullptr && file->sb().maps_huge_aligned();
    const Result<VirtAddr> found =
        huge_aligned ? thp_find_area(mm, hint, length, flags, pgoff) : find_area(mm, hint, length, flags);
    if (!found) return found;
    address = *found;
  }
  if (address.value() > mm.task_size.value() - length) return fail(Errno::kNoMem);
  if (page_offset(address) != 0) return fail(Errno::kInval);
  if (address < tunables_.mmap_min_addr) return fail(Errno::kPerm);
  return address;
}

}  // namespace quire::vm
