// What the reclaim tests stand on: a small machine from the arena to swap, and in the place of page tables and page cache a
// plain array of pages (Space), so that vmscan is tested alone and every byte can be checked.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "quire/lru/lru.h"
#include "quire/phys/page_wait.h"
#include "quire/phys/phys_mem.h"
#include "quire/reclaim/reclaim.h"
#include "quire/sim/disk.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/slab_system.h"
#include "quire/slab/xa_node_cache.h"
#include "quire/swap/disk_swap.h"
#include "quire/swap/swap_system.h"
#include "quire/swap/zram.h"

namespace quire::reclaim {

using phys::Folio;
using phys::VmEvent;
using swap::SwapEntry;
using swap::SwapSystem;

class ReclaimMachine;

// An address space reduced to an array: each page is absent, a folio, or a swap entry.
class Space {
 public:
  enum class Backing { kAnon, kFile };
  struct Page {
    Folio* folio = nullptr;
    SwapEntry entry = swap::kNoSwap;
    bool accessed = false;
    bool dirty = false;
    bool exec = false;
  };
  enum class Touch { kHit, kMinor, kMajor, kNoMemory };

  Space(ReclaimMachine& machine, std::size_t n, Backing backing = Backing::kAnon) : m_(machine), pages_(n), backing_(backing) {}
  ~Space() { EXPECT_EQ(resident(), 0u) << "clear() it"; }

  // A program's access. A write stores `value` all over the page (data mode).
  Touch read(std::size_t i) { return access(i, std::nullopt); }
  Touch write(std::size_t i, std::uint64_t value) { return access(i, value); }
  // The page's bytes, which must be resident.
  [[nodiscard]] bool holds(std::size_t i, std::uint64_t value) const;
  void clear();

  [[nodiscard]] Page& operator[](std::size_t i) { return pages_[i]; }
  [[nodiscard]] std::size_t size() const { return pages_.size(); }
  [[nodiscard]] std::size_t resident() const;
  [[nodiscard]] std::size_t swapped() const;
  [[nodiscard]] Backing backing() const { return backing_; }

 private:
  friend class SpaceActions;
  Touch access(std::size_t i, std::optional<std::uint64_t> value);
  Touch fault(std::size_t i);
  Touch fault_new(Page& page, std::size_t i);
  Touch fault_swap(Page& page, std::size_t i);
  void map(Page& page, std::size_t i, Folio& folio);

  ReclaimMachine& m_;
  std::vector<Page> pages_;
  Backing backing_;
};

// vm, page cache and writeback for Spaces.
class SpaceActions final : public FolioActions {
 public:
  explicit SpaceActions(ReclaimMachine& machine) : m_(machine) {}
  vm::FolioReferenced folio_referenced(Folio& folio) override;
  void try_to_unmap(Folio& folio) override;
  void try_to_unmap_flush() override { ++flushes; }
  void try_to_unmap_flush_dirty() override {}
  Pageout pageout(Folio& folio) override;
  bool remove_mapping(Folio& folio) override;
  [[nodiscard]] bool has_mapping(const Folio& folio) const override {
    return phys::folio_test_swapcache(folio) || (folio.mapping & ~phys::kMappingFlags) != 0;
  }
  void wakeup_flusher_threads() override { ++flusher_wakeups; }

  static Space& space_of(const Folio& folio) { return *phys::folio_raw_mapping<Space>(folio); }
  static Space::Page& page_of(const Folio& folio) { return space_of(folio)[folio.index]; }

  unsigned flushes = 0;
  unsigned flusher_wakeups = 0;
  unsigned file_writes = 0;

 private:
  ReclaimMachine& m_;
};

struct MachineSpec {
  std::uint64_t ram = 32 * kMiB;
  unsigned cpus = 1;
  std::uint64_t seed = 0;
  unsigned preempt_permille = 0;
  phys::DataMode data_mode = phys::DataMode::kData;
  enum class Kswapd { kYes, kNo } kswapd = Kswapd::kYes;
};

class ReclaimMachine {
 public:
  explicit ReclaimMachine(const MachineSpec& spec = {})
      : scheduler({.cpus = spec.cpus, .seed = spec.seed, .preempt_permille = spec.preempt_permille}, {}, traces),
        phys(boot(spec)),
        slab(*phys, scheduler),
        nodes(slab),
        lru(*phys, scheduler, traces),
        disk(scheduler, sim::DiskConfig::from_costs(scheduler.costs())),
        swap(std::make_unique<SwapSystem>(*phys, nodes, lru, scheduler)),
        actions(*this),
        reclaim(std::make_unique<Reclaim>(ReclaimParts{*phys, scheduler, slab, lru, *swap, actions, traces},
                                          make_reclaim_policy("linux-6"))) {
    if (spec.kswapd == MachineSpec::Kswapd::kYes) {
      reclaim->start();
    } else {
      phys->set_memory_pressure(reclaim.get());
    }
  }
  ~ReclaimMachine() { scheduler.unwind_tasks(); }

  swap::Zram& add_zram(std::uint64_t size) {
    swap::ZramConfig config;
    config.disksize = size;
    auto device = swap::Zram::create(config, *phys, slab, scheduler);
    if (!device) throw std::runtime_error("no zram");
    swap::Zram& zram = **device;
    if (!swap->swapon(std::move(*device))) throw std::runtime_error("no swapon");
    return zram;
  }
  void add_disk(std::uint64_t size) {
    auto device = swap::DiskSwap::create({.size = size}, disk, *phys, scheduler);
    if (!device || !swap->swapon(std::move(*device))) throw std::runtime_error("no disk");
  }
  void run(std::function<void()> body) {
    scheduler.spawn("test", std::move(body));
    scheduler.run();
  }

  std::int64_t event(VmEvent e) const { return phys->vmstat()[e]; }
  std::int64_t node_stat(phys::NodeStat s) const { return phys->global_node_page_state(s); }
  std::uint64_t list_size(lru::LruList l) const { return lru.lruvec(Nid(0)).size(l); }
  std::uint64_t free_pages() const { return phys->meminfo().freeram; }
  void validate() const {
    reclaim->validate();
    swap->validate();
    lru.validate();
    slab.validate();
    phys->validate();
  }

  TraceRegistry traces;
  sim::Scheduler scheduler;
  std::unique_ptr<phys::PhysMem> phys;
  slab::SlabSystem slab;
  slab::XaNodeCache nodes;
  lru::Lru lru;
  sim::Disk disk;
  std::unique_ptr<SwapSystem> swap;
  SpaceActions actions;
  std::unique_ptr<Reclaim> reclaim;

 private:
  std::unique_ptr<phys::PhysMem> boot(const MachineSpec& spec) {
    phys::PhysConfig config;
    config.ram_bytes = spec.ram;
    config.cpus = spec.cpus;
    config.kernel_reserved = 4 * kMiB;
    config.data_mode = spec.data_mode;
    auto booted = phys::PhysMem::boot(config, scheduler, traces);
    if (!booted) ADD_FAILURE() << booted.error().message;
    return std::move(*booted);
  }
};

// --- Space ------------------------------------------------------------------------------------------------------------

inline Space::Touch Space::access(std::size_t i, std::optional<std::uint64_t> value) {
  m_.scheduler.sync_point();
  Touch touch = Touch::kHit;
  if (pages_[i].folio == nullptr) touch = fault(i);
  Page& page = pages_[i];
  if (page.folio == nullptr) return touch;
  page.accessed = true;
  if (!value) return touch;
  page.dirty = true;
  if (m_.phys->data_mode() == phys::DataMode::kData) {
    std::byte* bytes = m_.phys->page_address(*page.folio);
    for (std::size_t at = 0; at < kPageSize; at += 64) std::memcpy(bytes + at, &*value, sizeof(*value));
    std::memcpy(bytes + 8, &i, sizeof(i));
  }
  return touch;
}

inline bool Space::holds(std::size_t i, std::uint64_t value) const {
  const std::byte* bytes = m_.phys->page_address(*pages_[i].folio);
  for (std::size_t at = 0; at < kPageSize; at += 64) {
    if (std::memcmp(bytes + at, &value, sizeof(value)) != 0) return false;
  }
  return std::memcmp(bytes + 8, &i, sizeof(i)) == 0;
}

inline Space::Touch Space::fault(std::size_t i) {
  Page& page = pages_[i];
  m_.scheduler.charge(m_.scheduler.costs().page_fault_entry);
  return page.entry == swap::kNoSwap ? fault_new(page, i) : fault_swap(page, i);
}

inline void Space::map(Page& page, std::size_t i, Folio& folio) {
  folio.mapping = reinterpret_cast<std::uint64_t>(this) | (backing_ == Backing::kAnon ? phys::kMappingAnon : 0);
  folio.index = i;
  folio.mapcount = 1;
  page.folio = &folio;
  page.accessed = true;
}

inline Space::Touch Space::fault_new(Page& page, std::size_t i) {
  Folio* folio = m_.phys->folio_alloc(phys::Gfp::kHighUserMovable);
  if (folio == nullptr) return Touch::kNoMemory;
  m_.phys->clear_page(*folio);
  phys::folio_set_uptodate(*folio);
  if (backing_ == Backing::kAnon) {
    phys::folio_set_swapbacked(*folio);
  } else {
    phys::folio_get(*folio);  // the page cache's
    m_.phys->node(Nid(0)).stats.add(phys::NodeStat::kNrFilePages);
  }
  map(page, i, *folio);
  m_.lru.folio_add_lru(*folio);
  return Touch::kMinor;
}

inline Space::Touch Space::fault_swap(Page& page, std::size_t i) {
  const SwapEntry entry = page.entry;
  Folio* folio = m_.swap->lookup_swap_cache(entry);
  const Touch touch = folio != nullptr ? Touch::kMinor : Touch::kMajor;
  if (folio == nullptr && m_.swap->should_skip_swap_cache(entry)) {
    const auto direct = m_.swap->swapin_skip_cache(entry, phys::Gfp::kHighUserMovable);
    if (!direct) return Touch::kNoMemory;
    folio = *direct;
    page.entry = swap::kNoSwap;
    page.dirty = true;
    map(page, i, *folio);
    m_.swap->swap_free(entry);
    m_.swap->swapcache_clear(entry);
    phys::folio_unlock(*m_.phys, *folio);
    return touch;
  }
  if (folio == nullptr) folio = m_.swap->swapin_readahead(entry, phys::Gfp::kHighUserMovable);
  if (folio == nullptr) return Touch::kNoMemory;
  phys::folio_lock(*m_.phys, *folio);
  EXPECT_TRUE(phys::folio_test_uptodate(*folio));
  page.entry = swap::kNoSwap;
  map(page, i, *folio);
  m_.swap->swap_free(entry);
  m_.swap->folio_free_swap(*folio);
  phys::folio_unlock(*m_.phys, *folio);
  return touch;
}

inline void Space::clear() {
  for (Page& page : pages_) {
    if (page.entry != swap::kNoSwap) m_.swap->free_swap_and_cache(page.entry);
    if (Folio* folio = page.folio; folio != nullptr) {
      page.folio = nullptr;
      phys::folio_lock(*m_.phys, *folio);
      folio->mapcount = 0;
      if (phys::folio_test_swapcache(*folio)) {
        phys::folio_wait_writeback(*m_.phys, *folio);
        m_.swap->folio_free_swap(*folio);
      }
      if (backing_ == Backing::kFile) {
        m_.phys->node(Nid(0)).stats.sub(phys::NodeStat::kNrFilePages);
        phys::folio_ref_sub(*folio, 1);
      }
      folio->mapping = 0;
      phys::folio_unlock(*m_.phys, *folio);
      m_.lru.folio_put(*folio);
    }
    page = Page{};
  }
}

inline std::size_t Space::resident() const {
  std::size_t n = 0;
  for (const Page& page : pages_) n += page.folio != nullptr ? 1 : 0;
  return n;
}
inline std::size_t Space::swapped() const {
  std::size_t n = 0;
  for (const Page& page : pages_) n += page.entry != swap::kNoSwap ? 1 : 0;
  return n;
}

// --- SpaceActions -----------------------------------------------------------------------------------------------------

inline vm::FolioReferenced SpaceActions::folio_referenced(Folio& folio) {
  if (folio.mapcount == 0) return {};
  Space::Page& page = page_of(folio);
  const bool accessed = std::exchange(page.accessed, false);
  return {.referenced = accessed ? 1 : 0, .vm_flags = accessed && page.exec ? vm::VmFlags::kExec : vm::VmFlags::kNone};
}

inline void SpaceActions::try_to_unmap(Folio& folio) {
  Space::Page& page = page_of(folio);
  if (phys::folio_test_anon(folio)) {
    const SwapEntry entry = SwapSystem::folio_swap_entry(folio);
    ASSERT_TRUE(m_.swap->swap_duplicate(entry));
    page.entry = entry;
  }
  if (std::exchange(page.dirty, false)) phys::folio_set_dirty(folio);
  page.folio = nullptr;
  page.accessed = false;
  folio.mapcount = 0;
  m_.lru.folio_put(folio);
}

inline Pageout SpaceActions::pageout(Folio& folio) {
  if (phys::folio_ref_count(folio) != 2) return Pageout::kKeep;
  if (!phys::folio_test_clear_dirty(folio)) return Pageout::kClean;
  if (!phys::folio_test_swapcache(folio)) {
    ++file_writes;  // a file system that writes at once
    phys::folio_unlock(*m_.phys, folio);
    return Pageout::kSuccess;
  }
  phys::folio_set_reclaim(folio);
  static_cast<void>(m_.swap->swap_writepage(folio));
  if (!phys::folio_test_writeback(folio)) phys::folio_clear_reclaim(folio);
  return Pageout::kSuccess;
}

inline bool SpaceActions::remove_mapping(Folio& folio) {
  if (!phys::folio_ref_freeze(folio, 2)) return false;
  if (phys::folio_test_dirty(folio)) {
    phys::folio_ref_unfreeze(folio, 2);
    return false;
  }
  const XaValue shadow = m_.lru.workingset_eviction(folio);
  if (phys::folio_test_swapcache(folio)) {
    const SwapEntry entry = SwapSystem::folio_swap_entry(folio);
    m_.swap->remove_from_swap_cache(folio, entry, XaEntry(shadow));
    m_.swap->put_swap_folio(entry);
  } else {
    m_.phys->node(Nid(0)).stats.sub(phys::NodeStat::kNrFilePages);
  }
  folio.mapping = 0;
  return true;
}

}  // namespace quire::reclaim
