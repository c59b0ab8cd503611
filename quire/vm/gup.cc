// The kernel takes hold of a program's pages: get_user_pages, pin_user_pages (Linux's mm/gup.c).
#include "quire/vm/gup.h"

#include <limits>

#include "quire/file/vfs.h"
#include "quire/phys/page_wait.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

// A pin must find the page that the process will go on to use: not one that the next write would replace by a copy.
bool gup_must_unshare(const phys::Page* page, arch::Access kind, FollowHow how) {
  return how == FollowHow::kPin && kind != arch::Access::kWrite && page != nullptr &&
         phys::folio_test_anon(phys::page_folio(*page)) && !page->test(phys::PageFlag::kAnonExclusive);
}

FaultFlags fault_flags(arch::Access kind) { return kind == arch::Access::kWrite ? FaultFlags::kWrite : FaultFlags::kNone; }

}  // namespace

// The page at `address`, faulted in if need be; null for the zero page. mmap_lock held, no other lock.
Result<phys::Page*> Vm::fault_in_page(Vma& vma, VirtAddr address, arch::Access kind, FollowHow how) {
  Mm& mm = *vma.vm_mm;
  const bool write = kind == arch::Access::kWrite;
  while (true) {
    if (mm.killed()) return fail(Errno::kIntr);
    FaultFlags flags = fault_flags(kind);
    const arch::Pte* pte = pgtable_.pte_offset(mm, address);
    if (pte != nullptr && pte->present() && (!write || arch::pte_write(*pte))) {
      phys::Page* page = vm_normal_page(*pte);
      if (!gup_must_unshare(page, kind, how)) {
        // Who asked for it to write (FOLL_TOUCH) gets a dirty page, also where a read had mapped it writable.
        if (write && page != nullptr && !arch::pte_dirty(*pte) && !phys::folio_test_dirty(phys::page_folio(*page))) {
          parts_.vfs.filemap().folio_mark_dirty(phys::page_folio(*page));
        }
        return page;
      }
      flags = FaultFlags::kUnshare;
    }
    const FaultOutcome outcome = handle_mm_fault(vma, address, flags);
    if (any(outcome, FaultOutcome::kOom)) return fail(Errno::kNoMem);
    if (any(outcome, FaultOutcome::kError)) return fail(Errno::kFault);
  }
}

// mmap_lock held for reading.
Result<std::uint64_t> Vm::get_user_pages_locked(Mm& mm, VirtAddr start, std::span<phys::Page*> pages, arch::Access kind,
                                                FollowHow how) {
  if (how == FollowHow::kPin) mm.flags |= MmFlags::kHasPinned;
  std::uint64_t got = 0;
  for (; got < pages.size(); ++got) {
    const VirtAddr address = align_down(start, kPageSize) + (got << kPageShift);
    Vma* vma = mm.mm_vmas.lookup(address);
    const VmFlags need = kind == arch::Access::kWrite ? VmFlags::kWrite : VmFlags::kRead;
    Result<phys::Page*> page = fail(Errno::kFault);
    // No sync point from the page that was found to the reference on it. (Marking it dirty has one only for files with writeback,
    // and a writable entry of theirs is dirty already.)
    const bool ordinary = vma != nullptr && !vma->has(VmFlags::kIo | VmFlags::kPfnMap);
    if (ordinary && vma->has(need)) page = fault_in_page(*vma, address, kind, how);
    if (!page) {
      if (got == 0) return fail(page.error());
      break;
    }
    pages[got] = *page != nullptr ? *page : zero_page_;
    if (Status grabbed = try_grab_page(*pages[got], how); !grabbed) {
      if (got == 0) return fail(grabbed.error());
      break;
    }
  }
  return got;
}

// The zero page is never pinned: nobody writes to it, and it goes nowhere. kNoMem: the count has no room for more.
Status Vm::try_grab_page(phys::Page& page, FollowHow how) {
  constexpr int kMostRefs = std::numeric_limits<int>::max() - kGupPinCountingBias;
  phys::Folio& folio = phys::page_folio(page);
  const bool pin = how == FollowHow::kPin;
  if (pin && &page == zero_page_) return {};
  if (phys::folio_ref_count(folio) > kMostRefs) return fail(Errno::kNoMem);
  if (pin) {
    phys::folio_ref_add(folio, kGupPinCountingBias);
    parts_.phys.page_node(page).stats.add(phys::NodeStat::kNrFollPinAcquired);
  } else {
    phys::folio_get(folio);
  }
  return {};
}

Result<std::uint64_t> Vm::get_user_pages(Mm& mm, VirtAddr start, std::span<phys::Page*> pages, arch::Access kind) {
  const sim::ReadGuard guard(mm.mmap_lock);
  return get_user_pages_locked(mm, start, pages, kind, FollowHow::kGet);
}

Result<std::uint64_t> Vm::pin_user_pages(Mm& mm, VirtAddr start, std::span<phys::Page*> pages, arch::Access kind,
                                         FollFlags flags) {
  const sim::ReadGuard guard(mm.mmap_lock);
  if (flags == FollFlags::kLongterm) return gup_longterm_locked(mm, start, pages, kind);
  return get_user_pages_locked(mm, start, pages, kind, FollowHow::kPin);
}

void Vm::unpin_user_pages(std::span<phys::Page* const> pages) {
  for (phys::Page* page : pages) {
    if (page == zero_page_) continue;
    phys::Folio& folio = phys::page_folio(*page);
    QUIRE_BUG_ON(!folio_maybe_dma_pinned(folio));
    parts_.phys.page_node(*page).stats.add(phys::NodeStat::kNrFollPinReleased);
    parts_.lru.folio_put_refs(folio, kGupPinCountingBias);
  }
}

void Vm::unpin_user_pages_dirty_lock(std::span<phys::Page* const> pages) {
  for (phys::Page* page : pages) {
    if (page == zero_page_) continue;
    phys::Folio& folio = phys::page_folio(*page);
    if (!phys::folio_test_dirty(folio)) {
      phys::folio_lock(parts_.phys, folio);
      parts_.vfs.filemap().folio_mark_dirty(folio);
      phys::folio_unlock(parts_.phys, folio);
    }
  }
  unpin_user_pages(pages);
}

}  // namespace quire::vm
