// Swapping in: do_swap_page.
#include "quire/phys/page_wait.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"
#include "quire/vm/vm_fault.h"

namespace quire::vm {

namespace {

// What swap readahead may look at around a fault.
class FaultWindow final : public swap::SwapVmaWindow {
 public:
  FaultWindow(VmFault& vmf, PageTableSource& pgtable) : vmf_(vmf), pgtable_(pgtable) {}
  [[nodiscard]] VirtAddr address() const override { return vmf_.address; }
  [[nodiscard]] Range<VirtAddr> bounds() const override {
    const VirtAddr table = align_down(vmf_.address, arch::kPmdSize);
    return vmf_.vma.range().intersect({table, table + arch::kPmdSize});
  }
  [[nodiscard]] std::optional<swap::SwapEntry> entry_at(VirtAddr va) override {
    const arch::Pte* pte = pgtable_.pte_offset(vmf_.mm(), va);
    if (pte == nullptr || !arch::is_swap_pte(*pte)) return std::nullopt;
    const arch::SwapEntry entry = arch::pte_to_swp_entry(*pte);
    if (arch::non_swap_entry(entry)) return std::nullopt;
    return entry;
  }
  [[nodiscard]] std::uint64_t& readahead_info() override { return vmf_.vma.swap_readahead_info; }

 private:
  VmFault& vmf_;
  PageTableSource& pgtable_;
};

}  // namespace

// Is the swap slot worth giving up now that the page is in memory?
bool Vm::should_try_to_free_swap(const VmFault& vmf, const phys::Folio& folio) const {
  if (!phys::folio_test_swapcache(folio)) return false;
  if (parts_.swap.vm_swap_full() || vmf.vma.has(VmFlags::kLocked) || phys::folio_test_mlocked(folio)) return true;
  // About to be written by its only user: the copy on the device would be stale anyway.
  return vmf.write() && phys::folio_ref_count(folio) == 2;
}

// Waits until the page has arrived, or the move was given up; the access is tried again then. Takes no reference, which would
// hold the page where it is.
FaultOutcome Vm::migration_entry_wait(VmFault& vmf) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  const FuncGraph::Call traced(graph_, __func__);
  Mm& mm = vmf.mm();
  mm.page_table_lock.lock();
  phys::Folio* moving = *vmf.pte == vmf.orig_pte ? &migration_entry_folio(arch::pte_to_swp_entry(vmf.orig_pte)) : nullptr;
  QUIRE_BUG_ON(moving != nullptr && !phys::folio_test_locked(*moving));  // nobody would ever take the entry away
  mm.page_table_lock.unlock();
  if (moving != nullptr) phys::folio_wait_locked_once(parts_.phys, *moving);
  return FaultOutcome::kNone;
}

// False: the folio was locked, most likely for its read, and has been waited for without mmap_lock.
bool Vm::folio_lock_or_retry(const VmFault& vmf, phys::Folio& folio) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  if (phys::folio_trylock(folio)) return true;
  if (!vmf.may_unlock()) {
    phys::folio_lock(parts_.phys, folio);
    return true;
  }
  vmf.mmap_lock->release();
  phys::folio_wait_locked(parts_.phys, folio);
  return false;
}

FaultOutcome Vm::do_swap_page(VmFault& vmf) {
  const FuncGraph::Call traced(graph_, __func__);
  const arch::SwapEntry arch_entry = arch::pte_to_swp_entry(vmf.orig_pte);
  if (arch::is_migration_entry(arch_entry)) return migration_entry_wait(vmf);
  if (arch::is_guard_swp_entry(arch_entry)) return FaultOutcome::kSigsegv;
  if (arch::non_swap_entry(arch_entry)) return FaultOutcome::kSigbus;  // no poison yet
  const swap::SwapEntry entry = arch_entry;
  Mm& mm = vmf.mm();
  FaultOutcome outcome = FaultOutcome::kNone;

  FaultWindow window(vmf, pgtable_);
  phys::Folio* folio = parts_.swap.lookup_swap_cache(entry, &window);
  const bool was_cached = folio != nullptr;
  bool skipped_cache = false;
  if (folio == nullptr) {
    if (parts_.swap.should_skip_swap_cache(entry)) {
      const Result<phys::Folio*> read = parts_.swap.swapin_skip_cache(entry, phys::Gfp::kHighUserMovable);
      if (!read && read.error() == Errno::kExist) return outcome;  // another task is at it
      if (read) folio = *read;
      skipped_cache = folio != nullptr;
    } else {
      folio = parts_.swap.swapin_readahead(entry, phys::Gfp::kHighUserMovable, &window);
    }
    if (folio == nullptr) {
      // Somebody else may have brought it in meanwhile; otherwise there is no memory.
      sim::SpinGuard guard(mm.page_table_lock);
      return *vmf.pte == vmf.orig_pte ? FaultOutcome::kOom : FaultOutcome::kNone;
    }
  }
  if (!was_cached) {
    outcome = FaultOutcome::kMajor;
    parts_.phys.vmstat().count_vm_event(phys::VmEvent::kPgmajfault);
  }
  if (!skipped_cache && !folio_lock_or_retry(vmf, *folio)) {
    parts_.lru.folio_put(*folio);
    return outcome | FaultOutcome::kRetry;
  }
  outcome |= map_swapped_in(vmf, entry, *folio, skipped_cache ? SwapinWay::kSkippedCache : SwapinWay::kCached);
  if (skipped_cache) parts_.swap.swapcache_clear(entry);
  return outcome;
}

// Puts the locked folio into the entry's place if that still names it. Takes over lock and reference.
FaultOutcome Vm::map_swapped_in(VmFault& vmf, swap::SwapEntry entry, phys::Folio& folio,
                                SwapinWay way) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  const FuncGraph::Call traced(graph_, __func__);
  Vma& vma = vmf.vma;
  Mm& mm = vmf.mm();
  const bool skipped_cache = way == SwapinWay::kSkippedCache;
  const auto give_up = [&](FaultOutcome outcome) {
    phys::folio_unlock(parts_.phys, folio);
    parts_.lru.folio_put(folio);
    return outcome;
  };
  if (!skipped_cache) {
    // While we waited for the lock it may have left the swap cache, or come back as another entry.
    if (!phys::folio_test_swapcache(folio) || swap::SwapSystem::folio_swap_entry(folio) != entry) {
      return give_up(FaultOutcome::kNone);
    }
    // For a write, batches' references would look like other users.
    if (vmf.write() && !phys::folio_test_lru(folio)) parts_.lru.lru_add_drain();
  }

  mm.page_table_lock.lock();
  if (*vmf.pte != vmf.orig_pte) {
    mm.page_table_lock.unlock();
    return give_up(FaultOutcome::kNone);
  }
  if (!phys::folio_test_uptodate(folio)) {
    mm.page_table_lock.unlock();
    return give_up(FaultOutcome::kSigbus);  // the read failed
  }
  bool exclusive = skipped_cache || arch::pte_swp_exclusive(vmf.orig_pte);
  if (!skipped_cache && exclusive && phys::folio_test_writeback(folio) && parts_.swap.swp_swap_info(entry).stable_writes()) {
    exclusive = false;  // the device needs the page unchanged until it is written
  }
  parts_.swap.swap_free(entry);
  if (should_try_to_free_swap(vmf, folio)) parts_.swap.folio_free_swap(folio);

  mm.add_counter(Rss::kAnonPages, 1);
  mm.add_counter(Rss::kSwapEnts, -1);
  arch::Pte pte = arch::mk_pte(parts_.phys.page_to_pfn(folio), vma_page_prot(vma));
  bool still_write = vmf.write();
  const bool alone = exclusive || phys::folio_ref_count(folio) == 1;
  if (alone && still_write) {
    pte = maybe_mkwrite(arch::pte_mkdirty(pte), vma);
    still_write = false;
  }
  if (arch::pte_swp_soft_dirty(vmf.orig_pte)) pte = arch::pte_mksoft_dirty(pte);
  if (arch::pte_swp_uffd_wp(vmf.orig_pte)) pte = arch::pte_mkuffd_wp(pte);  // a write is met again, and told
  rmap_.page_add_anon_rmap(folio, vma, vmf.address, alone ? RmapExclusive::kYes : RmapExclusive::kNo);
  *vmf.pte = pte;
  vmf.orig_pte = pte;
  parts_.scheduler.charge(parts_.scheduler.costs().fault_map);
  phys::folio_unlock(parts_.phys, folio);
  if (still_write) {
    const FaultOutcome copied = do_wp_page(vmf);  // unlocks
    return any(copied, FaultOutcome::kError) ? copied & FaultOutcome::kError : copied;
  }
  mm.page_table_lock.unlock();
  return FaultOutcome::kNone;
}

}  // namespace quire::vm
