// The swap subsystem of a machine: areas and slots (swapfile.cc), the swap cache (swap_state.cc), reading ahead
// (swap_readahead.cc) and the way of a page to a device and back (page_io.cc).
//
//   shrink_folio_list ─ add_to_swap ─ get_swap_page → slot ─ swap cache ─ try_to_unmap: PTE → SwapEntry ─ swap_writepage
//   do_swap_page ─ lookup_swap_cache │ swapin_skip_cache │ swapin_readahead → folio ─ map ─ swap_free ─ folio_free_swap
//
// Who holds a slot: each PTE (or shmem entry) that names it counts one (swap_duplicate/swap_free), the swap cache one more
// (kSwapHasCache). A slot that nobody holds is free, its shadow dropped and its device told.
//
// Locks, outermost first: folio lock → SwapArea::lock → a stretch's xa_lock; swap_avail_lock alone. No lock is taken at the
// end of an I/O, which runs as an interrupt does.
// The caller holds the folio's lock where a function says so, and a reference in every case.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "quire/base/result.h"
#include "quire/lru/lru.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/fault_injection.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/xa_node_cache.h"
#include "quire/swap/swap_area.h"
#include "quire/swap/swap_cache.h"
#include "quire/swap/swap_device.h"
#include "quire/swap/swap_entry.h"

namespace quire::swap {

struct SwapInfo {  // si_swapinfo and what /proc/meminfo adds, in pages
  std::uint64_t total = 0;
  std::uint64_t free = 0;
  std::uint64_t cached = 0;
};

// What swapin_readahead knows of the fault's surroundings: the VMA's memory of its last window, and the entries nearby.
// vm implements it; without one, readahead goes by the area's offsets (swap_cluster_readahead).
class SwapVmaWindow {
 public:
  virtual ~SwapVmaWindow() = default;
  [[nodiscard]] virtual VirtAddr address() const = 0;
  // The VMA's range cut to the page-table page (PMD) of the address.
  [[nodiscard]] virtual Range<VirtAddr> bounds() const = 0;
  // The swap entry that the PTE of `va` holds, if it holds one.
  [[nodiscard]] virtual std::optional<SwapEntry> entry_at(VirtAddr va) = 0;
  // vma->swap_readahead_info: opaque, 0 at first.
  [[nodiscard]] virtual std::uint64_t& readahead_info() = 0;
};

// How long a swap-in sleeps before it looks again at a slot that another task is about to fill or empty.
inline constexpr sim::Nanos kSwapCacheRetry = sim::kJiffy;

struct SwapTunables {
  unsigned page_cluster = 3;  // vm.page-cluster: readahead of up to 1 << page_cluster pages
};

enum class SwapWait : bool { kNo, kForRead };

class SwapSystem final : public SwapIo, public lru::SwapSpace {
 public:
  SwapSystem(phys::PhysMem& phys, slab::XaNodeCache& nodes, lru::Lru& lru, sim::Scheduler& scheduler);
  ~SwapSystem() override;

  // --- areas (swapfile.cc) ---
  // Starts swapping to a device. Without a priority the area comes after those that have none either (-2, -3, …).
  // kNoMem: the area's tables do not fit; kPerm: all types are taken; kInval: no usable page.
  Result<SwapArea*> swapon(std::unique_ptr<SwapDevice> device, std::optional<int> priority = std::nullopt);
  [[nodiscard]] SwapArea* area(unsigned type) { return type < areas_.size() ? areas_[type].get() : nullptr; }
  [[nodiscard]] SwapArea& swp_swap_info(SwapEntry entry);
  [[nodiscard]] const std::vector<std::unique_ptr<SwapArea>>& areas() const { return areas_; }
  [[nodiscard]] std::uint64_t get_nr_swap_pages() const { return nr_swap_pages_; }
  [[nodiscard]] std::uint64_t nr_swap_pages() const override { return nr_swap_pages_; }
  [[nodiscard]] std::uint64_t total_swap_pages() const { return total_swap_pages_; }
  [[nodiscard]] bool vm_swap_full() const { return nr_swap_pages_ * 2 < total_swap_pages_; }
  [[nodiscard]] SwapInfo si_swapinfo() const;

  // --- slots (swapfile.cc) ---
  // A free slot of the area of highest priority (turn about among equals), held by the cache. kNoSpc: swap is full.
  [[nodiscard]] Result<SwapEntry> get_swap_page();
  // One more PTE names the slot. kNoMem: the count has to be continued and there is no memory.
  [[nodiscard]] Status swap_duplicate(SwapEntry entry);
  // A PTE that names the slot is gone.
  void swap_free(SwapEntry entry);
  // The same for a PTE that was zapped: a cached folio that nobody else wants goes with it. (free_swap_and_cache)
  void free_swap_and_cache(SwapEntry entry);
  // The cache's hold, given back without a folio (put_swap_folio).
  void put_swap_folio(SwapEntry entry);
  // How many PTEs name it, the cache not counted (swp_swapcount).
  [[nodiscard]] std::uint64_t swap_count(SwapEntry entry);

  // --- swap cache (swap_state.cc) ---
  // Gives a locked, uptodate anonymous folio a slot, puts it into the cache and marks it dirty. kNoSpc, kNoMem.
  [[nodiscard]] Status add_to_swap(phys::Folio& folio);
  // `folio` locked and without entry; the slot already held by the cache. Hands back the shadow that lay there.
  [[nodiscard]] Result<XaEntry> add_to_swap_cache(phys::Folio& folio, SwapEntry entry);
  // Takes a locked folio out and drops the cache's hold on slot and folio.
  void delete_from_swap_cache(phys::Folio& folio);
  // The same inside reclaim's __remove_mapping: references are frozen by the caller, `shadow` (or nothing) takes the place,
  // and the caller gives the slot back (put_swap_folio) afterwards.
  void remove_from_swap_cache(phys::Folio& folio, SwapEntry entry, XaEntry shadow);
  // Puts `to` (locked, new) in the place of `from` (locked, unmapped, not under writeback) with its entry and dirty bit; false
  // when others than the cache and the caller hold `from`. See Filemap::folio_migrate_mapping.
  [[nodiscard]] bool migrate_swap_cache(phys::Folio& from, phys::Folio& to);
  // The cached folio with a reference, or nullptr; counts a readahead hit.
  [[nodiscard]] phys::Folio* lookup_swap_cache(SwapEntry entry, SwapVmaWindow* window = nullptr);
  // The same for who only looks: readahead learns nothing from it.
  [[nodiscard]] phys::Folio* find_get_cached(SwapEntry entry);
  // Drops a locked folio's slot when no PTE names it any more, so that the page may be written in place. (folio_free_swap,
  // formerly try_to_free_swap)
  bool folio_free_swap(phys::Folio& folio);
  [[nodiscard]] static SwapEntry folio_swap_entry(const phys::Folio& folio) { return SwapEntry::from_value(folio.private_); }

  // --- swapping in (swap_readahead.cc) ---
  // The folio of `entry` in the swap cache with a reference: cached already, or allocated and being read (locked until the
  // read ends). Reads neighbours as well; alone, it is waited for (do_poll). nullptr: no memory, or the slot is free.
  [[nodiscard]] phys::Folio* swapin_readahead(SwapEntry entry, phys::Gfp gfp, SwapVmaWindow* window = nullptr);
  [[nodiscard]] phys::Folio* read_swap_cache_async(SwapEntry entry, phys::Gfp gfp, SwapWait wait = SwapWait::kNo);
  // True when a fault on `entry` should leave the swap cache aside: synchronous device and one user.
  [[nodiscard]] bool should_skip_swap_cache(SwapEntry entry);
  // That way: a locked folio on the LRU, read, outside the cache, with a reference. The slot is held against a second
  // swap-in until swapcache_clear(entry), which the caller calls after it has mapped the folio and called swap_free, or
  // has given up. kExist: another task is swapping it in, try the fault again; kNoMem.
  [[nodiscard]] Result<phys::Folio*> swapin_skip_cache(SwapEntry entry, phys::Gfp gfp);
  void swapcache_clear(SwapEntry entry);

  // --- to and from the device (page_io.cc) ---
  // Starts writing a locked, dirty folio of the cache; unlocks it in every case. Under writeback until the device is done.
  // A folio whose slot nobody names any more is only taken out of the cache. The caller has cleared the dirty bit.
  Status swap_writepage(phys::Folio& folio);
  // Reads a locked folio from a synchronous device and leaves it locked; uptodate unless the device failed.
  void swap_read_folio_locked(phys::Folio& folio, SwapEntry entry);
  // Starts reading a locked folio; unlocked, and uptodate unless the device failed, when it is done.
  void swap_read_folio(phys::Folio& folio, SwapEntry entry);
  void end_swap_write(phys::Folio& folio, Status status) override;
  void end_swap_read(phys::Folio& folio, Status status) override;

  // Transfers that failed since boot.
  [[nodiscard]] std::uint64_t read_errors() const { return read_errors_; }
  [[nodiscard]] std::uint64_t write_errors() const { return write_errors_; }
  // I/O errors and a full device on demand (kIoRead, kIoWrite, kSwapFull); nullptr: none.
  void set_fault_injection(sim::FaultInjection* faults) { faults_ = faults; }

  [[nodiscard]] SwapTunables& tunables() { return tunables_; }
  [[nodiscard]] const SwapCache& cache() const { return cache_; }

  // Walks every area, the cache and the devices: slots, holds, folios and counters agree.
  void validate() const;

 private:
  struct NewFolio {
    phys::Folio* folio = nullptr;
    enum class State : std::uint8_t { kCached, kAllocated } state = State::kCached;
  };
  // __read_swap_cache_async: finds or makes the cached folio; an allocated one is locked and not read yet.
  [[nodiscard]] NewFolio read_swap_cache_prepare(SwapEntry entry, phys::Gfp gfp);
  [[nodiscard]] phys::Folio* swap_cluster_readahead(SwapEntry entry, phys::Gfp gfp);
  [[nodiscard]] phys::Folio* swap_vma_readahead(SwapEntry entry, phys::Gfp gfp, SwapVmaWindow& window);
  [[nodiscard]] unsigned swapin_nr_pages(std::uint64_t offset);
  void read_ahead_one(SwapEntry entry, SwapEntry wanted, phys::Gfp gfp);
  void note_read(phys::Folio& folio, const Status& status);
  [[nodiscard]] bool inject(sim::FaultPoint point);
  void try_to_reclaim_swap(SwapEntry entry);
  void requeue(const SwapArea& area);
  std::uint8_t swap_entry_put(SwapEntry entry, SwapUsage usage);
  void clear_shadow(SwapEntry entry);
  [[nodiscard]] bool use_vma_readahead() const { return nr_rotating_ == 0; }

  phys::PhysMem& phys_;
  lru::Lru& lru_;
  sim::Scheduler& scheduler_;
  SwapTunables tunables_;
  slab::XaNodeCache& nodes_;
  sim::LockClass& area_lock_class_;
  SwapCache cache_;
  std::vector<std::unique_ptr<SwapArea>> areas_;
  std::vector<SwapArea*> swap_avail_;  // by falling priority; the next among equals first
  sim::SpinLock swap_avail_lock_;
  std::uint64_t nr_swap_pages_ = 0;
  std::uint64_t total_swap_pages_ = 0;
  int least_priority_ = -1;
  unsigned nr_rotating_ = 0;
  std::uint64_t read_errors_ = 0;
  std::uint64_t write_errors_ = 0;
  sim::FaultInjection* faults_ = nullptr;
  // swap_cluster_readahead's memory
  unsigned swapin_readahead_hits_ = 4;
  std::uint64_t prev_offset_ = 0;
  unsigned last_readahead_pages_ = 0;
};

}  // namespace quire::swap
