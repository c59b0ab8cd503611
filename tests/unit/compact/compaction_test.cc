// Compaction on a small machine whose memory is in pieces: blocks come free, and not a byte of the process that owns the
// pieces is lost.
#include "quire/compact/compaction.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <stdexcept>

#include "quire/kernel/machine.h"
#include "quire/phys/fragmentation.h"
#include "quire/phys/page_isolation.h"

namespace quire::compact {
namespace {

using kernel::Machine;
using kernel::MachineConfig;
using phys::CompactPriority;
using phys::CompactResult;
using phys::CompactSuitable;
using phys::Gfp;
using phys::VmEvent;

constexpr Order kHuge{9};
constexpr Gfp kMovable = Gfp::kHighUserMovable | Gfp::kRetryMayFail;

// A process that has filled most of the memory page by page and given every other page back: half is free, hardly two pages
// of it side by side.
class Fragmented : public ::testing::Test {
 protected:
  Fragmented() {
    MachineConfig config;
    config.ram = 64 * kMiB;
    config.kernel_reserved = 4 * kMiB;
    config.data_mode = phys::DataMode::kData;
    config.sysctl["vm.compaction_proactiveness"] = 0;
    auto booted = Machine::boot(config);
    if (!booted) throw std::runtime_error(booted.error().sentence);
    machine_ = std::move(*booted);
  }
  // `body` runs as the process, in pieces; afterwards every byte is checked.
  void in_pieces(std::function<void()> body) {
    const auto made = machine_->processes().create("holder", [&, body](kernel::Thread& thread) {
      mm_ = thread.process->mm;
      fill();
      body();
      check();
      machine_->processes().exit_thread(thread, {});
    });
    ASSERT_TRUE(made.has_value());
    ASSERT_TRUE(machine_->run().done());
    machine_->settle();
    machine_->validate();
  }
  VirtAddr page(std::uint64_t i) const { return base_ + i * kPageSize; }
  void fill() {
    base_ = machine_->vm()
                .mmap(*mm_, VirtAddr(0), kPages * kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                      vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0)
                .value();
    for (std::uint64_t i = 0; i < kPages; ++i) {
      const auto outcome = machine_->vm().access(*mm_, page(i), arch::Access::kWrite);
      ASSERT_TRUE(outcome.ok());
      *machine_->vm().to_host(outcome.phys) = value(i);
    }
    for (std::uint64_t i = 0; i < kPages; i += 2) {
      ASSERT_TRUE(machine_->vm().madvise(*mm_, page(i), kPageSize, vm::Advice::kDontNeed));
    }
    machine_->lru().lru_add_drain_all();
    machine_->phys().drain_all_pages();
  }
  void check() {
    for (std::uint64_t i = 1; i < kPages; i += 2) {
      const auto outcome = machine_->vm().access(*mm_, page(i), arch::Access::kRead);
      ASSERT_TRUE(outcome.ok());
      ASSERT_EQ(*machine_->vm().to_host(outcome.phys), value(i)) << "page " << i;
    }
  }
  static std::byte value(std::uint64_t i) { return static_cast<std::byte>(i * 7 + 1); }
  phys::Zone& zone() { return machine_->phys().node(Nid(0)).zone(phys::ZoneType::kDma32); }
  phys::ZoneList& zonelist() { return machine_->phys().zonelist(Nid(0)); }
  std::int64_t event(VmEvent e) { return machine_->phys().vmstat()[e]; }
  CompactResult compact(Order order, CompactPriority priority, Gfp gfp = kMovable) {
    return machine_->compaction().try_to_compact_pages(zonelist(), order, gfp, phys::AllocFlags::kWmarkMin, priority);
  }

  static constexpr std::uint64_t kPages = 13'800;
  std::unique_ptr<Machine> machine_;
  vm::Mm* mm_ = nullptr;
  VirtAddr base_{};
};

TEST_F(Fragmented, ARequestForALargeBlockIsServedByMovingPages) {
  in_pieces([&] {
    const int index = phys::fragmentation_index(zone(), kHuge);
    EXPECT_GT(index, 500);  // enough memory, in pieces
    EXPECT_GT(phys::extfrag_for_order(zone(), kHuge), 90u);
    phys::Page* block = machine_->phys().alloc_pages(kMovable, kHuge);
    ASSERT_NE(block, nullptr);
    EXPECT_GT(event(VmEvent::kCompactStall), 0);
    EXPECT_GT(event(VmEvent::kPgmigrateSuccess), 0);
    EXPECT_GT(event(VmEvent::kCompactMigrateScanned), 0);
    EXPECT_GT(event(VmEvent::kCompactFreeScanned), 0);
    EXPECT_GE(event(VmEvent::kCompactIsolated), 2 * event(VmEvent::kPgmigrateSuccess));  // each page, and a frame for it
    EXPECT_EQ(event(VmEvent::kPswpout), 0);                                              // nothing had to be reclaimed
    machine_->phys().free_pages(*block, kHuge);
  });
}

TEST_F(Fragmented, WithoutCompactionTheSameRequestFails) {
  machine_->reclaim().set_compaction(nullptr);
  in_pieces([&] {
    EXPECT_EQ(machine_->phys().alloc_pages(kMovable, kHuge), nullptr);
    EXPECT_EQ(event(VmEvent::kPgmigrateSuccess), 0);
  });
}

TEST_F(Fragmented, CompactingEverythingPutsFreeMemoryTogether) {
  in_pieces([&] {
    const std::uint64_t before = zone().nr_free(kHuge) + 2 * zone().nr_free(phys::kMaxOrder);
    machine_->compaction().compact_nodes();
    machine_->phys().drain_all_pages();
    const std::uint64_t after = zone().nr_free(kHuge) + 2 * zone().nr_free(phys::kMaxOrder);
    // 6,900 pages were scattered; most of them are whole pageblocks of 512 now.
    EXPECT_GE(after, before + 7);
    EXPECT_LT(phys::extfrag_for_order(zone(), kHuge), 40u);
  });
}

TEST_F(Fragmented, AsynchronousCompactionWorksInThePageblocksOfItsOwnKindOnly) {
  in_pieces([&] {
    // The holder's pageblocks are movable: an asynchronous request for kernel memory finds nothing to move there.
    const CompactResult result = compact(kHuge, CompactPriority::kAsync, Gfp::kKernel);
    EXPECT_NE(result, CompactResult::kSuccess);
    EXPECT_EQ(event(VmEvent::kPgmigrateSuccess), 0);
    EXPECT_EQ(compact(kHuge, CompactPriority::kAsync), CompactResult::kSuccess);
  });
}

TEST_F(Fragmented, PinnedPagesAreLeftAloneAndFailuresDeferTheNextRequests) {
  in_pieces([&] {
    std::vector<phys::Page*> pinned;
    for (std::uint64_t i = 1; i < kPages; i += 2) {
      phys::Page* one[1] = {};
      ASSERT_EQ(machine_->vm().get_user_pages(*mm_, page(i), one, arch::Access::kRead).value(), 1u);
      pinned.push_back(one[0]);
    }
    EXPECT_EQ(compact(kHuge, CompactPriority::kSyncLight), CompactResult::kComplete);
    EXPECT_EQ(event(VmEvent::kPgmigrateSuccess), 0);
    EXPECT_EQ(zone().compaction.order_failed, kHuge.value());
    EXPECT_EQ(zone().compaction.defer_shift, 1u);
    EXPECT_EQ(compact(kHuge, CompactPriority::kSyncLight), CompactResult::kDeferred);
    EXPECT_EQ(compact(kHuge, CompactPriority::kSyncLight), CompactResult::kComplete);  // one of two is let through
    EXPECT_EQ(zone().compaction.defer_shift, 2u);
    // Smaller orders were never tried.
    EXPECT_NE(compact(Order(2), CompactPriority::kSyncLight), CompactResult::kDeferred);
    for (phys::Page* p : pinned) machine_->lru().folio_put(phys::page_folio(*p));
    // The highest priority asks nobody, and looks into pageblocks that were given up.
    EXPECT_EQ(compact(kHuge, CompactPriority::kSyncFull), CompactResult::kSuccess);
    EXPECT_EQ(zone().compaction.order_failed, kHuge.value() + 1);
  });
}

TEST_F(Fragmented, HopelessPageblocksAreMarkedAndForgottenAgain) {
  in_pieces([&] {
    std::vector<phys::Page*> pinned;
    for (std::uint64_t i = 1; i < kPages; i += 2) {
      phys::Page* one[1] = {};
      ASSERT_EQ(machine_->vm().get_user_pages(*mm_, page(i), one, arch::Access::kRead).value(), 1u);
      pinned.push_back(one[0]);
    }
    static_cast<void>(compact(kHuge, CompactPriority::kSyncLight));
    const auto marked = [&] {
      unsigned n = 0;
      for (Pfn at = align_up(zone().start_pfn(), phys::kPageblockPages); at < zone().end_pfn(); at += phys::kPageblockPages) {
        n += machine_->phys().pageblock_skip(at) ? 1 : 0;
      }
      return n;
    };
    EXPECT_GT(marked(), 10u);
    EXPECT_TRUE(zone().compaction.blockskip_flush);
    machine_->compaction().reset_isolation_suitable(zone().node());
    EXPECT_EQ(marked(), 0u);
    for (phys::Page* p : pinned) machine_->lru().folio_put(phys::page_folio(*p));
  });
}

TEST_F(Fragmented, KcompactdMakesTheBlockThatKswapdWasAskedFor) {
  in_pieces([&] {
    EXPECT_EQ(zone().nr_free(kHuge) + zone().nr_free(phys::kMaxOrder), 0u);
    machine_->compaction().wakeup_kcompactd(zone().node(), kHuge, phys::ZoneType::kMovable);
    machine_->scheduler().sleep_for(sim::kSecond);
    EXPECT_EQ(event(VmEvent::kCompactDaemonWake), 1);
    EXPECT_GT(event(VmEvent::kCompactDaemonMigrateScanned), 0);
    EXPECT_GT(zone().nr_free(kHuge) + zone().nr_free(phys::kMaxOrder), 0u);
  });
}

TEST_F(Fragmented, ANodeThatIsTooFragmentedIsCompactedWithoutBeingAsked) {
  machine_->compaction().tunables().compaction_proactiveness = 100;
  in_pieces([&] {
    EXPECT_GT(Compaction::fragmentation_score_node(zone().node()), 50u);
    machine_->scheduler().sleep_for(2 * sim::kSecond);
    EXPECT_LT(Compaction::fragmentation_score_node(zone().node()), 30u);
    EXPECT_EQ(event(VmEvent::kCompactDaemonWake), 0);
  });
}

TEST_F(Fragmented, ARangeIsEmptiedOfEveryPageThatCanMove) {
  in_pieces([&] {
    const Pfn start = align_up(zone().start_pfn() + 2048, phys::kPageblockPages);
    const Range<Pfn> range{start, start + phys::kPageblockPages};
    const auto in_use = [&] {
      unsigned n = 0;
      for (Pfn at = range.begin; at < range.end; at += 1) n += machine_->phys().pfn_to_page(at).mapcount > 0 ? 1 : 0;
      return n;
    };
    const unsigned before = in_use();
    ASSERT_GT(before, 100u);
    phys::PageIsolation isolation(machine_->phys());
    ASSERT_TRUE(isolation.start_isolate_page_range(range, phys::MigrateType::kMovable));
    EXPECT_EQ(machine_->compaction().migrate_range(range, phys::MigrateMode::kSync, phys::MigrateReason::kContigRange), 0u);
    EXPECT_EQ(in_use(), 0u);
    EXPECT_EQ(event(VmEvent::kPgmigrateSuccess), before);
    isolation.undo_isolate_page_range(range, phys::MigrateType::kMovable);
  });
}

TEST(Fragmentation, IndicesSayWhetherMemoryIsShortOrInPieces) {
  MachineConfig config;
  config.ram = 64 * kMiB;
  config.kernel_reserved = 4 * kMiB;
  auto machine = Machine::boot(config);
  ASSERT_TRUE(machine.has_value());
  phys::Zone& zone = (*machine)->phys().node(Nid(0)).zone(phys::ZoneType::kDma32);
  EXPECT_EQ(phys::fragmentation_index(zone, kHuge), -1000);  // there is a block
  EXPECT_EQ(phys::fragmentation_index(zone, Order(11)), 0);
  EXPECT_LT(phys::unusable_free_index(zone, kHuge), 200u);
  EXPECT_EQ(phys::unusable_free_index(zone, Order(0)), 0u);
  EXPECT_EQ(
      phys::compaction_suitable(zone, kHuge, phys::AllocFlags::kWmarkMin, phys::ZoneType::kMovable, zone.free_pages(), 500),
      CompactSuitable::kSuccess);
}

}  // namespace
}  // namespace quire::compact
