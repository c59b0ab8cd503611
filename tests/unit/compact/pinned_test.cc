// Whoever moves pages or takes them away meets pinned ones: long-term pins stand nowhere in the way, since what they hold left
// movable memory first; what is pinned all the same stays where it is, and its bytes are the same for process and device.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "quire/kernel/machine.h"
#include "quire/phys/cma.h"
#include "quire/phys/memory_hotplug.h"
#include "quire/phys/page_isolation.h"
#include "quire/phys/page_wait.h"
#include "quire/phys/task_flags.h"
#include "quire/sim/fault_injection.h"
#include "quire/vm/gup.h"

namespace quire::compact {
namespace {

using arch::Access;
using kernel::Machine;
using kernel::MachineConfig;
using phys::MigrateMode;
using phys::MigrateReason;
using phys::MigrateType;
using phys::NodeStat;
using phys::VmEvent;
using phys::ZoneType;
using vm::FollFlags;
using vm::MapFlags;
using vm::Prot;

constexpr std::uint64_t kPages = 16;  // of the process

// A process with a few pages of its own, and a device that pins some.
class Pinned : public ::testing::Test {
 protected:
  virtual void configure(MachineConfig&) {}
  void SetUp() override {
    MachineConfig config;
    config.ram = 64 * kMiB;
    config.kernel_reserved = 4 * kMiB;
    config.data_mode = phys::DataMode::kData;
    config.sysctl["vm.compaction_proactiveness"] = 0;
    config.swap.push_back(*kernel::parse_swap_spec("zram:16M"));
    configure(config);
    auto booted = Machine::boot(config);
    if (!booted) throw std::runtime_error(booted.error().sentence);
    machine_ = std::move(*booted);
  }
  void as_process(std::function<void()> body) {
    const auto made = machine_->processes().create("holder", [&, body](kernel::Thread& thread) {
      mm_ = thread.process->mm;
      base_ = map(kPages);
      body();
      machine_->vm().validate();
      machine_->processes().exit_thread(thread, {});
    });
    ASSERT_TRUE(made.has_value());
    ASSERT_TRUE(machine_->run().done());
    machine_->settle();
    machine_->validate();
    EXPECT_EQ(state(NodeStat::kNrFollPinAcquired), state(NodeStat::kNrFollPinReleased));
    EXPECT_EQ(state(NodeStat::kNrAnonPages), 0);
  }

  VirtAddr map(std::uint64_t pages, MapFlags flags = MapFlags::kPrivate | MapFlags::kAnonymous, file::File* file = nullptr) {
    return machine_->vm().mmap(*mm_, VirtAddr(0), pages * kPageSize, Prot::kRead | Prot::kWrite, flags, file, 0).value();
  }
  VirtAddr page(std::uint64_t i) const { return base_ + i * kPageSize; }
  void write(VirtAddr at, unsigned value) {
    const auto outcome = machine_->vm().access(*mm_, at, Access::kWrite);
    ASSERT_TRUE(outcome.ok());
    *machine_->vm().to_host(outcome.phys) = static_cast<std::byte>(value);
  }
  unsigned read(VirtAddr at) {
    const auto outcome = machine_->vm().access(*mm_, at, Access::kRead);
    EXPECT_TRUE(outcome.ok());
    return std::to_integer<unsigned>(*machine_->vm().to_host(outcome.phys));
  }
  // Page i gets the byte i + 1.
  void fill() {
    for (unsigned i = 0; i < kPages; ++i) write(page(i), i + 1);
    machine_->lru().lru_add_drain_all();
  }
  phys::Page* page_at(VirtAddr at) {
    const arch::Pte* pte = machine_->vm().pgtable().pte_offset(*mm_, at);
    return pte != nullptr && pte->present() ? &phys().pfn_to_page(pte->pfn()) : nullptr;
  }

  Result<std::uint64_t> try_pin(VirtAddr at, std::span<phys::Page*> pages, FollFlags flags, Access kind = Access::kWrite) {
    return machine_->vm().pin_user_pages(*mm_, at, pages, kind, flags);
  }
  phys::Page* pin(VirtAddr at, FollFlags flags = FollFlags::kNone) {
    std::array<phys::Page*, 1> pages{};
    EXPECT_EQ(try_pin(at, pages, flags), 1u);
    return pages[0];
  }
  void unpin(phys::Page* pinned) { machine_->vm().unpin_user_pages(std::array{pinned}); }
  // As the device that holds the pin sees and writes the page.
  std::byte& byte_of(phys::Page* pinned) { return *static_cast<std::byte*>(phys().page_address(*pinned)); }
  // The promise of a pin, which nothing that happened meanwhile has broken.
  void device_and_process_see_the_same(VirtAddr at, phys::Page* pinned) {
    ASSERT_EQ(page_at(at), pinned);
    byte_of(pinned) = std::byte{0xd1};
    EXPECT_EQ(read(at), 0xd1u);
    write(at, 0xc2);
    EXPECT_EQ(byte_of(pinned), std::byte{0xc2});
    EXPECT_EQ(page_at(at), pinned);
  }

  phys::PhysMem& phys() { return machine_->phys(); }
  std::int64_t state(NodeStat stat) { return phys().global_node_page_state(stat); }
  std::int64_t event(VmEvent e) { return phys().vmstat()[e]; }
  // How many of a range's pages, all of which go from their lists to be moved, could not be.
  std::uint64_t migrate_range(phys::Page& first, std::uint64_t pages = 1) {
    machine_->lru().lru_add_drain_all();
    const Pfn pfn = phys().page_to_pfn(first);
    return machine_->compaction().migrate_range({pfn, pfn + pages}, MigrateMode::kSync, MigrateReason::kSyscall);
  }

  std::unique_ptr<Machine> machine_;
  vm::Mm* mm_ = nullptr;
  VirtAddr base_{};
};

// --- memory that can be unplugged -----------------------------------------------------------------------------------------

class PinnedInZoneMovable : public Pinned {
 protected:
  static constexpr PhysAddr kModule{4 * kGiB};
  static constexpr std::uint64_t kModuleBytes = 128 * kMiB;
  void configure(MachineConfig& config) override {
    config.plug.push_back({.bytes = kModuleBytes, .region = std::nullopt, .at = kModule.value()});
  }
  static bool movable(const phys::Page* page) { return page->zone_type() == ZoneType::kMovable; }
  Status unplug() { return phys().hotplug().offline(kModule, kModuleBytes); }
  sim::FaultInjection faults_{0};
};

TEST_F(PinnedInZoneMovable, ALongTermPinMovesThePageOutAndTheMemoryCanBeUnplugged) {
  as_process([&] {
    fill();
    for (unsigned i = 0; i < kPages; ++i) ASSERT_TRUE(movable(page_at(page(i))));
    std::array<phys::Page*, kPages> pages{};
    ASSERT_EQ(try_pin(base_, pages, FollFlags::kLongterm), kPages);
    EXPECT_EQ(event(VmEvent::kPgmigrateSuccess), kPages);
    for (unsigned i = 0; i < kPages; ++i) {
      EXPECT_FALSE(movable(pages[i]));
      EXPECT_TRUE(vm::folio_maybe_dma_pinned(phys::page_folio(*pages[i])));
      EXPECT_EQ(byte_of(pages[i]), static_cast<std::byte>(i + 1));
    }
    EXPECT_TRUE(unplug()) << phys().hotplug().reason();
    for (unsigned i = 0; i < kPages; ++i) {
      EXPECT_EQ(read(page(i)), i + 1);
      device_and_process_see_the_same(page(i), pages[i]);
    }
    machine_->vm().unpin_user_pages(pages);
  });
}

// What a long-term pin is there to prevent.
TEST_F(PinnedInZoneMovable, AnOrdinaryPinLeavesThePageAndKeepsTheMemoryPlugged) {
  as_process([&] {
    fill();
    phys::Page* pinned = pin(page(3));
    EXPECT_TRUE(movable(pinned));
    EXPECT_EQ(event(VmEvent::kPgmigrateSuccess), 0);
    EXPECT_EQ(unplug().error(), Errno::kBusy);
    device_and_process_see_the_same(page(3), pinned);
    unpin(pinned);
    EXPECT_TRUE(unplug()) << phys().hotplug().reason();
    EXPECT_EQ(read(page(3)), 0xc2u);
  });
}

TEST_F(PinnedInZoneMovable, WhatALongTermPinFaultsInComesFromElsewhereAtOnce) {
  as_process([&] {
    write(page(0), 1);
    ASSERT_TRUE(movable(page_at(page(0))));
    std::array<phys::Page*, kPages - 1> pages{};
    ASSERT_EQ(try_pin(page(1), pages, FollFlags::kLongterm), kPages - 1);
    for (const phys::Page* one : pages) EXPECT_FALSE(movable(one));
    EXPECT_EQ(event(VmEvent::kPgmigrateSuccess), 0);
    machine_->vm().unpin_user_pages(pages);
    const VirtAddr more = map(1);
    write(more, 1);
    EXPECT_TRUE(movable(page_at(more))) << "the pin is over";
  });
}

// 6.1 allows it; since 6.5 Linux refuses files whose file system wants to know of every write.
TEST_F(PinnedInZoneMovable, ASharedFilePageMovesInTheCacheToo) {
  as_process([&] {
    file::File& file = *machine_->vfs().memfd_create("shared", file::MemfdFlags::kNone).value();
    ASSERT_TRUE(machine_->vfs().ftruncate(file, kPageSize));
    const VirtAddr one = map(1, MapFlags::kShared, &file);
    const VirtAddr other = map(1, MapFlags::kShared, &file);
    write(one, 7);
    ASSERT_EQ(read(other), 7u);
    ASSERT_TRUE(movable(page_at(one)));
    phys::Page* pinned = pin(one, FollFlags::kLongterm);
    EXPECT_FALSE(movable(pinned));
    EXPECT_EQ(read(other), 7u);
    EXPECT_TRUE(unplug()) << phys().hotplug().reason();
    device_and_process_see_the_same(one, pinned);
    EXPECT_EQ(read(other), 0xc2u);
    unpin(pinned);
    machine_->vfs().fput(file);
  });
}

TEST_F(PinnedInZoneMovable, TheZeroPageMayStay) {
  as_process([&] {
    std::array<phys::Page*, 1> pages{};
    ASSERT_EQ(try_pin(page(0), pages, FollFlags::kLongterm, Access::kRead), 1u);
    EXPECT_EQ(pages[0], &machine_->vm().zero_page());
    EXPECT_EQ(event(VmEvent::kPgmigrateSuccess) + event(VmEvent::kPgmigrateFail), 0);
    machine_->vm().unpin_user_pages(pages);
  });
}

TEST_F(PinnedInZoneMovable, APageThatSomebodyElseHoldsIsNotPinnedForLong) {
  as_process([&] {
    fill();
    phys::Folio& held = phys::page_folio(*page_at(page(2)));
    phys::folio_get(held);
    std::array<phys::Page*, 4> pages{};
    EXPECT_EQ(try_pin(base_, pages, FollFlags::kLongterm).error(), Errno::kNoMem);
    EXPECT_EQ(state(NodeStat::kNrFollPinAcquired), state(NodeStat::kNrFollPinReleased)) << "none is";
    EXPECT_EQ(state(NodeStat::kNrIsolatedAnon), 0);
    EXPECT_EQ(page_at(page(2)), &held);
    machine_->lru().folio_put(held);
    ASSERT_EQ(try_pin(base_, pages, FollFlags::kLongterm), 4u);
    for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(byte_of(pages[i]), static_cast<std::byte>(i + 1));
    machine_->vm().unpin_user_pages(pages);
  });
}

TEST_F(PinnedInZoneMovable, WithoutAFrameToMoveToThereIsNoLongTermPin) {
  as_process([&] {
    fill();
    phys().set_fault_injection(&faults_);
    faults_.set(sim::FaultPoint::kPageAlloc, {.nth = 2});
    std::array<phys::Page*, 4> pages{};
    EXPECT_EQ(try_pin(base_, pages, FollFlags::kLongterm).error(), Errno::kNoMem);
    faults_.set(sim::FaultPoint::kPageAlloc, {});
    phys().set_fault_injection(nullptr);
    EXPECT_EQ(state(NodeStat::kNrFollPinAcquired), state(NodeStat::kNrFollPinReleased));
    EXPECT_EQ(state(NodeStat::kNrIsolatedAnon), 0);
    for (unsigned i = 0; i < kPages; ++i) EXPECT_EQ(read(page(i)), i + 1);
  });
}

TEST_F(PinnedInZoneMovable, ALongTermPinWaitsForWhoHasThePageOffItsList) {
  as_process([&] {
    fill();
    phys::Folio& folio = phys::page_folio(*page_at(page(0)));
    phys::FolioList taken;
    ASSERT_TRUE(machine_->vm().migration().isolate(folio, taken));
    machine_->scheduler().spawn("holder", [&] {
      machine_->scheduler().sleep_for(sim::kMillisecond);
      machine_->vm().migration().putback_movable_pages(taken);
    });
    const sim::Nanos begun = machine_->scheduler().now();
    phys::Page* pinned = pin(page(0), FollFlags::kLongterm);
    EXPECT_GE(machine_->scheduler().now() - begun, sim::kMillisecond);
    EXPECT_FALSE(movable(pinned));
    EXPECT_EQ(byte_of(pinned), std::byte{1});
    unpin(pinned);
  });
}

TEST_F(PinnedInZoneMovable, ThatWaitEndsWhenTheProcessIsKilled) {
  as_process([&] {
    fill();
    phys::FolioList taken;
    ASSERT_TRUE(machine_->vm().migration().isolate(phys::page_folio(*page_at(page(0))), taken));
    machine_->scheduler().spawn("killer", [&] {
      machine_->scheduler().sleep_for(sim::kMillisecond);
      machine_->vm().mark_killed(*mm_);
    });
    std::array<phys::Page*, 1> pages{};
    EXPECT_EQ(try_pin(page(0), pages, FollFlags::kLongterm).error(), Errno::kIntr);
    machine_->vm().migration().putback_movable_pages(taken);
  });
}

// --- CMA ------------------------------------------------------------------------------------------------------------------

class PinnedInCma : public Pinned {
 protected:
  void configure(MachineConfig& config) override {
    config.cmdline = "cma=40M";
  }  // more than half: movable requests begin there
  phys::CmaArea& area() { return *phys().cma().areas()[0]; }
  bool in_area(const phys::Page* page) { return area().pfns().contains(phys().page_to_pfn(*page)); }
  // The driver's wish: all of it.
  bool empty_the_area() {
    const Status got = phys().alloc_contig_range(area().pfns(), MigrateType::kCma, phys::Gfp::kKernel);
    if (got) phys().free_contig_range(area().pfns());
    return got.has_value();
  }
};

TEST_F(PinnedInCma, ALongTermPinMovesThePageOutAndTheAreaCanBeEmptied) {
  as_process([&] {
    fill();
    ASSERT_TRUE(in_area(page_at(page(5))));
    std::array<phys::Page*, kPages> pages{};
    ASSERT_EQ(try_pin(base_, pages, FollFlags::kLongterm), kPages);
    for (unsigned i = 0; i < kPages; ++i) {
      EXPECT_FALSE(in_area(pages[i]));
      EXPECT_EQ(byte_of(pages[i]), static_cast<std::byte>(i + 1));
    }
    EXPECT_TRUE(empty_the_area());
    for (unsigned i = 0; i < kPages; ++i) {
      EXPECT_EQ(read(page(i)), i + 1);
      device_and_process_see_the_same(page(i), pages[i]);
    }
    machine_->vm().unpin_user_pages(pages);
  });
}

TEST_F(PinnedInCma, AnOrdinaryPinKeepsTheAreaInUse) {
  as_process([&] {
    fill();
    phys::Page* pinned = pin(page(5));
    ASSERT_TRUE(in_area(pinned));
    EXPECT_FALSE(empty_the_area());
    device_and_process_see_the_same(page(5), pinned);
    unpin(pinned);
    EXPECT_TRUE(empty_the_area());
    EXPECT_EQ(read(page(5)), 0xc2u);
  });
}

TEST_F(PinnedInCma, WhatALongTermPinFaultsInComesFromElsewhereAtOnce) {
  as_process([&] {
    write(page(0), 1);
    ASSERT_TRUE(in_area(page_at(page(0))));
    phys::Page* pinned = pin(page(1), FollFlags::kLongterm);
    EXPECT_FALSE(in_area(pinned));
    EXPECT_EQ(event(VmEvent::kPgmigrateSuccess), 0);
    unpin(pinned);
  });
}

class PinnedBesideCma : public PinnedInCma {
 protected:
  void configure(MachineConfig& config) override { config.cmdline = "cma=8M"; }
};

// Whether a pageblock that is being emptied was the area's own cannot be seen any more.
TEST_F(PinnedBesideCma, APageInAnIsolatedPageblockMovesToo) {
  as_process([&] {
    constexpr std::uint64_t kMany = 2'000;
    base_ = map(kMany);
    for (unsigned i = 0; i < kMany; ++i) write(page(i), i % 250 + 1);
    phys::PageIsolation isolation(phys());
    Range<Pfn> range{};
    unsigned in_range = 0;  // a page of ours in a pageblock without kernel memory
    for (; in_range < kMany; in_range += 100) {
      if (in_area(page_at(page(in_range)))) continue;
      const Pfn block = align_down(phys().page_to_pfn(*page_at(page(in_range))), phys::kPageblockPages);
      range = {block, block + phys::kPageblockPages};
      if (isolation.start_isolate_page_range(range, MigrateType::kMovable)) break;
    }
    ASSERT_LT(in_range, kMany);
    phys::Page* pinned = pin(page(in_range), FollFlags::kLongterm);
    EXPECT_FALSE(range.contains(phys().page_to_pfn(*pinned)));
    EXPECT_EQ(byte_of(pinned), static_cast<std::byte>(in_range % 250 + 1));
    unpin(pinned);
    isolation.undo_isolate_page_range(range, MigrateType::kMovable);
  });
}

// --- who moves pages --------------------------------------------------------------------------------------------------------

TEST_F(Pinned, CompactionLeavesPinnedPagesAlone) {
  as_process([&] {
    constexpr std::uint64_t kMany = 6'000;
    base_ = map(kMany);
    for (unsigned i = 0; i < kMany; ++i) write(page(i), i % 250 + 1);
    for (unsigned i = 0; i < kMany; i += 2)
      ASSERT_TRUE(machine_->vm().madvise(*mm_, page(i), kPageSize, vm::Advice::kDontNeed));
    machine_->lru().lru_add_drain_all();
    std::vector<phys::Page*> pinned;
    for (unsigned i = 1; i < kMany; i += 2) pinned.push_back(pin(page(i), FollFlags::kLongterm));
    machine_->compaction().compact_nodes();
    EXPECT_EQ(event(VmEvent::kCompactIsolated), 0) << "it is not even tried";
    std::vector<phys::Page*> still_pinned;
    for (unsigned i = 0; i < pinned.size(); ++i) i % 4 == 0 ? still_pinned.push_back(pinned[i]) : unpin(pinned[i]);
    machine_->compaction().compact_nodes();
    EXPECT_GT(event(VmEvent::kPgmigrateSuccess), 500) << "others move";
    for (unsigned i = 1; i < kMany; i += 2) ASSERT_EQ(read(page(i)), i % 250 + 1);
    for (unsigned i = 0; i < still_pinned.size(); ++i) device_and_process_see_the_same(page(1 + 8 * i), still_pinned[i]);
    machine_->vm().unpin_user_pages(still_pinned);
  });
}

TEST_F(Pinned, MigrationLeavesAPinnedAnonymousPage) {
  as_process([&] {
    fill();
    phys::Page* pinned = pin(page(0));
    EXPECT_EQ(migrate_range(*pinned), 1u);
    EXPECT_EQ(event(VmEvent::kPgmigrateFail), 1);
    device_and_process_see_the_same(page(0), pinned);
    unpin(pinned);
    EXPECT_EQ(migrate_range(*pinned), 0u);
    EXPECT_NE(page_at(page(0)), pinned);
    EXPECT_EQ(read(page(0)), 0xc2u);
  });
}

TEST_F(Pinned, MigrationLeavesAPinnedFilePage) {
  as_process([&] {
    file::File& file = *machine_->vfs().memfd_create("shared", file::MemfdFlags::kNone).value();
    ASSERT_TRUE(machine_->vfs().ftruncate(file, kPageSize));
    const VirtAddr at = map(1, MapFlags::kShared, &file);
    write(at, 7);
    phys::Page* pinned = pin(at);
    EXPECT_EQ(migrate_range(*pinned), 1u);
    device_and_process_see_the_same(at, pinned);
    unpin(pinned);
    EXPECT_EQ(migrate_range(*pinned), 0u);
    EXPECT_NE(page_at(at), pinned);
    EXPECT_EQ(read(at), 0xc2u);
    machine_->vfs().fput(file);
  });
}

// --- who takes them away ----------------------------------------------------------------------------------------------------

TEST_F(Pinned, ReclaimGivesAPinnedPageNoPlaceInSwap) {
  as_process([&] {
    fill();
    phys::Page* pinned = pin(page(4));
    ASSERT_TRUE(machine_->vm().madvise(*mm_, base_, kPages * kPageSize, vm::Advice::kPageOut));
    EXPECT_EQ(event(VmEvent::kPswpout), kPages - 1) << "the others go";
    EXPECT_FALSE(phys::folio_test_swapcache(phys::page_folio(*pinned)));
    device_and_process_see_the_same(page(4), pinned);
    unpin(pinned);
    ASSERT_TRUE(machine_->vm().madvise(*mm_, base_, kPages * kPageSize, vm::Advice::kPageOut));
    EXPECT_EQ(page_at(page(4)), nullptr);
    EXPECT_EQ(read(page(4)), 0xc2u);
  });
}

// One that had a place before it was pinned is not taken out of the page table either.
TEST_F(Pinned, APinnedPageOfTheSwapCacheStaysMapped) {
  as_process([&] {
    fill();
    phys::Page* pinned = pin(page(4));
    phys::Folio& folio = phys::page_folio(*pinned);
    phys::folio_lock(phys(), folio);
    ASSERT_TRUE(machine_->swap().add_to_swap(folio).has_value());
    phys::folio_unlock(phys(), folio);
    ASSERT_TRUE(machine_->vm().madvise(*mm_, page(4), kPageSize, vm::Advice::kPageOut));
    device_and_process_see_the_same(page(4), pinned);
    unpin(pinned);
    ASSERT_TRUE(machine_->vm().madvise(*mm_, page(4), kPageSize, vm::Advice::kPageOut));
    EXPECT_EQ(page_at(page(4)), nullptr);
    EXPECT_EQ(read(page(4)), 0xc2u);
  });
}

TEST_F(Pinned, WantOfMemoryLeavesPinnedPages) {
  as_process([&] {
    fill();
    std::array<phys::Page*, kPages> pages{};
    ASSERT_EQ(try_pin(base_, pages, FollFlags::kLongterm), kPages);
    // First in line for reclaim.
    ASSERT_TRUE(machine_->vm().madvise(*mm_, base_, kPages * kPageSize, vm::Advice::kCold));
    const VirtAddr others = map(17'000);
    for (unsigned i = 0; i < 17'000; ++i) write(others + i * kPageSize, 1);
    EXPECT_GT(event(VmEvent::kPswpout), 2000);
    for (unsigned i = 0; i < kPages; ++i) {
      EXPECT_EQ(page_at(page(i)), pages[i]);
      EXPECT_EQ(read(page(i)), i + 1);
      device_and_process_see_the_same(page(i), pages[i]);
    }
    machine_->vm().unpin_user_pages(pages);
  });
}

TEST_F(Pinned, ForkCopiesAtOnceWhatIsPinnedForLong) {
  as_process([&] {
    fill();
    phys::Page* pinned = pin(page(4), FollFlags::kLongterm);
    vm::Mm& child = **machine_->vm().dup_mm(*mm_);
    const auto in_child = [&](unsigned i) { return machine_->vm().pgtable().pte_offset(child, page(i))->pfn(); };
    EXPECT_NE(in_child(4), phys().page_to_pfn(*pinned));
    EXPECT_EQ(in_child(5), phys().page_to_pfn(*page_at(page(5)))) << "the others are shared";
    device_and_process_see_the_same(page(4), pinned);
    const auto outcome = machine_->vm().access(child, page(4), Access::kRead);
    ASSERT_TRUE(outcome.ok());
    EXPECT_EQ(*machine_->vm().to_host(outcome.phys), std::byte{5});
    machine_->vm().mmput(child);
    unpin(pinned);
  });
}

}  // namespace
}  // namespace quire::compact
