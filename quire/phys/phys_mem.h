// The physical memory of one machine: arena, memmap, nodes and zones, the page allocator and its counters.
//
//   PhysMem::boot   firmware map → memblock → nodes → zones → memmap → zonelists → buddy → watermarks
//   alloc_pages     per-CPU list (inline) → AllocPolicy (fast path over the zonelist, slow path) → Buddy
//   free_pages      per-CPU list → Buddy
//
// Locking: Zone::lock for the buddy; per-CPU lists belong to their CPU. Frees may happen in any context, allocations that
// may sleep (Gfp::kDirectReclaim) only in a task.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quire/base/result.h"
#include "quire/base/tracepoint.h"
#include "quire/base/types.h"
#include "quire/phys/alloc/alloc_policy.h"
#include "quire/phys/alloc_flags.h"
#include "quire/phys/arena.h"
#include "quire/phys/boot_error.h"
#include "quire/phys/buddy.h"
#include "quire/phys/data_mode.h"
#include "quire/phys/folio.h"
#include "quire/phys/free_watch.h"
#include "quire/phys/gfp.h"
#include "quire/phys/iomem.h"
#include "quire/phys/memblock.h"
#include "quire/phys/memory_pressure.h"
#include "quire/phys/node.h"
#include "quire/phys/page_mover.h"
#include "quire/phys/phys_config.h"
#include "quire/phys/sparse.h"
#include "quire/phys/task_flags.h"
#include "quire/phys/trace_events.h"
#include "quire/phys/vmstat.h"
#include "quire/phys/zone.h"
#include "quire/sim/fault_injection.h"
#include "quire/sim/mutex.h"
#include "quire/sim/scheduler.h"
#include "quire/sim/wait_table.h"

namespace quire::phys {

class CmaAreas;
class DeviceMemory;
class MemoryHotplug;
struct WatermarkTunables;

struct MemInfo {
  std::uint64_t totalram = 0;  // pages the buddy manages (MemTotal)
  std::uint64_t freeram = 0;   // MemFree
  std::uint64_t present = 0;   // RAM the firmware gave
  std::uint64_t totalreserve = 0;
};

class PhysMem final : Buddy::DeferredSource {
 public:
  static BootResult<std::unique_ptr<PhysMem>> boot(const PhysConfig& config, sim::Scheduler& scheduler, TraceRegistry& traces,
                                                   BootLogSink log = {});
  ~PhysMem();
  PhysMem(const PhysMem&) = delete;
  PhysMem& operator=(const PhysMem&) = delete;

  // --- allocation ---------------------------------------------------------------------------------------------------
  // 2^order contiguous pages with one reference, or nullptr. `nid` is where to look first; kNoNode: the CPU's node.
  [[nodiscard]] Page* alloc_pages(Gfp gfp, Order order, Nid nid = kNoNode) {
    if (task_test(scheduler_, TaskFlag::kMemallocPin)) [[unlikely]]
      gfp &= ~Gfp::kMovable;
    if (faults_ != nullptr && should_fail_alloc_page(gfp, order)) [[unlikely]]
      return nullptr;
    if (order.value() == 0 && nid == kNoNode && !any(gfp, kNotFast)) [[likely]] {
      if (Page* page = alloc_from_pcp(gfp)) [[likely]]
        return page;
    }
    return alloc_pages_slow(gfp, order, nid);
  }
  [[nodiscard]] Page* alloc_page(Gfp gfp) { return alloc_pages(gfp, Order(0)); }
  // A folio: compound when order > 0.
  [[nodiscard]] Folio* folio_alloc(Gfp gfp, Order order = Order(0), Nid nid = kNoNode);
  // `bytes` rounded up to pages, the rest of the power of two given back (alloc_pages_exact).
  [[nodiscard]] Page* alloc_pages_exact(std::uint64_t bytes, Gfp gfp);
  void free_pages_exact(Page& page, std::uint64_t bytes);
  // Fills null entries of `pages`; gives how many entries are filled from the start (alloc_pages_bulk_array).
  std::uint64_t alloc_pages_bulk(Gfp gfp, std::span<Page*> pages, Nid nid = kNoNode);

  // Drops one reference; frees the block when it was the last (__free_pages).
  void free_pages(Page& page, Order order) {
    if (page.refcount <= 0) [[unlikely]]
      bad_page(page, "freed with no reference left (double free)");
    if (--page.refcount == 0) free_unref_page(page, order);
  }
  void free_page(Page& page) { free_pages(page, Order(0)); }
  // Frees a block whose last reference is gone already (free_unref_page): the end of every folio_put.
  void free_unref_page(Page& page, Order order) {
#ifdef QUIRE_DEBUG
    if (free_watch_ != nullptr) free_watch_->before_free(page_to_pfn(page), order);
#endif
    if (order.value() != 0 || !free_to_pcp(page)) [[unlikely]]
      free_unref_page_slow(page, order);
  }
  void free_unref_folio(Folio& folio) { free_unref_page(folio, folio_order(folio)); }
  // Makes 2^order single pages of a non-compound block, each with its own reference (split_page).
  void split_page(Page& page, Order order);

  // Takes a free block out of the buddy as single pages of one reference each, and gives their number (__isolate_free_page and
  // split_map_pages). 0: the zone would fall below its min mark. Zone::lock held.
  std::uint64_t isolate_free_page(Zone& zone, Page& page);
  // Takes exactly [pfns) (one zone, online): single pages with one reference each. `type`: kMovable, or kCma for the pages
  // of a CMA area. What is in use there is moved away. kInval: no such range or type. kBusy: it holds what cannot move, or
  // is being taken already. kIntr: the task is being killed. On failure nothing has changed. A task calls it (it may sleep).
  [[nodiscard]] Status alloc_contig_range(Range<Pfn> pfns, MigrateType type, Gfp gfp);
  // The same for the first range of `nr_pages`, aligned to that many, where it works; nullptr: nowhere.
  [[nodiscard]] Page* alloc_contig_pages(std::uint64_t nr_pages, Gfp gfp, Nid nid = kNoNode);
  // Drops one reference of each page.
  void free_contig_range(Range<Pfn> pfns);

  // Gives per-CPU pages back to the buddy (drain_local_pages, drain_all_pages).
  void drain_local_pages();
  void drain_all_pages();

  // --- the memory map -----------------------------------------------------------------------------------------------
  [[nodiscard]] bool pfn_valid(Pfn pfn) const { return sparse_.pfn_valid(pfn); }
  [[nodiscard]] Page& pfn_to_page(Pfn pfn) { return vmemmap_[pfn.value()]; }
  [[nodiscard]] const Page& pfn_to_page(Pfn pfn) const { return vmemmap_[pfn.value()]; }
  [[nodiscard]] Pfn page_to_pfn(const Page& page) const { return Pfn(static_cast<std::uint64_t>(&page - vmemmap_)); }
  [[nodiscard]] PhysAddr page_to_phys(const Page& page) const { return pfn_to_phys(page_to_pfn(page)); }
  [[nodiscard]] std::byte* page_address(const Page& page) const { return base_ + page_to_phys(page).value(); }
  [[nodiscard]] Page& virt_to_page(const void* p) { return pfn_to_page(phys_to_pfn(arena_.to_phys(p))); }
  [[nodiscard]] Page& phys_to_page(PhysAddr pa) { return pfn_to_page(phys_to_pfn(pa)); }
  [[nodiscard]] std::byte* phys_to_virt(PhysAddr pa) const { return base_ + pa.value(); }
  [[nodiscard]] Arena& arena() { return arena_; }
  // False for a frame whose struct Page deferred boot has not initialised yet (it is free and all zero).
  [[nodiscard]] bool page_initialised(Pfn pfn) const { return sparse_.page_initialised(pfn); }
  // The struct Page of a frame that is initialised, online RAM (or lies beside some in its section); else nullptr.
  [[nodiscard]] Page* pfn_to_online_page(Pfn pfn) {
    if (!page_initialised(pfn) || pfn_to_page(pfn).zone_type() == ZoneType::kDevice) return nullptr;
    return &pfn_to_page(pfn);
  }
  // RAM that is online, or a frame beside some in its section; initialised or still to be (deferred boot).
  [[nodiscard]] bool pfn_online(Pfn pfn) const { return sparse_.online(pfn); }
  [[nodiscard]] Pfn max_pfn() const { return max_pfn_; }
  // What lies in the pageblock of this page.
  [[nodiscard]] MigrateType pageblock_migratetype(Pfn pfn) const { return sparse_.pageblock_type(pfn); }
  // Compaction's note that it found nothing in this pageblock.
  [[nodiscard]] bool pageblock_skip(Pfn pfn) const { return sparse_.pageblock_skip(pfn); }
  void set_pageblock_skip(Pfn pfn, bool skip) { sparse_.set_pageblock_skip(pfn, skip); }

  // --- nodes and zones ----------------------------------------------------------------------------------------------
  [[nodiscard]] Zone& page_zone(const Page& page) { return *zones_by_id_[page.flags >> kZonesPageShift]; }
  [[nodiscard]] Node& page_node(const Page& page) { return node(page.nid()); }
  [[nodiscard]] std::span<const std::unique_ptr<Node>> nodes() const { return nodes_; }
  [[nodiscard]] Node& node(Nid nid) { return *nodes_[static_cast<unsigned>(nid.value())]; }
  [[nodiscard]] const Node& node(Nid nid) const { return *nodes_[static_cast<unsigned>(nid.value())]; }
  [[nodiscard]] ZoneList& zonelist(Nid nid) { return node(nid).zonelist(); }
  [[nodiscard]] Nid cpu_to_node(unsigned cpu) const { return cpu_to_node_[cpu]; }
  [[nodiscard]] Nid numa_node_id() const { return cpu_to_node_[scheduler_.cpu()]; }
  // The architecture, which zones its kernel knows and by what number, and the highest that a request may use.
  [[nodiscard]] Arch arch() const { return config_.arch; }
  [[nodiscard]] bool has_zone(ZoneType type) const { return phys::has_zone(config_.arch, type); }
  [[nodiscard]] int zone_index(ZoneType type) const { return phys::zone_index(config_.arch, type); }
  [[nodiscard]] ZoneType gfp_zone(Gfp gfp) const {
    return config_.arch == Arch::kX86_64 ? phys::gfp_zone(gfp) : gfp_zone_i386(gfp);
  }
  // Calls f(ZoneType) for each zone of the architecture, lowest first.
  template <class F>
  void for_each_zone_type(F&& f) const {
    for (unsigned type = 0; type < kZoneTypes; ++type) {
      if (has_zone(static_cast<ZoneType>(type))) f(static_cast<ZoneType>(type));
    }
  }
  // Calls f(Zone&) for every populated zone of every node.
  template <class F>
  void for_each_populated_zone(F&& f) {
    for (const auto& n : nodes_) {
      n->for_each_zone([&](Zone& z) {
        if (z.populated()) f(z);
      });
    }
  }

  // --- bytes --------------------------------------------------------------------------------------------------------
  // clear_highpage / copy_highpage: always cost virtual time; touch the bytes only where they are stored.
  void clear_page(Page& page);
  void copy_page(Page& to, const Page& from);
  [[nodiscard]] DataMode data_mode() const { return data_mode_; }

  // --- for allocation policies --------------------------------------------------------------------------------------
  // A block from this zone by per-CPU list or buddy, unprepared; nullptr when it has none. (rmqueue)
  Page* rmqueue(Zone& preferred, Zone& zone, Order order, AllocFlags flags, MigrateType type);
  void prep_new_page(Page& page, Order order, Gfp gfp);
  // Whether the zone would still have `mark` pages after the allocation, and a block of the order. The slow one leaves
  // per-CPU and boost refinements out; `free_pages` lets should_reclaim_retry ask "what if".
  [[nodiscard]] static bool zone_watermark_ok(const Zone& zone, Order order, std::uint64_t mark, ZoneType highest,
                                              AllocFlags flags, std::uint64_t free_pages);
  [[nodiscard]] static bool zone_watermark_fast(const Zone& zone, Order order, std::uint64_t mark, ZoneType highest,
                                                AllocFlags flags, Gfp gfp);
  void reserve_highatomic_pageblock(Zone& zone, Page& page);
  enum class Unreserve : std::uint8_t { kKeepOne, kAll };  // of each zone's pageblocks
  bool unreserve_highatomic_pageblock(const AllocContext& ac, Unreserve how);
  [[nodiscard]] PhysTracepoints& trace() { return trace_; }
  // "page allocation failure" with the state of memory, to the log sink, unless the request says __GFP_NOWARN; at most ten
  // in five seconds (warn_alloc, show_mem).
  void warn_alloc(const AllocContext& ac);
  // The same for an allocator above this one: "task: what, mode:…" (warn_alloc's own format).
  void warn_alloc(Gfp gfp, std::string_view what);
  [[nodiscard]] sim::Mutex& oom_lock() { return oom_lock_; }

  // --- the rest -----------------------------------------------------------------------------------------------------
  void set_memory_pressure(MemoryPressure* pressure) { pressure_ = pressure; }
  [[nodiscard]] MemoryPressure* memory_pressure() { return pressure_; }
  void set_page_mover(PageMover* mover) { mover_ = mover; }
  [[nodiscard]] PageMover* page_mover() { return mover_; }
  [[nodiscard]] VmStat& vmstat() { return vmstat_; }
  [[nodiscard]] const VmStat& vmstat() const { return vmstat_; }
  [[nodiscard]] sim::WaitTable& page_waits() { return page_waits_; }
  [[nodiscard]] sim::Scheduler& scheduler() { return scheduler_; }

  // Where lines of the kernel's log go after boot (reports of failed allocations). Nobody: they are not even composed.
  void set_log_sink(BootLogSink sink) { log_sink_ = std::move(sink); }
  void printk(std::string_view line) {
    if (log_sink_) log_sink_(line);
  }
  // False: memory is too small, or the kernel too old, to keep migrate types apart (page_group_by_mobility_disabled).
  [[nodiscard]] bool page_group_by_mobility() const { return page_group_by_mobility_; }
  // Memory that comes and goes (memory_hotplug.h), persistent memory (device_memory.h).
  [[nodiscard]] MemoryHotplug& hotplug() { return *hotplug_; }
  [[nodiscard]] CmaAreas& cma() { return *cma_; }  // cma.h
  [[nodiscard]] DeviceMemory& device_memory() { return *device_memory_; }

  // Sums over the machine.
  [[nodiscard]] std::int64_t global_node_page_state(NodeStat s) const;
  [[nodiscard]] std::int64_t global_zone_page_state(ZoneStat s) const;
  [[nodiscard]] std::int64_t global_numa_state(NumaStat s) const;
  [[nodiscard]] MemInfo meminfo() const;
  [[nodiscard]] std::uint64_t totalram_pages() const;
  [[nodiscard]] std::uint64_t totalreserve_pages() const { return totalreserve_pages_; }

  // Sysctls; each recomputes what Linux's handler of it does (protection by lowmem_reserve_ratio alone).
  [[nodiscard]] std::uint64_t min_free_kbytes() const { return min_free_kbytes_; }
  void set_min_free_kbytes(std::uint64_t kib);
  void set_watermark_scale_factor(std::uint32_t factor);
  void set_lowmem_reserve_ratio(std::span<const std::uint32_t> ratios);
  void set_percpu_pagelist_high_fraction(std::uint32_t fraction);

  // vm.extfrag_threshold, 0 … 1000: what compaction_suitable is asked with.
  [[nodiscard]] int extfrag_threshold() const { return extfrag_threshold_; }
  void set_extfrag_threshold(int threshold) { extfrag_threshold_ = threshold; }

  [[nodiscard]] const std::vector<std::string>& boot_log() const { return boot_log_; }
  [[nodiscard]] const FirmwareMap& firmware_map() const { return firmware_map_; }
  [[nodiscard]] IomemTree& iomem() { return iomem_; }
  [[nodiscard]] const Memblock& memblock() const { return memblock_; }  // as it stood when boot ended
  [[nodiscard]] const PhysConfig& config() const { return config_; }

  // Checks everything: free lists, buddies, counters, per-CPU lists, page states. Aborts with what is wrong.
  void validate() const;

  // Reports a page in an impossible state, with a dump, and aborts.
  [[noreturn]] void bad_page(const Page& page, std::string_view why) const;
  // What the kernel's dump_page prints: the page, its head if it is part of a compound page, and the raw words of both.
  [[nodiscard]] std::string dump_page(const Page& page, std::string_view why) const;

  // Injected failures of alloc_pages (FaultPoint::kPageAlloc); nullptr: none.
  void set_fault_injection(sim::FaultInjection* faults) { faults_ = faults; }
  void set_free_watch(FreeWatch* watch) { free_watch_ = watch; }

 private:
  friend class PhysBoot;
  friend class Validator;
  friend class PageIsolation;
  friend class CmaAreas;
  friend class HotMemmap;
  friend class MemoryHotplug;
  friend class DeviceMemory;

  // Flags whose requests the inline path does not serve.
  static constexpr Gfp kNotFast = Gfp::kThisNode | Gfp::kWrite;
  // In a page that goes to a per-CPU list none of these may stand (free_pages_prepare).
  static constexpr std::uint64_t kZoneAndNode = ~kPageFlagsMask;

  PhysMem(const PhysConfig& config, sim::Scheduler& scheduler, TraceRegistry& traces, Arena arena);

  [[nodiscard]] MigrateType allocation_type(Gfp gfp) const {
    return page_group_by_mobility_ ? gfp_migratetype(gfp) : MigrateType::kUnmovable;
  }
  bool should_fail_alloc_page(Gfp gfp, Order order) {
    return !any(gfp, Gfp::kNoFail) && faults_->should_fail(sim::FaultPoint::kPageAlloc, order.bytes());
  }
  Page* alloc_from_pcp(Gfp gfp);
  bool free_to_pcp(Page& page);
  Page* alloc_pages_slow(Gfp gfp, Order order, Nid nid);
  void free_unref_page_slow(Page& page, Order order);
  // Out of line, so that the inline paths stay small. finish_pcp_page checks, prepares, zeroes and tells.
  Page* finish_pcp_page(Page& page, Gfp gfp);
  [[gnu::cold]] void trace_alloc(const Page* page, Order order, Gfp gfp);
  [[gnu::cold]] void trace_free(const Page& page, Order order);
  [[gnu::cold]] void trace_pcp_alloc(const Page& page, Gfp gfp);
  [[gnu::cold]] void log_line(std::string_view line) { log_sink_(line); }
  [[gnu::cold]] bool warn_ratelimited();
  [[gnu::cold]] void show_mem();
  [[gnu::cold]] void show_zone(const Zone& zone);
  void free_pages_prepare(Page& page, Order order);
  void free_one_page(Zone& zone, Page& page, Order order, MigrateType type);
  Page* rmqueue_pcplist(Zone& preferred, Zone& zone, Order order, AllocFlags flags, MigrateType type);
  Page* rmqueue_buddy(Zone& preferred, Zone& zone, Order order, AllocFlags flags, MigrateType type);
  std::uint32_t rmqueue_bulk(Zone& zone, Order order, std::uint32_t count, MigrateType type, AllocFlags flags);
  void free_unref_page_commit(Zone& zone, Page& page, MigrateType type, Order order);
  void free_pcppages_bulk(Zone& zone, unsigned cpu, std::int32_t count, unsigned pindex);
  void drain_pages(unsigned cpu);
  void zone_statistics(Zone& preferred, Zone& zone, std::int64_t n);
  void zero_pages(Page& page, Order order, Gfp gfp);
  void check_new_page(const Page& page) const;
  void prep_compound_page(Page& head, Order order);
  bool grow_zone(Zone& zone) override;
  void init_section(std::uint64_t section);
  void init_deferred(Range<Pfn> pfns);
  Pfn take_isolated_range(Zone& zone, Range<Pfn> pfns);
  [[nodiscard]] bool pfn_range_valid_contig(const Zone& zone, Range<Pfn> pfns) const;
  [[nodiscard]] WatermarkTunables watermark_tunables() const;
  void update_watermarks();
  void init_per_zone_wmark_min();
  // While Linux boots, no CPU is on any node yet.
  enum class CpusOnNodes : std::uint8_t { kNotYet, kKnown };
  std::vector<std::string> build_all_zonelists(CpusOnNodes cpus);
  std::string build_zonelist(Node& local, CpusOnNodes cpus, std::vector<unsigned>& load);
  [[nodiscard]] bool page_free_is_sane(const Page& page) const;

  // Hot words first.
  sim::Scheduler& scheduler_;
  Page* vmemmap_;
  std::byte* base_;
  sim::FaultInjection* faults_ = nullptr;
  [[maybe_unused]] FreeWatch* free_watch_ = nullptr;  // asked under QUIRE_DEBUG only
  std::vector<Zone*> fast_zones_;   // [cpu * kZoneTypes + highest zone]: the preferred zone; null: take the slow way
  std::vector<Zone*> zones_by_id_;  // [node << 3 | zone], as in Page::flags
  VmStat vmstat_;
  SparseMemory sparse_;
  PhysTracepoints trace_;
  sim::Nanos alloc_cost_;
  sim::Nanos free_cost_;

  PhysConfig config_;
  Arena arena_;
  DataMode data_mode_;
  Buddy buddy_;
  std::unique_ptr<AllocPolicy> policy_;
  Pfn max_pfn_{};
  FirmwareMap firmware_map_;
  IomemTree iomem_;
  Memblock memblock_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<Nid> cpu_to_node_;
  MemoryPressure* pressure_ = nullptr;
  PageMover* mover_ = nullptr;
  sim::WaitTable page_waits_;
  sim::Mutex oom_lock_;
  std::uint64_t min_free_kbytes_ = 0;
  std::uint64_t user_min_free_kbytes_ = 0;  // what a person asked for; the computed figure counts when it is more
  bool khugepaged_ = false;                 // runs, and so raises min_free_kbytes
  std::uint64_t totalreserve_pages_ = 0;
  int extfrag_threshold_ = 500;
  bool page_group_by_mobility_ = true;
  Order pcp_max_order_ = kMaxOrder;  // larger blocks go past the per-CPU lists
  std::vector<std::string> boot_log_;
  BootLogSink log_sink_;
  sim::Nanos warn_interval_began_ = 0;
  unsigned warned_ = 0;
  bool order_warned_ = false;
  std::unique_ptr<CmaAreas> cma_;
  std::unique_ptr<MemoryHotplug> hotplug_;
  std::unique_ptr<DeviceMemory> device_memory_;
};

// The order-0 path through the CPU's list: the preferred zone is above its low watermark and the list has a page.
inline Page* PhysMem::alloc_from_pcp(Gfp gfp) {
  const unsigned cpu = scheduler_.cpu();
  const ZoneType highest = phys::gfp_zone(gfp);  // only x86-64 has fast zones
  Zone* zone = fast_zones_[cpu * kZoneTypes + static_cast<unsigned>(highest)];
  if (zone == nullptr) [[unlikely]]
    return nullptr;
  const std::uint64_t needed = zone->wmark_pages(Watermark::kLow) + static_cast<std::uint64_t>(zone->lowmem_reserve(highest)) +
                               zone->nr_reserved_highatomic() + static_cast<std::uint64_t>(zone->stats[ZoneStat::kNrFreeCma]);
  if (zone->free_pages() <= needed) [[unlikely]]
    return nullptr;
  PerCpuPages& pcp = zone->pcp_[cpu];
  PageList& list = pcp.lists[static_cast<unsigned>(gfp_migratetype(gfp))];
  Page* page = list.front_or_null();
  if (page == nullptr) [[unlikely]]
    return nullptr;

  list.erase(*page);
  --pcp.count;
  pcp.free_factor >>= 1;
  vmstat_.count_vm_event(for_zone(VmEvent::kPgallocDma, zone->type()));
  zone->numa.add(NumaStat::kNumaHit);
  zone->numa.add(NumaStat::kNumaLocal);
  scheduler_.charge(alloc_cost_);
  const bool plain = (page->flags & kPageFlagsMask) == bits(PageFlag::kPcp) && page->refcount == 0 && !any(gfp, Gfp::kZero) &&
                     !trace_.mm_page_alloc.enabled();
  if (!plain) [[unlikely]]
    return finish_pcp_page(*page, gfp);
  page->flags &= kZoneAndNode;
  page->private_ = 0;
  page->refcount = 1;
  return page;
}

// False when the page needs the slow way: a special pageblock, a full list, a listener, or something is wrong with it.
inline bool PhysMem::free_to_pcp(Page& page) {
  if (!page_free_is_sane(page) || page.is_compound()) [[unlikely]]
    return false;
  const Pfn pfn = page_to_pfn(page);
  const MigrateType type = sparse_.pageblock_type(pfn);
  if (static_cast<unsigned>(type) >= kMigratePcpTypes) [[unlikely]]
    return false;
  Zone& zone = page_zone(page);
  PerCpuPages& pcp = zone.pcp_[scheduler_.cpu()];
  if (pcp.count + 1 >= pcp.high || zone.test(ZoneFlag::kReclaimActive)) [[unlikely]]
    return false;
  if (trace_.mm_page_free.enabled()) [[unlikely]]
    return false;
  page.flags = (page.flags & kZoneAndNode) | bits(PageFlag::kPcp);
  page.mapping = 0;
  page.index = static_cast<std::uint64_t>(type);
  pcp.lists[static_cast<unsigned>(type)].push_front(page);
  ++pcp.count;
  vmstat_.count_vm_event(VmEvent::kPgfree);
  scheduler_.charge(free_cost_);
  return true;
}

// What free_pages_prepare demands. (An anonymous page keeps its mapping word until it is freed.)
inline bool PhysMem::page_free_is_sane(const Page& page) const {
  // A statement of its own: one load over both counts would wait for the store of refcount that has just been made.
  if (page.refcount != 0) return false;
  return (page.flags & bits(kPageFlagsCheckAtFree)) == 0 && page.mapcount == 0 &&
         (page.mapping == 0 || (page.mapping & kMappingFlags) != 0) && page.memcg_data == 0;
}

}  // namespace quire::phys
