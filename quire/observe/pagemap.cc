#include "quire/observe/pagemap.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "quire/arch/swap_entry.h"
#include "quire/base/function_ref.h"
#include "quire/phys/folio.h"
#include "quire/sim/lock_guards.h"

namespace quire::observe {

using vm::Mm;
using vm::Vm;
using vm::Vma;
using vm::VmFlags;

namespace {

constexpr std::uint64_t kWord = sizeof(std::uint64_t);
constexpr unsigned kSwapTypeBits = 5;  // MAX_SWAPFILES_SHIFT

std::uint64_t page_bits(const phys::Page& page) {
  return (phys::folio_test_anon(phys::page_folio(page)) ? 0 : kPagemapFile) |
         (phys::page_mapcount(page) == 1 ? kPagemapExclusive : 0);
}

// pte_to_pagemap_entry, for an entry that is not none.
std::uint64_t word_of_entry(Vm& vm, arch::Pte pte) {
  phys::PhysMem& phys = vm.parts().phys;
  if (arch::pte_present(pte)) {
    const bool counted = !arch::pte_special(pte);  // not the zero page, nor one mapped by frame
    return kPagemapPresent | pte.pfn().value() | (arch::pte_soft_dirty(pte) ? kPagemapSoftDirty : 0) |
           (arch::pte_uffd_wp(pte) ? kPagemapUffdWp : 0) | (counted ? page_bits(phys.pfn_to_page(pte.pfn())) : 0);
  }
  const arch::SwapEntry entry = arch::pte_to_swp_entry(pte);
  const bool moving = arch::is_migration_entry(entry);
  const std::uint64_t offset = moving ? arch::migration_entry_to_pfn(entry).value() : entry.offset;
  std::uint64_t word = kPagemapSwap | entry.type | ((offset << kSwapTypeBits) & kPagemapFrameMask) |
                       (arch::pte_swp_soft_dirty(pte) ? kPagemapSoftDirty : 0) |
                       (arch::pte_swp_uffd_wp(pte) ? kPagemapUffdWp : 0);
  if (moving) word |= page_bits(phys.pfn_to_page(Pfn(offset))) & kPagemapFile;
  return word;
}

// What each page of an area has, touched or not.
std::uint64_t word_of_area(const Vma& vma) { return vma.has(VmFlags::kSoftDirty) ? kPagemapSoftDirty : 0; }

const Vma* first_area(const Mm& mm, Range<VirtAddr> range) { return mm.mm_vmas.find_intersection(range); }
const Vma* next_area(const Vma& vma, Range<VirtAddr> range) {
  const Vma* next = vm::VmaTree::next(vma);
  return next != nullptr && next->vm_start < range.end ? next : nullptr;
}

using EachWord = FunctionRef<void(VirtAddr address, std::uint64_t word)>;

// The words of the pages of [range) that have an entry. mmap_lock held.
void for_each_entry(Vm& vm, const Mm& mm, Range<VirtAddr> range, EachWord each) {
  for (const Vma* vma = first_area(mm, range); vma != nullptr; vma = next_area(*vma, range)) {
    vm.pgtable().for_each_pte(mm, vma->range().intersect(range), [&](VirtAddr at, arch::Pte& pte) {
      if (!arch::pte_none(pte)) each(at, word_of_entry(vm, pte) | word_of_area(*vma));
    });
  }
}

// Pages of one kind whose frames or slots follow one another.
struct Run {
  VirtAddr begin, end;
  std::uint64_t first = 0;

  // What the frame field grows by from page to page.
  [[nodiscard]] std::uint64_t step() const { return (first & kPagemapSwap) != 0 ? std::uint64_t{1} << kSwapTypeBits : 1; }
  [[nodiscard]] bool takes(VirtAddr at, std::uint64_t word) const {
    if (at != end || begin == end) return false;
    return word == first + ((at - begin) >> kPageShift) * step();
  }
};

void show_run(std::string& text, const Run& run) {
  if (run.begin == run.end) return;
  text += fmt::format("{:08x}-{:08x}", run.begin.value(), run.end.value());
  constexpr std::pair<std::uint64_t, std::string_view> kNames[] = {
      {kPagemapPresent, "present"},     {kPagemapSwap, "swapped"},   {kPagemapFile, "file"},
      {kPagemapExclusive, "exclusive"}, {kPagemapUffdWp, "uffd-wp"}, {kPagemapSoftDirty, "soft-dirty"}};
  for (const auto& [bit, name] : kNames) {
    if ((run.first & bit) != 0) text += fmt::format(" {}", name);
  }
  const std::uint64_t frame = run.first & kPagemapFrameMask;
  if ((run.first & kPagemapPresent) != 0) text += fmt::format(" pfn {:x}", frame);
  if ((run.first & kPagemapSwap) != 0) {
    text += fmt::format(" type {} offset {:x}", frame & ((1u << kSwapTypeBits) - 1), frame >> kSwapTypeBits);
  }
  text += '\n';
}

}  // namespace

Result<std::uint64_t> read_pagemap(Vm& vm, Mm& mm, std::uint64_t offset, std::span<std::byte> to, ShowPfn show_pfn) {
  if (offset % kWord != 0 || to.size() % kWord != 0) return fail(Errno::kInval);
  const std::uint64_t pages = mm.task_size.value() >> kPageShift;
  const std::uint64_t first = offset / kWord;
  if (first >= pages) return 0;
  const std::uint64_t count = std::min(to.size() / kWord, pages - first);
  std::memset(to.data(), 0, count * kWord);
  const VirtAddr begin(first << kPageShift);
  const sim::ReadGuard guard(mm.mmap_lock);
  const Range<VirtAddr> range{begin, begin + (count << kPageShift)};
  const auto put = [&](VirtAddr at, std::uint64_t word) {
    if (show_pfn == ShowPfn::kNo) word &= ~kPagemapFrameMask;
    std::memcpy(to.data() + ((at - begin) >> kPageShift) * kWord, &word, kWord);
  };
  for (const Vma* vma = first_area(mm, range); vma != nullptr; vma = next_area(*vma, range)) {
    const Range<VirtAddr> here = vma->range().intersect(range);
    for (VirtAddr at = here.begin; at < here.end; at += kPageSize) put(at, word_of_area(*vma));
  }
  for_each_entry(vm, mm, range, put);
  return count * kWord;
}

std::string pagemap(Vm& vm, Mm& mm) {
  const sim::ReadGuard guard(mm.mmap_lock);
  std::string text;
  Run run;
  for_each_entry(vm, mm, {VirtAddr(0), mm.task_size}, [&](VirtAddr at, std::uint64_t word) {
    if (!run.takes(at, word)) {
      show_run(text, run);
      run = {.begin = at, .end = at, .first = word};
    }
    run.end = at + kPageSize;
  });
  show_run(text, run);
  return text;
}

}  // namespace quire::observe
