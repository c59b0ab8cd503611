// What the file tests stand on: a machine up to the file floor, without anything that maps files or reclaims.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "quire/file/vfs.h"
#include "quire/lru/lru.h"
#include "quire/phys/page_wait.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/slab_system.h"
#include "quire/slab/xa_node_cache.h"
#include "quire/swap/disk_swap.h"
#include "quire/swap/swap_system.h"
#include "quire/swap/zram.h"

namespace quire::file {

enum class SwapDeviceKind : std::uint8_t { kNone, kZram, kDisk };

struct MachineSpec {
  std::uint64_t ram = 64 * kMiB;
  unsigned cpus = 1;
  std::uint64_t seed = 0;
  unsigned preempt_permille = 0;
  phys::DataMode data_mode = phys::DataMode::kData;
  SwapDeviceKind swap = SwapDeviceKind::kNone;
  VfsConfig vfs{};
};

class FileMachine {
 public:
  explicit FileMachine(const MachineSpec& spec = {})
      : scheduler({.cpus = spec.cpus, .seed = spec.seed, .preempt_permille = spec.preempt_permille}, {}, traces),
        faults(spec.seed),
        phys(boot(spec)),
        slab(*phys, scheduler),
        nodes(slab),
        lru(*phys, scheduler, traces),
        swap_disk(scheduler, sim::DiskConfig::from_costs(scheduler.costs()), &faults),
        swap(std::make_unique<swap::SwapSystem>(*phys, nodes, lru, scheduler)),
        vfs(std::make_unique<Vfs>(FileServices{.phys = *phys,
                                               .slab = slab,
                                               .nodes = nodes,
                                               .lru = lru,
                                               .swap = *swap,
                                               .scheduler = scheduler,
                                               .faults = faults,
                                               .traces = traces},
                                  spec.vfs)),
        fs(vfs->mount({})) {
    if (spec.swap == SwapDeviceKind::kZram) add_zram();
    if (spec.swap == SwapDeviceKind::kDisk) add_swap_disk();
  }
  ~FileMachine() { scheduler.unwind_tasks(); }

  // Runs `body` as a task until it has ended.
  void run(std::function<void()> body) {
    scheduler.spawn("test", std::move(body));
    scheduler.run();
  }

  // A new open file; it goes when the test closes it, if it is unlinked.
  File& create(const std::string& path, std::unique_ptr<BackingSource> source = nullptr,
               FileMode mode = FileMode::kRead | FileMode::kWrite) {
    const Result<DiskInode*> inode = fs.create(path, std::move(source));
    if (!inode) throw std::runtime_error("no inode");
    return open(**inode, mode);
  }
  File& open(Inode& inode, FileMode mode = FileMode::kRead | FileMode::kWrite) {
    const Result<File*> file = vfs->open(inode, mode);
    if (!file) throw std::runtime_error("no file");
    return **file;
  }
  File& shmem(std::uint64_t size) {
    const Result<File*> file = vfs->shmem_file_setup(size);
    if (!file) throw std::runtime_error("no shmem file");
    return **file;
  }

  std::vector<std::byte> read(File& file, std::uint64_t pos, std::uint64_t len) {
    std::vector<std::byte> bytes(len);
    KernelBuffer to(bytes);
    const Result<std::uint64_t> n = vfs->pread(file, pos, len, to);
    EXPECT_TRUE(n.has_value());
    bytes.resize(n.value_or(0));
    return bytes;
  }
  Result<std::uint64_t> write(File& file, std::uint64_t pos, std::vector<std::byte> bytes) {
    KernelBuffer from(bytes);
    return vfs->pwrite(file, pos, bytes.size(), from);
  }
  static std::vector<std::byte> pattern(std::uint64_t len, std::uint64_t seed) {
    GeneratedBacking source(len, seed);
    std::vector<std::byte> bytes(len);
    EXPECT_TRUE(source.read(0, bytes));
    return bytes;
  }

  [[nodiscard]] bool cached(File& file, std::uint64_t index) {
    return vfs->filemap().filemap_range_has_page(file.mapping(), Pgoff(index), Pgoff(index));
  }
  // Which of the first `pages` pages are cached, as "xx..".
  [[nodiscard]] std::string cache_map(File& file, std::uint64_t pages) {
    std::string map;
    for (std::uint64_t i = 0; i < pages; ++i) map += cached(file, i) ? 'x' : '.';
    return map;
  }
  [[nodiscard]] std::uint64_t marker(File& file) {
    std::uint64_t at = ~std::uint64_t{0};
    file.mapping().i_pages().for_each([&](std::uint64_t index, XaEntry entry) {
      if (entry.is_pointer() && phys::folio_test_readahead(*entry.pointer<phys::Folio>())) at = index;
    });
    return at;
  }

  // Takes a page as reclaim does: isolated, written if dirty, removed with a shadow (or into swap). True when it went.
  bool reclaim(AddressSpace& mapping, std::uint64_t index) {
    Filemap& filemap = vfs->filemap();
    phys::Folio* folio = filemap.filemap_get_folio(mapping, Pgoff(index));
    if (folio == nullptr) return false;
    lru.lru_add_drain_all();
    const bool isolated = lru.folio_isolate_lru(*folio);
    filemap.folio_put(*folio);
    if (!isolated) return false;
    if (!phys::folio_trylock(*folio)) {
      lru.folio_putback_lru(*folio);
      return false;
    }
    if (AddressSpace::of(*folio) == &mapping && !pageout(mapping, *folio)) return false;
    if (AddressSpace::of(*folio) == nullptr && !phys::folio_test_swapcache(*folio)) return putback(*folio);
    if (phys::folio_test_writeback(*folio) || !filemap.remove_mapping(*folio)) return putback(*folio);
    phys::folio_clear_locked(*folio);
    phys::FolioList gone;
    gone.push_back(*folio);
    lru.free_folios(gone);
    return true;
  }

  std::int64_t event(phys::VmEvent e) const { return phys->vmstat()[e]; }
  std::int64_t node_stat(phys::NodeStat s) const { return phys->global_node_page_state(s); }
  std::uint64_t free_pages() {
    lru.lru_add_drain_all();
    vfs->filemap().preload().drain();
    slab.cache_reap(slab::SlabSystem::ReapMode::kAll);
    phys->drain_all_pages();
    return phys->meminfo().freeram;
  }
  void validate() const {
    vfs->validate();
    swap->validate();
    lru.validate();
    slab.validate();
    phys->validate();
  }

  TraceRegistry traces;
  sim::Scheduler scheduler;
  sim::FaultInjection faults;
  std::unique_ptr<phys::PhysMem> phys;
  slab::SlabSystem slab;
  slab::XaNodeCache nodes;
  lru::Lru lru;
  sim::Disk swap_disk;
  std::unique_ptr<swap::SwapSystem> swap;
  std::unique_ptr<Vfs> vfs;
  FileSystem& fs;

 private:
  std::unique_ptr<phys::PhysMem> boot(const MachineSpec& spec) {
    phys::PhysConfig config;
    config.ram_bytes = spec.ram;
    config.cpus = spec.cpus;
    config.kernel_reserved = 4 * kMiB;
    config.data_mode = spec.data_mode;
    auto booted = phys::PhysMem::boot(config, scheduler, traces);
    if (!booted) throw std::runtime_error("no boot");
    return std::move(*booted);
  }
  void add_zram() {
    auto device = swap::Zram::create({.disksize = 64 * kMiB}, *phys, slab, scheduler);
    if (!device || !swap->swapon(std::move(*device))) throw std::runtime_error("no zram");
  }
  void add_swap_disk() {
    auto device = swap::DiskSwap::create({.size = 64 * kMiB}, swap_disk, *phys, scheduler);
    if (!device || !swap->swapon(std::move(*device))) throw std::runtime_error("no swap disk");
  }

  bool putback(phys::Folio& folio) {
    phys::folio_unlock(*phys, folio);
    lru.folio_putback_lru(folio);
    return false;
  }
  // A dirty folio is written; false when it is on its way or stays, and has been put back. Locked again otherwise.
  bool pageout(AddressSpace& mapping, phys::Folio& folio) {
    if (phys::folio_test_writeback(folio)) return putback(folio);
    if (!phys::folio_test_dirty(folio)) return true;
    if (!vfs->filemap().folio_clear_dirty_for_io(folio)) return true;
    WritebackControl wbc{.reason = WbReason::kVmscan, .caller = WritebackControl::Caller::kReclaim};
    phys::folio_set_reclaim(folio);
    const Result<WritepageOutcome> outcome = mapping.a_ops().writepage(folio, wbc);
    EXPECT_TRUE(outcome.has_value());
    if (outcome == WritepageOutcome::kActivate) {
      phys::folio_clear_reclaim(folio);
      return putback(folio);
    }
    if (!phys::folio_test_writeback(folio)) phys::folio_clear_reclaim(folio);
    if (phys::folio_test_writeback(folio) || phys::folio_test_dirty(folio) || !phys::folio_trylock(folio)) {
      lru.folio_putback_lru(folio);
      return false;
    }
    return true;
  }
};

}  // namespace quire::file
