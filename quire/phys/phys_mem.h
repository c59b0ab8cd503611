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
#include "quire/phys/arena.h"
#include "quire/phys/boot_error.h"
#include "quire/phys/data_mode.h"
#include "quire/phys/folio.h"
#include "quire/phys/gfp.h"
#include "quire/phys/memblock.h"
#include "quire/phys/memory_pressure.h"
#include "quire/phys/node.h"
#include "quire/phys/phys_config.h"
#include "quire/phys/vmstat.h"
#include "quire/phys/zone.h"
#include "quire/sim/scheduler.h"

namespace quire::phys {

struct MemInfo {
  std::uint64_t totalram = 0;   // pages the buddy manages (MemTotal)
  std::uint64_t freeram = 0;    // MemFree
  std::uint64_t present = 0;    // RAM the firmware gave
  std::uint64_t totalreserve = 0;
};

class PhysMem {
 public:
  static BootResult<std::unique_ptr<PhysMem>> boot(const PhysConfig& config, sim::Scheduler& scheduler,
                                                   TraceRegistry& traces, BootLogSink log = {});
  ~PhysMem();
  PhysMem(const PhysMem&) = delete;
  PhysMem& operator=(const PhysMem&) = delete;

  // --- allocation ---------------------------------------------------------------------------------------------------
  // 2^order contiguous pages with one reference, or nullptr. `nid` is where to look first; kNoNode: the CPU's node.
  [[nodiscard]] Page* alloc_pages(Gfp gfp, Order order, Nid nid = kNoNode);
  [[nodiscard]] Page* alloc_page(Gfp gfp) { return alloc_pages(gfp, Order(0)); }
  // A folio: compound when order > 0.
  [[nodiscard]] Folio* folio_alloc(Gfp gfp, Order order = Order(0), Nid nid = kNoNode);
  // `bytes` rounded up to pages, the rest of the power of two given back (alloc_pages_exact).
  [[nodiscard]] Page* alloc_pages_exact(std::uint64_t bytes, Gfp gfp);
  void free_pages_exact(Page& page, std::uint64_t bytes);
  // Fills null entries of `pages`; gives how many entries are filled from the start (alloc_pages_bulk_array).
  std::uint64_t alloc_pages_bulk(Gfp gfp, std::span<Page*> pages, Nid nid = kNoNode);

  // Drops one reference; frees the block when it was the last (__free_pages).
  void free_pages(Page& page, Order order);
  void free_page(Page& page) { free_pages(page, Order(0)); }
  // Frees a block whose last reference is gone already (free_unref_page): the end of every folio_put.
  void free_unref_page(Page& page, Order order);
  void free_unref_folio(Folio& folio) { free_unref_page(folio, folio_order(folio)); }
  // Makes 2^order single pages of a non-compound block, each with its own reference (split_page).
  void split_page(Page& page, Order order);

  // Gives per-CPU pages back to the buddy (drain_local_pages, drain_all_pages).
  void drain_local_pages();
  void drain_all_pages();

  // --- the memory map -----------------------------------------------------------------------------------------------
  [[nodiscard]] bool pfn_valid(Pfn pfn) const;
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
  [[nodiscard]] bool page_initialised(Pfn pfn) const;
  [[nodiscard]] Pfn max_pfn() const { return max_pfn_; }
  // What lies in the pageblock of this page.
  [[nodiscard]] MigrateType pageblock_migratetype(Pfn pfn) const;

  // --- nodes and zones ----------------------------------------------------------------------------------------------
  [[nodiscard]] Zone& page_zone(const Page& page) { return node(page.nid()).zone(page.zone_type()); }
  [[nodiscard]] Node& page_node(const Page& page) { return node(page.nid()); }
  [[nodiscard]] std::span<const std::unique_ptr<Node>> nodes() const { return nodes_; }
  [[nodiscard]] Node& node(Nid nid) { return *nodes_[static_cast<unsigned>(nid.value())]; }
  [[nodiscard]] const Node& node(Nid nid) const { return *nodes_[static_cast<unsigned>(nid.value())]; }
  [[nodiscard]] ZoneList& zonelist(Nid nid) { return node(nid).zonelist(); }
  [[nodiscard]] Nid cpu_to_node(unsigned cpu) const { return cpu_to_node_[cpu]; }
  [[nodiscard]] Nid numa_node_id() const { return cpu_to_node_[scheduler_.cpu()]; }
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

  // --- the rest -----------------------------------------------------------------------------------------------------
  void set_memory_pressure(MemoryPressure* pressure) { pressure_ = pressure; }
  [[nodiscard]] MemoryPressure* memory_pressure() { return pressure_; }
  [[nodiscard]] VmStat& vmstat() { return vmstat_; }
  [[nodiscard]] const VmStat& vmstat() const { return vmstat_; }
  [[nodiscard]] sim::WaitTable& page_waits() { return page_waits_; }
  [[nodiscard]] sim::Scheduler& scheduler() { return scheduler_; }

  // Sums over the machine.
  [[nodiscard]] std::int64_t global_node_page_state(NodeStat s) const;
  [[nodiscard]] std::int64_t global_zone_page_state(ZoneStat s) const;
  [[nodiscard]] std::int64_t global_numa_state(NumaStat s) const;
  [[nodiscard]] MemInfo meminfo() const;
  [[nodiscard]] std::uint64_t totalram_pages() const;
  [[nodiscard]] std::uint64_t totalreserve_pages() const { return totalreserve_pages_; }

  // Sysctls; each recomputes watermarks, protection and per-CPU list sizes as Linux does.
  [[nodiscard]] std::uint64_t min_free_kbytes() const { return min_free_kbytes_; }
  void set_min_free_kbytes(std::uint64_t kib);
  void set_watermark_scale_factor(std::uint32_t factor);
  void set_lowmem_reserve_ratio(std::span<const std::uint32_t> ratios);

  [[nodiscard]] const std::vector<std::string>& boot_log() const { return boot_log_; }
  [[nodiscard]] const FirmwareMap& firmware_map() const { return firmware_map_; }
  [[nodiscard]] const Memblock& memblock() const { return memblock_; }  // as it stood when boot ended
  [[nodiscard]] const PhysConfig& config() const { return config_; }

  // Checks everything: free lists, buddies, counters, per-CPU lists, page states. Aborts with what is wrong.
  void validate() const;

 private:
  friend class PhysBoot;

  PhysMem(const PhysConfig& config, sim::Scheduler& scheduler, TraceRegistry& traces, Arena arena);

  PhysConfig config_;
  sim::Scheduler& scheduler_;
  Arena arena_;
  std::byte* base_;
  Page* vmemmap_;
  DataMode data_mode_;
  Pfn max_pfn_{};
  FirmwareMap firmware_map_;
  Memblock memblock_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<Nid> cpu_to_node_;
  MemoryPressure* pressure_ = nullptr;
  VmStat vmstat_;
  sim::WaitTable page_waits_;
  std::uint64_t min_free_kbytes_ = 0;
  std::uint64_t totalreserve_pages_ = 0;
  std::vector<std::string> boot_log_;
};

// While it lives, the current task may use all reserves (PF_MEMALLOC): reclaim's own allocations.
class [[nodiscard]] MemallocScope {
 public:
  explicit MemallocScope(PhysMem& mem);
  ~MemallocScope();
  MemallocScope(const MemallocScope&) = delete;
  MemallocScope& operator=(const MemallocScope&) = delete;

 private:
  PhysMem& mem_;
  std::uint32_t saved_;
};

}  // namespace quire::phys
