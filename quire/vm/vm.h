// Address spaces of a machine: the mmap family, the fault path, fork and exit, reverse mapping, and the TLBs.
//
//   access()      TLB hit → physical address (inline)
//      └ access_slow    hardware walk: sets Accessed/Dirty, refills the TLB
//           └ exc_page_fault    mmap_lock (read) → find_vma → stack growth | SIGSEGV | handle_mm_fault
//                └ handle_pte_fault   do_anonymous_page | do_fault (read, cow, shared) | do_swap_page | do_wp_page
//
// One class, since these are one subsystem on one set of data; its parts are rooms of their own: Rmap, TlbShootdown,
// Migration, PageTableSource, CommitLimit. A method stands in the file that bears its name (mmap.cc, fault.cc, fork.cc, …).
//
// Calls return what Linux's system call does, errors as Linux's errno. They take mmap_lock themselves. Addresses and lengths
// may be anything a program can pass.
//
// Lock order: file locks (i_rwsem, invalidate_lock) around nothing here; mmap_lock → folio lock → i_mmap_rwsem → AnonVma root
// rwsem → page_table_lock → swap, LRU and zone locks.
//
// Differs from Linux: no huge pages, userfaultfd or NUMA hints yet (FaultHooks is where they enter); one page_table_lock an
// Mm; a fault on the kernel's behalf (populate, get_user_pages) holds mmap_lock while it waits for I/O. A program's own gives it
// back and begins anew.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "quire/arch/access.h"
#include "quire/base/function_ref.h"
#include "quire/base/result.h"
#include "quire/base/rng.h"
#include "quire/base/tracepoint.h"
#include "quire/file/address_space.h"
#include "quire/lru/lru.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/kmem_cache.h"
#include "quire/swap/swap_system.h"
#include "quire/vm/commit_limit.h"
#include "quire/vm/fault_hooks.h"
#include "quire/vm/fault_outcome.h"
#include "quire/vm/func_graph.h"
#include "quire/vm/layout.h"
#include "quire/vm/limits.h"
#include "quire/vm/membarrier.h"
#include "quire/vm/migrate.h"
#include "quire/vm/mm.h"
#include "quire/vm/pgtable.h"
#include "quire/vm/rmap.h"
#include "quire/vm/tlb_check.h"
#include "quire/vm/tlb_shootdown.h"
#include "quire/vm/user_iovec.h"
#include "quire/vm/vma_change.h"

namespace quire::file {
class Vfs;
}

namespace quire::vm {

class MmuGather;
struct VmFault;

// What a zap spares: truncation that keeps private copies leaves anonymous pages alone (kNo); guard markers stay unless the
// area goes.
enum class ZapCows : std::uint8_t { kNo, kYes, kAreaGoes };

// Through the swap cache, or past it (a synchronous device and one user).
enum class SwapinWay : std::uint8_t { kCached, kSkippedCache };

// A reference on a page that was found, or a pin (gup.h).
enum class FollowHow : std::uint8_t { kGet, kPin };

// What else a pin asks for (FOLL_*). kLongterm: it may last, so the page first leaves memory that has to stay movable,
// ZONE_MOVABLE and CMA areas; what is faulted in comes from elsewhere at once.
enum class FollFlags : std::uint8_t { kNone, kLongterm };

// Reclaim on demand (MADV_PAGEOUT); the reclaim floor implements it. Without one the advice only deactivates.
class Pageout {
 public:
  virtual ~Pageout() = default;
  // Reclaims isolated folios (each with the isolation's reference) as far as it can, and puts the others back.
  virtual std::uint64_t reclaim_pages(phys::FolioList& folios) = 0;
};

// The floors below, as one machine has them.
struct VmParts {
  phys::PhysMem& phys;
  sim::Scheduler& scheduler;
  slab::SlabSystem& slab;
  lru::Lru& lru;
  swap::SwapSystem& swap;
  file::Vfs& vfs;
  TraceRegistry& traces;
};

class Vm final : public file::MappingUpcalls {
 public:
  Vm(const VmParts& parts, const arch::Geometry& geometry = arch::Geometry::x86_64_4level(),
     const arch::TlbConfig& tlb = arch::TlbConfig());
  ~Vm() override;
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  // --- life of an address space (mm.cc, fork.cc) ----------------------------------------------------------------------
  // An empty one: no areas, a page-table root, mmap_base below the stack's place. kNoMem.
  [[nodiscard]] Result<Mm*> mm_alloc();
  // fork: a copy on write of the parent. kNoMem.
  [[nodiscard]] Result<Mm*> dup_mm(Mm& parent);
  static void mmget(Mm& mm) { ++mm.mm_users; }
  void mmput(Mm& mm);  // the last user's runs exit_mmap
  static void mmgrab(Mm& mm) { ++mm.mm_count; }
  void mmdrop(Mm& mm);
  // exec's stack: an area at the top of user space that grows down, its stack pointer. kNoMem.
  [[nodiscard]] Result<VirtAddr> setup_stack(Mm& mm, std::uint64_t initial_bytes = 128 * kKiB);

  // --- exec (layout.cc, exec_areas.cc) ----------------------------------------------------------------------------------
  // Where mappings go when no address is asked for, from limits (RLIMIT_STACK), personality and tunables; before the first
  // mapping. Says, too, whether what follows here is randomised.
  void arch_pick_mmap_layout(Mm& mm, Personality personality);
  // The first address beyond what programs get that do not ask for more (DEFAULT_MAP_WINDOW); their stacks end there.
  [[nodiscard]] VirtAddr default_map_window() const { return pgtable_.geometry().default_map_window; }
  // What randomisation draws from; a machine has one seed.
  void seed_layouts(std::uint64_t seed) { layout_rng_ = Rng(seed); }
  [[nodiscard]] Rng& layout_rng() { return layout_rng_; }
  [[nodiscard]] std::uint64_t arch_mmap_rnd(const Mm& mm);   // bytes
  [[nodiscard]] VirtAddr randomize_stack_top(const Mm& mm);  // where the stack's area ends
  [[nodiscard]] VirtAddr arch_align_stack(const Mm& mm, VirtAddr sp);
  [[nodiscard]] VirtAddr arch_randomize_brk(const Mm& mm);  // a place from Mm::brk on
  [[nodiscard]] VirtAddr vdso_addr(const Mm& mm, std::uint64_t length);
  // The stack's first page, for the arguments; it grows down as they are copied. kNoMem.
  Status bprm_mm_init(Mm& mm, VirtAddr stack_top);
  // The arguments begin at `p`: rights of the stack, and 128 KiB more of it. kFault, kNoMem.
  Status setup_arg_pages(Mm& mm, VirtAddr p, ExecStack exec_stack);
  // Anonymous memory at just this place, in place of what is there; `exec`: VM_EXEC or nothing. Page-aligned. kNoMem, kAgain.
  Status vm_brk_flags(Mm& mm, Range<VirtAddr> range, VmFlags exec);
  // Pages of the kernel's own; `file` has them. kNoMem.
  Status install_special_mapping(Mm& mm, Range<VirtAddr> range, VmFlags flags, file::File& file);

  // The SIGKILL of the OOM killer (or a user) as memory management sees it: faults and calls end early.
  void mark_killed(Mm& mm) { mm.flags |= MmFlags::kKilled; }
  void mark_oom_victim(Mm& mm) { mm.flags |= MmFlags::kOomVictim | MmFlags::kKilled; }

  // --- the mmap family (one file each) ------------------------------------------------------------------------------------
  [[nodiscard]] Result<VirtAddr> mmap(Mm& mm, VirtAddr hint, std::uint64_t length, Prot prot, MapFlags flags, file::File* file,
                                      std::uint64_t offset);
  Status munmap(Mm& mm, VirtAddr start, std::uint64_t length);
  // Unmaps, while nobody else can map, the areas from `start` on that `choose` names; true: there was one (shmdt).
  enum class AreaChoice : std::uint8_t { kLeave, kUnmap, kStop };
  bool munmap_areas(Mm& mm, VirtAddr start, FunctionRef<AreaChoice(const Vma&)> choose);
  // The emulation that is left of it: maps page `pgoff` of the same file there.
  Status remap_file_pages(Mm& mm, VirtAddr start, std::uint64_t size, Prot prot, std::uint64_t pgoff, MapFlags flags);
  Status mprotect(Mm& mm, VirtAddr start, std::uint64_t length, Prot prot);
  [[nodiscard]] Result<VirtAddr> mremap(Mm& mm, VirtAddr old_address, std::uint64_t old_length, std::uint64_t new_length,
                                        MremapFlags flags, VirtAddr new_address = {});
  // The new break, or the old one when it cannot be moved (brk(2) as the kernel has it: never an error).
  VirtAddr brk(Mm& mm, VirtAddr new_brk);
  Status madvise(Mm& mm, VirtAddr start, std::uint64_t length, Advice advice);
  // Seals areas: from here on they are neither unmapped, moved nor given other rights. (6.10)
  Status mseal(Mm& mm, VirtAddr start, std::uint64_t length, std::uint64_t flags = 0);
  // The bytes that were advised; parts after the first that fails are left out. `target`: what looking for the process gave,
  // an Mm (kept in use until the end), or kBadF, kSrch, kPerm.
  [[nodiscard]] Result<std::uint64_t> process_madvise(Mm& caller, Result<Mm*> target, std::span<const UserIovec> parts,
                                                      Advice advice, std::uint32_t flags = 0);
  // Copies between `local` parts of mm and parts of another process, as many bytes as can be; `remote` as in
  // process_madvise.
  [[nodiscard]] Result<std::uint64_t> process_vm_readv(Mm& mm, std::span<const UserIovec> local, Result<Mm*> remote,
                                                       std::span<const UserIovec> from, std::uint64_t flags = 0);
  [[nodiscard]] Result<std::uint64_t> process_vm_writev(Mm& mm, std::span<const UserIovec> local, Result<Mm*> remote,
                                                        std::span<const UserIovec> to, std::uint64_t flags = 0);
  // The mask of commands, of registrations, or 0.
  [[nodiscard]] Result<std::uint32_t> membarrier(Mm& mm, MembarrierCmd cmd, std::uint32_t flags = 0, int cpu = 0);
  Status mlock(Mm& mm, VirtAddr start, std::uint64_t length, MlockFlags flags = MlockFlags::kNone);
  Status munlock(Mm& mm, VirtAddr start, std::uint64_t length);
  Status mlockall(Mm& mm, MclFlags flags);
  Status munlockall(Mm& mm);
  Status msync(Mm& mm, VirtAddr start, std::uint64_t length, MsyncFlags flags);
  // One byte a page into `vec`, bit 0: resident. vec holds at least length / 4096, rounded up.
  Status mincore(Mm& mm, VirtAddr start, std::uint64_t length, std::span<std::uint8_t> vec);

  // --- touching memory (access.h below, fault.cc, uaccess.cc) --------------------------------------------------------------
  // One access of a user program on the current CPU.
  [[nodiscard]] AccessOutcome access(Mm& mm, VirtAddr address, arch::Access kind) {
    if (const auto* hit = tlb_hit(mmu(), mm, address, kind)) [[likely]]
      return AccessOutcome{hit->translate(address)};
    return access_slow(mm, address, kind);
  }
  // The entry of mmu(), the current CPU's, that serves the access; null: access() it.
  [[nodiscard]] const arch::TlbEntry* tlb_hit(arch::Mmu& mmu, const Mm& mm, VirtAddr address, arch::Access kind) {
    const arch::TlbEntry* hit = mmu.lookup_in(mm.context_id, address, kind, arch::Privilege::kUser);
#ifdef QUIRE_DEBUG
    if (hit != nullptr) tlb_checker_.check_used(mm, address);
#endif
    return hit;
  }
  // Of the current CPU.
  [[nodiscard]] arch::Mmu& mmu() { return shootdown_.mmu(parts_.scheduler.cpu()); }
  // What an instruction has at its address on kOk; the bytes of one page.
  [[nodiscard]] std::byte* to_host(PhysAddr address) { return parts_.phys.arena().to_virt(address); }

  // The kernel's own access to user memory. Bytes done before the first that cannot be (EFAULT when that is 0 of more than 0).
  // Dataless machines touch the pages and move nothing.
  [[nodiscard]] std::uint64_t copy_from_user(Mm& mm, std::span<std::byte> to, VirtAddr from);
  [[nodiscard]] std::uint64_t copy_to_user(Mm& mm, VirtAddr to, std::span<const std::byte> from);
  // The same without bytes: faults in [address, address + length) as a copy would; bytes reached.
  [[nodiscard]] std::uint64_t touch_user(Mm& mm, VirtAddr address, std::uint64_t length, arch::Access kind);

  // Pages of [start, …) with a reference each, the zero page where a read finds it; the number got, or the error of the first.
  // mmap_lock not held. kFault: no area, or one without that right or without pages. kNoMem: no frame, or the page's count has no
  // room for more. kIntr: the process is being killed.
  [[nodiscard]] Result<std::uint64_t> get_user_pages(Mm& mm, VirtAddr start, std::span<phys::Page*> pages, arch::Access kind);
  // The same with pins (gup.h), for who will touch the bytes himself; a read unshares pages that a child has, too. Give back with
  // one of the others: the second marks the pages dirty first, since their holder wrote to them; it may sleep.
  // Errors as above; with kLongterm also kNoMem: a page cannot leave such memory (somebody else has a reference on it, or there
  // is no frame for it), then none is pinned. What others have off the LRU just now is waited for.
  [[nodiscard]] Result<std::uint64_t> pin_user_pages(Mm& mm, VirtAddr start, std::span<phys::Page*> pages, arch::Access kind,
                                                     FollFlags flags = FollFlags::kNone);
  void unpin_user_pages(std::span<phys::Page* const> pages);
  void unpin_user_pages_dirty_lock(std::span<phys::Page* const> pages);

  // The page fault proper: mmap_lock held for reading (or writing), `vma` contains the address and allows the access.
  // Whoever caused it, the fault counts for the Mm of the area. Who gives his `mmap_lock` allows that it be given back while a
  // device is waited for, once (not with kTried): it has been when kRetry or kCompleted is returned, and `vma` may be gone.
  FaultOutcome handle_mm_fault(Vma& vma, VirtAddr address, FaultFlags flags, sim::ReleasableReadGuard* mmap_lock = nullptr);

  // --- areas --------------------------------------------------------------------------------------------------------------
  // Room for `length` bytes, which begin at page `pgoff` of `file` where there is one.
  [[nodiscard]] Result<VirtAddr> get_unmapped_area(Mm& mm, VirtAddr hint, std::uint64_t length, MapFlags flags,
                                                   const file::File* file = nullptr, Pgoff pgoff = Pgoff(0));
  [[nodiscard]] arch::Pgprot vm_get_page_prot(VmFlags flags) const;

  // --- upcalls from the page cache (file::MappingUpcalls; unmap_mapping.cc, rmap_clean.cc) -----------------------------------
  void unmap_mapping_pages(file::AddressSpace& mapping, Pgoff first, std::uint64_t count, file::EvenCows even_cows) override;
  int folio_mkclean(phys::Folio& folio) override { return rmap_.folio_mkclean(folio); }

  // --- parts ----------------------------------------------------------------------------------------------------------------
  [[nodiscard]] Rmap& rmap() { return rmap_; }
  [[nodiscard]] Migration& migration() { return migration_; }
  [[nodiscard]] TlbShootdown& shootdown() { return shootdown_; }
  [[nodiscard]] TlbChecker& tlb_checker() { return tlb_checker_; }
  [[nodiscard]] PageTableSource& pgtable() { return pgtable_; }
  [[nodiscard]] CommitLimit& commit() { return commit_; }
  [[nodiscard]] VmTunables& tunables() { return tunables_; }
  [[nodiscard]] const VmParts& parts() const { return parts_; }
  [[nodiscard]] phys::Page& zero_page() const { return *zero_page_; }
  void set_fault_hooks(FaultHooks* hooks) { hooks_ = hooks; }
  void set_pageout(Pageout* pageout) { pageout_ = pageout; }

  // Every Mm, in order of creation.
  using MmList = List<Mm, &Mm::mmlist>;
  [[nodiscard]] MmList& mms() { return mms_; }

  // Walks everything: tree order, gaps and sizes; tables against areas, map counts, rmap and rss; swap counts at least as
  // high as the entries found. QUIRE_BUGs at the first disagreement. `validate()` does all Mms and counts each page's mappings.
  void validate(Mm& mm);
  void validate();

 private:
  friend class Rmap;
  friend class MmuGather;
  friend class VmValidator;

  [[gnu::noinline]] AccessOutcome access_slow(Mm& mm, VirtAddr address, arch::Access kind);
  AccessOutcome exc_page_fault(Mm& mm, VirtAddr address, arch::FaultCode code);
  template <class Each>
  std::uint64_t for_user_pages(Mm& mm, VirtAddr address, std::uint64_t length, arch::Access kind, Each&& each);

  // fault*.cc
  FaultOutcome do_handle_mm_fault(Vma& vma, VirtAddr address, FaultFlags flags, sim::ReleasableReadGuard* mmap_lock);
  [[nodiscard]] bool maybe_unlock_mmap_for_io(const VmFault& vmf, file::File& file);
  [[nodiscard]] bool folio_lock_or_retry(const VmFault& vmf, phys::Folio& folio);
  [[nodiscard]] FaultOutcome ask_hooks(const VmFault& vmf);
  FaultOutcome handle_pte_fault(VmFault& vmf);
  FaultOutcome do_anonymous_page(VmFault& vmf);
  FaultOutcome do_fault(VmFault& vmf);
  FaultOutcome do_read_fault(VmFault& vmf);
  FaultOutcome do_cow_fault(VmFault& vmf);
  FaultOutcome do_shared_fault(VmFault& vmf);
  FaultOutcome do_fault_around(VmFault& vmf);
  FaultOutcome fault_page(VmFault& vmf);
  FaultOutcome finish_fault(VmFault& vmf, phys::Folio& folio);
  void do_set_pte(VmFault& vmf, phys::Folio& folio, VirtAddr address, arch::Pte* pte);
  FaultOutcome do_page_mkwrite(VmFault& vmf, phys::Folio& folio);
  [[nodiscard]] FaultOutcome fault_dirty_shared_page(VmFault& vmf, phys::Folio& folio);
  FaultOutcome do_wp_page(VmFault& vmf);
  FaultOutcome wp_page_copy(VmFault& vmf, phys::Folio* old);
  FaultOutcome wp_page_shared(VmFault& vmf, phys::Folio& folio);
  [[nodiscard]] bool wp_can_reuse_anon(Vma& vma, phys::Page& page);
  void wp_page_reuse(VmFault& vmf);
  void free_swap_cache(phys::Folio& folio);
  FaultOutcome do_swap_page(VmFault& vmf);
  FaultOutcome map_swapped_in(VmFault& vmf, swap::SwapEntry entry, phys::Folio& folio, SwapinWay way);
  FaultOutcome migration_entry_wait(VmFault& vmf);
  [[nodiscard]] bool should_try_to_free_swap(const VmFault& vmf, const phys::Folio& folio) const;
  [[nodiscard]] bool pte_alloc(VmFault& vmf);
  [[nodiscard]] phys::Folio* vma_alloc_folio(Vma& vma, VirtAddr address);
  void folio_add_lru_vma(phys::Folio& folio, Vma& vma);

  // mm.cc, vma.cc
  void exit_mmap(Mm& mm);
  [[nodiscard]] Vma* vm_area_alloc(Mm& mm, Range<VirtAddr> range, VmFlags flags, Pgoff pgoff, file::File* file);
  [[nodiscard]] Result<Vma*> vm_area_map(Mm& mm, Range<VirtAddr> range, VmFlags flags, Pgoff pgoff, file::File* file);
  [[nodiscard]] Vma* vm_area_dup(const Vma& vma, Mm& mm);
  void vm_area_free(Vma& vma);
  void vma_link(Vma& vma);
  void vma_link_file(Vma& vma);
  void unlink_file_vma(Vma& vma);
  void unlink_rmap(Vma& vma);
  Status vma_adjust(const VmaChange& change);
  // Cuts the area in two at `at`; the new area is the upper or the lower part.
  enum class NewPart : std::uint8_t { kUpper, kLower };
  Status split_vma(Vma& vma, VirtAddr at, NewPart part);
  // The same whatever max_map_count says, for who is about to take a part away (__split_vma).
  Status split_vma_beyond_limit(Vma& vma, VirtAddr at, NewPart part);
  // The area that covers the range now, or null: not mergeable (or no memory).
  [[nodiscard]] Vma* vma_merge(Mm& mm, const MergeRequest& request);
  void vm_stat_account(Mm& mm, VmFlags flags, std::int64_t pages);
  [[nodiscard]] bool may_expand_vm(const Mm& mm, VmFlags flags, std::uint64_t pages) const;

  // mmap.cc, munmap.cc, …; mmap_lock held for writing
  [[nodiscard]] Result<VirtAddr> do_mmap(Mm& mm, VirtAddr hint, std::uint64_t length, Prot prot, MapFlags flags,
                                         file::File* file, Pgoff pgoff, Range<VirtAddr>* populate);
  [[nodiscard]] Result<VirtAddr> mmap_region(Mm& mm, Range<VirtAddr> range, VmFlags flags, file::File* file, Pgoff pgoff);
  Status do_munmap(Mm& mm, Range<VirtAddr> range);
  [[nodiscard]] Result<VirtAddr> find_area(Mm& mm, VirtAddr hint, std::uint64_t length, MapFlags flags);
  [[nodiscard]] Result<VirtAddr> thp_find_area(Mm& mm, VirtAddr hint, std::uint64_t length, MapFlags flags, Pgoff pgoff);
  VirtAddr do_brk(Mm& mm, VirtAddr new_brk, Range<VirtAddr>* populate);
  Status do_brk_flags(Mm& mm, Range<VirtAddr> range, VmFlags extra = VmFlags::kNone);
  Status insert_stack_area(Mm& mm, Range<VirtAddr> range);
  [[nodiscard]] VirtAddr mmap_base_of(const Mm& mm, std::uint64_t random) const;
  [[nodiscard]] VirtAddr randomize_page(VirtAddr start, std::uint64_t range);
  void unmap_region(Mm& mm, List<Vma, &Vma::detached>& areas, Range<VirtAddr> free);
  void unmap_page_range(MmuGather& tlb, Vma& vma, Range<VirtAddr> range, ZapCows cows = ZapCows::kYes);
  VirtAddr zap_pte_range(MmuGather& tlb, Vma& vma, Range<VirtAddr> range, ZapCows cows);
  // f(address, entry) for every entry of the range that has a table: one page of entries at a time with page_table_lock held,
  // so that others get their turn between, and each present entry paid for. Who clears or tightens entries settles reclaim's
  // deferred flushes of the Mm first.
  enum class Deferred : std::uint8_t { kLeave, kSettle };
  template <class F>
  void walk_page_range(Mm& mm, Range<VirtAddr> range, Deferred deferred, F&& f) {
    for (VirtAddr at = range.begin; at < range.end;) {
      if (pgtable_.pte_offset(mm, at) == nullptr) {
        at = pgtable_.end_of_hole(mm, at, range.end);
        continue;
      }
      const VirtAddr stop = pgtable_.geometry().addr_end(at, range.end, arch::kPmdLevel);
      walk_pte_range(mm, {at, stop}, deferred, f);
      at = stop;
    }
  }
  template <class F>
  void walk_pte_range(Mm& mm, Range<VirtAddr> range, Deferred deferred, F&& f) {
    const sim::Nanos cost = parts_.scheduler.costs().pte_zap;
    sim::SpinGuard guard(mm.page_table_lock);
    if (deferred == Deferred::kSettle) shootdown_.flush_tlb_batched_pending(mm);
    pgtable_.for_each_pte(mm, range, [&](VirtAddr address, arch::Pte& pte) {
      if (pte.present()) parts_.scheduler.charge(cost);
      f(address, pte);
    });
  }
  void zap_nonpresent(Mm& mm, arch::Pte* pte, ZapCows cows);
  void zap_page_range(Vma& vma, Range<VirtAddr> range);
  // The page of a present entry; null for the zero page and others that are not counted.
  [[nodiscard]] phys::Page* vm_normal_page(arch::Pte pte) {
    return arch::pte_special(pte) ? nullptr : &parts_.phys.pfn_to_page(pte.pfn());
  }
  // The folio that a migration entry stands for: where it was when it set out.
  [[nodiscard]] phys::Folio& migration_entry_folio(arch::SwapEntry entry) {
    return phys::page_folio(parts_.phys.pfn_to_page(arch::migration_entry_to_pfn(entry)));
  }
  [[nodiscard]] bool mlock_future_check(const Mm& mm, VmFlags flags, std::uint64_t bytes) const;
  [[nodiscard]] static bool can_do_mlock(const Mm& mm) { return mm.rlimits.memlock != 0 || mm.ipc_lock == CapIpcLock::kYes; }
  std::uint64_t count_vma_pages_range(const Mm& mm, Range<VirtAddr> range) const;
  Status expand_stack(Vma& vma, VirtAddr address);
  Status acct_stack_growth(Vma& vma, std::uint64_t size, std::uint64_t grow);
  Status mprotect_areas(MmuGather& tlb, Vma& first, Range<VirtAddr> range, VmFlags access);
  Status mprotect_fixup(MmuGather& tlb, Vma& vma, Vma** prev, Range<VirtAddr> range, VmFlags new_flags);
  void protect_migration_entry(arch::Pte& pte);
  void change_protection(MmuGather& tlb, Vma& vma, Range<VirtAddr> range);
  [[nodiscard]] bool vma_wants_writenotify(const Vma& vma) const;
  [[nodiscard]] arch::Pgprot vma_page_prot(const Vma& vma) const;
  [[nodiscard]] Result<VirtAddr> move_vma(Vma& vma, VirtAddr old_address, std::uint64_t old_length, std::uint64_t new_length,
                                          VirtAddr new_address, MremapFlags flags);
  [[nodiscard]] Result<Vma*> vma_to_resize(Mm& mm, VirtAddr address, std::uint64_t old_length, std::uint64_t new_length,
                                           MremapFlags flags);
  [[nodiscard]] Result<VirtAddr> do_mremap(Mm& mm, VirtAddr address, std::uint64_t old_length, std::uint64_t new_length,
                                           MremapFlags flags);
  [[nodiscard]] Result<VirtAddr> mremap_to(Mm& mm, VirtAddr address, std::uint64_t old_length, VirtAddr new_address,
                                           std::uint64_t new_length, MremapFlags flags);
  [[nodiscard]] bool vma_expandable(const Vma& vma, std::uint64_t delta);
  [[nodiscard]] Result<VirtAddr> expand_in_place(Vma& vma, VirtAddr address, std::uint64_t delta);
  [[nodiscard]] Vma* copy_vma(Vma** vma, VirtAddr address, std::uint64_t length, Pgoff pgoff);
  [[nodiscard]] std::uint64_t move_page_tables(Vma& vma, VirtAddr old_address, VirtAddr new_address, std::uint64_t length);
  // Sets an area's flags on a part of it: merges, else splits. `*vma` becomes the area that covers the range.
  Status vma_set_flags(Vma** vma, Vma** prev, Range<VirtAddr> range, VmFlags flags);
  Status mlock_fixup(Vma** vma, Vma** prev, Range<VirtAddr> range, VmFlags flags);
  Status apply_vma_lock_flags(Mm& mm, Range<VirtAddr> range, VmFlags lock_flags);
  Status do_mlock(Mm& mm, VirtAddr start, std::uint64_t length, VmFlags flags);
  void mlock_vma_pages_range(Vma& vma, Range<VirtAddr> range, VmFlags new_flags);
  void apply_mlockall_flags(Mm& mm, MclFlags flags);
  Status mm_populate(Mm& mm, Range<VirtAddr> range);
  Status mm_populate_all(Mm& mm);
  [[nodiscard]] Result<phys::Page*> fault_in_page(Vma& vma, VirtAddr address, arch::Access kind,
                                                  FollowHow how = FollowHow::kGet);
  [[nodiscard]] Result<std::uint64_t> get_user_pages_locked(Mm& mm, VirtAddr start, std::span<phys::Page*> pages,
                                                            arch::Access kind, FollowHow how);
  // gup_longterm.cc; mmap_lock held for reading
  [[nodiscard]] Result<std::uint64_t> gup_longterm_locked(Mm& mm, VirtAddr start, std::span<phys::Page*> pages,
                                                          arch::Access kind);
  Status check_and_migrate_movable_pages(std::span<phys::Page* const> pages);
  [[nodiscard]] std::uint64_t collect_longterm_unpinnable_pages(std::span<phys::Page* const> pages, phys::FolioList& movable);
  Status migrate_longterm_unpinnable_pages(phys::FolioList& movable);
  [[nodiscard]] bool folio_is_longterm_pinnable(const phys::Folio& folio) const;
  Status try_grab_page(phys::Page& page, FollowHow how);
  [[nodiscard]] std::uint8_t mincore_page(const Vma& vma, VirtAddr address);
  Status populate_vma_range(Vma& vma, Range<VirtAddr> range, arch::Access kind);
  Status madvise_walk(Mm& mm, Range<VirtAddr> range, Advice advice);
  Status madvise_populate(Mm& mm, Range<VirtAddr> range, arch::Access kind);
  Status madvise_guard_install(Vma& vma, Range<VirtAddr> range);
  void madvise_guard_remove(Vma& vma, Range<VirtAddr> range);
  [[nodiscard]] bool guard_range(Vma& vma, Range<VirtAddr> range);
  struct IovWalk;
  [[nodiscard]] Result<std::uint64_t> process_vm_rw(Mm& mm, std::span<const UserIovec> local, Result<Mm*> remote,
                                                    std::span<const UserIovec> parts, std::uint64_t flags, arch::Access kind);
  [[nodiscard]] bool process_vm_rw_page(IovWalk& local, phys::Page& page, Range<std::uint64_t> span, arch::Access kind);
  Status process_vm_rw_single(IovWalk& local, Mm& remote, const UserIovec& part, arch::Access kind);
  Status madvise_io(Mm& mm, Range<VirtAddr> range, Advice advice);
  void madvise_free_range(Vma& vma, Range<VirtAddr> range);
  void madvise_cold_or_pageout(Vma& vma, Range<VirtAddr> range, Advice advice);
  void swapin_range(Vma& vma, Range<VirtAddr> range);
  Status madvise_vma(Vma** vma, Vma** prev, Range<VirtAddr> range, Advice advice);

  // fork.cc
  Status dup_mmap(Mm& mm, Mm& parent);
  Status dup_vma(Mm& mm, Vma& src);
  Status copy_page_range(Vma& dst, Vma& src);
  Status copy_pte_range(Vma& dst, Vma& src, Range<VirtAddr> range, arch::Pte* to, arch::Pte* from);
  enum class PteCopied : std::uint8_t { kDone, kNeedsPage };
  PteCopied copy_present_pte(Vma& dst, Vma& src, VirtAddr address, arch::Pte* to, arch::Pte* from, phys::Folio** prealloc);
  void copy_present_page(Vma& dst, const phys::Folio& from, VirtAddr address, arch::Pte* to, phys::Folio& fresh);
  Status copy_nonpresent_pte(Vma& dst, const Vma& src, arch::Pte* to, arch::Pte* from);

  VmParts parts_;
  VmTunables tunables_;
  slab::KmemCache<Mm> mm_cache_;
  slab::KmemCache<Vma> vma_cache_;
  VmaTree::NodeCache maple_node_cache_;
  slab::KmemCache<AnonVma> anon_vma_cache_;
  slab::KmemCache<AnonVmaChain> anon_vma_chain_cache_;
  PageTableSource pgtable_;
  TlbShootdown shootdown_;
  TlbChecker tlb_checker_{*this};
  Rmap rmap_;
  Migration migration_;
  CommitLimit commit_;
  sim::LockClass& mmap_lock_class_;
  sim::LockClass& page_table_lock_class_;
  sim::LockClass& anon_vma_lock_class_;
  MmList mms_;
  phys::Page* zero_page_ = nullptr;
  FaultHooks* hooks_ = nullptr;
  FuncGraph graph_;
  Tracepoint<PageFaultUser> page_fault_user_;
  Pageout* pageout_ = nullptr;
  std::uint64_t next_context_id_ = kInitMmContext + 1;
  Rng layout_rng_{0};
};

}  // namespace quire::vm
