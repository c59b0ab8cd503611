// Random allocations, isolations, contiguous ranges, CMA, adding, onlining, offlining and removing of memory, with injected
// failures, against a naive model: who owns each frame. After every operation the sums agree; every 64 operations (and after
// every hotplug operation) validate() walks the whole machine and the free frames are compared with the model's, one by one.
//
//   --ops N, --seed S    how many operations in all (110,000; 22,000 with internal checks), and the first seed (1)
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "../../unit/phys/fake_mover.h"
#include "../../unit/phys/snapshot.h"
#include "effort.h"
#include "quire/phys/cma.h"
#include "quire/phys/memory_hotplug.h"
#include "quire/phys/page_isolation.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"

namespace quire::phys {
namespace {

constexpr std::uint64_t kBlock = 128 * kMiB;
constexpr std::uint64_t kFirstBlock = 32;  // memory is plugged in from 4 GiB on
constexpr std::uint64_t kBlocks = 3;
constexpr std::uint64_t kRamFrames = 64 * kMiB / kPageSize;
constexpr std::uint64_t kPlugStart = kFirstBlock * kBlock / kPageSize;
constexpr std::uint64_t kFrames = kRamFrames + kBlocks * kBlock / kPageSize;

// The frames of boot and those that may be plugged in, numbered through.
constexpr std::uint64_t index_of(Pfn pfn) {
  return pfn.value() < kPlugStart ? pfn.value() : pfn.value() - kPlugStart + kRamFrames;
}
constexpr Pfn frame_at(std::uint64_t i) { return Pfn(i < kRamFrames ? i : i - kRamFrames + kPlugStart); }

// Who has a frame. Movable pages are FakeMover's, and may be anywhere.
enum class Owner : std::uint8_t { kNobody, kBoot, kKernel, kContig, kCma, kMemmap };

struct Run {
  Range<Pfn> pfns;
  Order order;  // of a kernel block
};

class Model {
 public:
  explicit Model(std::uint64_t seed) : rng_(seed), faults_(seed), owner_(kFrames, Owner::kNobody) {
    config_.ram_bytes = 64 * kMiB;
    config_.kernel_reserved = 4 * kMiB;
    config_.max_ram_bytes = config_.ram_bytes + kBlocks * kBlock;
    config_.cpus = 1 + static_cast<unsigned>(rng_.below(2));
    config_.nodes = {{.bytes = 64 * kMiB}, {.bytes = 0}};
    config_.cmdline = rng_.chance(3, 4) ? "cma=8M" : "";
    config_.deferred_init = DeferredInit::kOff;
    scheduler_ =
        std::make_unique<sim::Scheduler>(sim::SchedulerConfig{.cpus = config_.cpus, .seed = seed}, sim::CostModel{}, traces_);
    auto booted = PhysMem::boot(config_, *scheduler_, traces_);
    if (!booted) ADD_FAILURE() << booted.error().message;
    mem_ = std::move(*booted);
    mem_->set_fault_injection(&faults_);
    mover_ = std::make_unique<FakeMover>(*mem_);
    const std::vector<bool> free = free_frames();
    for (std::uint64_t i = 0; i < kFrames; ++i) {
      if (!free[i] && mem_->pfn_valid(frame_at(i))) owner_[i] = Owner::kBoot;
    }
  }

  // How often each kind of operation worked: add, online (twice), offline, remove, contig, CMA, isolate.
  using Done = std::array<std::uint64_t, 8>;
  [[nodiscard]] const Done& done() const { return done_; }

  void run(std::uint64_t ops) {
    constexpr std::uint64_t kChunks = 6;
    for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      scheduler_->spawn("worker", [this, n = ops / kChunks] { work(n); }, {.cpu = static_cast<unsigned>(chunk % config_.cpus)});
      ASSERT_TRUE(scheduler_->run().done());
      if (::testing::Test::HasFailure()) return;
    }
    give_everything_back();
  }

 private:
  void work(std::uint64_t ops) {
    for (std::uint64_t i = 0; i < ops && !::testing::Test::HasFailure(); ++i) {
      const bool big = one_operation();
      check_sums();
      if (big || i % 64 == 0) check_frames();
    }
  }

  // True when it was a hotplug operation.
  bool one_operation() {
    const std::uint64_t dice = rng_.below(1000);
    if (dice < 300) return take_kernel(), false;
    if (dice < 560) return give_kernel(), false;
    if (dice < 680) return take_movable(), false;
    if (dice < 780) return give_movable(), false;
    if (dice < 800) return pin_or_unpin(), false;
    if (dice < 840) return isolate(), false;
    if (dice < 880) return unisolate(), false;
    if (dice < 910) return take_contig(), false;
    if (dice < 935) return give_contig(), false;
    if (dice < 955) return take_cma(), false;
    if (dice < 980) return give_cma(), false;
    if (dice < 987) return mem_->drain_all_pages(), false;
    hotplug();
    return true;
  }

  // --- pages ------------------------------------------------------------------------------------------------------------

  void own(Range<Pfn> pfns, Owner from, Owner to) {
    for (Pfn pfn = pfns.begin; pfn < pfns.end; ++pfn) {
      ASSERT_EQ(owner_[index_of(pfn)], from) << "frame " << pfn.value();
      ASSERT_FALSE(mover_->pages().contains(pfn)) << "frame " << pfn.value();
      owner_[index_of(pfn)] = to;
    }
  }

  void take_kernel() {
    constexpr std::array<Gfp, 4> kKinds = {Gfp::kNoWait, Gfp::kNoWait | Gfp::kReclaimable, Gfp::kAtomic,
                                           Gfp::kNoWait | Gfp::kComp};
    const Order order(rng_.chance(3, 4) ? 0 : static_cast<unsigned>(rng_.below(kNrOrders)));
    // Kernel memory leaves half of everything to those who want to move it.
    if (kernel_pages_ > mem_->totalram_pages() / 8) return give_kernel();
    Page* page = mem_->alloc_pages(kKinds[rng_.below(kKinds.size())], order, Nid(static_cast<int>(rng_.below(2))));
    if (page == nullptr) return;
    const Pfn pfn = mem_->page_to_pfn(*page);
    ASSERT_NE(mem_->page_zone(*page).type(), ZoneType::kMovable);
    for (std::uint64_t i = 0; i < order.pages(); i += kPageblockPages) {
      const MigrateType block = mem_->pageblock_migratetype(pfn + i);
      ASSERT_NE(block, MigrateType::kCma);
    }
    own({pfn, pfn + order.pages()}, Owner::kNobody, Owner::kKernel);
    kernel_.push_back({{pfn, pfn + order.pages()}, order});
    kernel_pages_ += order.pages();
  }

  void give_kernel() {
    if (kernel_.empty()) return;
    const Run run = take_from(kernel_);
    own(run.pfns, Owner::kKernel, Owner::kNobody);
    kernel_pages_ -= run.pfns.size();
    mem_->free_pages(mem_->pfn_to_page(run.pfns.begin), run.order);
  }

  void take_movable() {
    for (std::uint64_t n = rng_.below(60); n-- > 0;) {
      if (!mover_->add(rng_.below(1u << 30))) return;
    }
  }

  void give_movable() {
    const auto& pages = mover_->pages();
    for (std::uint64_t n = rng_.below(70); n-- > 0 && !pages.empty();) {
      auto page = pages.lower_bound(frame_at(rng_.below(kFrames)));
      if (page == pages.end()) page = pages.begin();
      mover_->unpin(page->first);
      mover_->remove(page->first);
    }
  }

  void pin_or_unpin() {
    if (mover_->pages().empty()) return;
    auto page = mover_->pages().lower_bound(frame_at(rng_.below(kFrames)));
    if (page == mover_->pages().end()) page = mover_->pages().begin();
    rng_.chance(1, 4) ? mover_->pin(page->first) : mover_->unpin(page->first);
  }

  // --- ranges -----------------------------------------------------------------------------------------------------------

  Pfn somewhere() {
    return frame_at(rng_.chance(1, 2) ? rng_.below(kRamFrames) : kRamFrames + rng_.below(kFrames - kRamFrames));
  }

  void isolate() {
    if (isolated_.size() > 2) return unisolate();
    const Pfn begin = align_down(somewhere(), kPageblockPages);
    const Range<Pfn> pfns{begin, begin + (1 + rng_.below(4)) * kPageblockPages};
    if (PageIsolation(*mem_).start_isolate_page_range(pfns, MigrateType::kMovable)) {
      isolated_.push_back({pfns, Order(0)});
      ++done_[7];
    }
  }

  void unisolate() {
    if (isolated_.empty()) return;
    const Run run = take_from(isolated_);
    PageIsolation isolation(*mem_);
    rng_.chance(1, 2) ? isolation.undo_isolate_page_range(run.pfns, MigrateType::kMovable)
                      : isolation.cancel_isolate_page_range(run.pfns);
  }

  void take_contig() {
    if (contig_.size() > 12) return give_contig();
    if (rng_.chance(1, 8)) {
      const std::uint64_t pages = 1 + rng_.below(2500);
      Page* page = mem_->alloc_contig_pages(pages, Gfp::kNoWait);
      if (page == nullptr) return;
      const Pfn pfn = mem_->page_to_pfn(*page);
      contig_.push_back({{pfn, pfn + pages}, Order(0)});
    } else {
      const Pfn begin = somewhere();
      const Range<Pfn> pfns{begin, begin + 1 + rng_.below(rng_.chance(1, 2) ? 64 : 3000)};
      if (!mem_->alloc_contig_range(pfns, MigrateType::kMovable, Gfp::kNoWait)) return;
      contig_.push_back({pfns, Order(0)});
    }
    ++done_[5];
    own(contig_.back().pfns, Owner::kNobody, Owner::kContig);
  }

  void give_contig() {
    if (contig_.empty()) return;
    const Run run = take_from(contig_);
    own(run.pfns, Owner::kContig, Owner::kNobody);
    mem_->free_contig_range(run.pfns);
  }

  void take_cma() {
    if (mem_->cma().areas().empty()) return;
    const std::uint64_t pages = 1 + rng_.below(rng_.chance(1, 2) ? 16 : 700);
    Page* page = mem_->cma().alloc(*mem_->cma().areas()[0], pages, static_cast<unsigned>(rng_.below(8)));
    if (page == nullptr) return;
    const Pfn pfn = mem_->page_to_pfn(*page);
    cma_.push_back({{pfn, pfn + pages}, Order(0)});
    ++done_[6];
    own(cma_.back().pfns, Owner::kNobody, Owner::kCma);
  }

  void give_cma() {
    if (cma_.empty()) return;
    const Run run = take_from(cma_);
    own(run.pfns, Owner::kCma, Owner::kNobody);
    ASSERT_TRUE(mem_->cma().release(*mem_->cma().areas()[0], mem_->pfn_to_page(run.pfns.begin), run.pfns.size()));
  }

  // --- hotplug ----------------------------------------------------------------------------------------------------------

  void hotplug() {
    MemoryHotplug& plug = mem_->hotplug();
    const std::uint64_t first = rng_.below(kBlocks);
    const bool sensible = rng_.chance(2, 3);  // what the block's state allows, for one block
    const std::uint64_t count = sensible ? 1 : 1 + rng_.below(kBlocks - first);
    const PhysAddr start((kFirstBlock + first) * kBlock);
    const std::uint64_t size = count * kBlock;
    const bool inject = rng_.chance(1, 3);
    const std::uint64_t what = sensible ? sensible_step(kFirstBlock + first) : rng_.below(5);
    // Moving pages is progress that a failure does not undo, so only the model can judge a failed offline.
    const bool exact = what != 3 && rng_.chance(1, 4);
    const std::string before = exact ? snapshot(*mem_, Snapshot::kWithoutTypes) : std::string();
    if (inject) {
      const auto point = rng_.chance(1, 2) ? sim::FaultPoint::kHotplug : sim::FaultPoint::kPageAlloc;
      faults_.set(point, {.nth = 1 + rng_.below(point == sim::FaultPoint::kHotplug ? 3 : 600)});
    }
    Status status;
    switch (what) {
      case 0: status = plug.add_memory(Nid(static_cast<int>(rng_.below(2))), start, size); break;
      case 1: status = plug.online(start, size, OnlineType::kMovable); break;
      case 2: status = plug.online(start, size, rng_.chance(1, 2) ? OnlineType::kKernel : OnlineType::kOnline); break;
      case 3: status = plug.offline(start, size); break;
      default: status = plug.remove_memory(start, size); break;
    }
    faults_.set(sim::FaultPoint::kHotplug, {});
    faults_.set(sim::FaultPoint::kPageAlloc, {});
    if (status) {
      ++done_[what];
      settle(what, count);
    } else if (exact) {
      ASSERT_EQ(snapshot(*mem_, Snapshot::kWithoutTypes), before) << "operation " << what;
    }
  }

  std::uint64_t sensible_step(std::uint64_t id) {
    const auto block = mem_->hotplug().blocks().find(id);
    if (block == mem_->hotplug().blocks().end()) return 0;
    if (block->second.state == MemoryState::kOnline) return 3;
    return rng_.chance(1, 4) ? 4 : 1 + rng_.below(2);
  }

  // Who owns the frames that a step has taken for struct Pages, or given back.
  void settle(std::uint64_t what, std::uint64_t blocks) {
    const std::vector<bool> free = free_frames();
    const std::vector<bool> movable = movable_frames();
    std::uint64_t taken = 0;
    std::uint64_t given = 0;
    for (std::uint64_t i = 0; i < kFrames; ++i) {
      if (free[i] && owner_[i] == Owner::kMemmap) {
        owner_[i] = Owner::kNobody;
        ++given;
      } else if (!free[i] && owner_[i] == Owner::kNobody && mem_->pfn_online(frame_at(i)) && !movable[i]) {
        owner_[i] = Owner::kMemmap;
        ++taken;
      }
    }
    constexpr std::uint64_t kOfASection = 512;
    if (what == 0) {
      ASSERT_EQ(given, 0u);
      ASSERT_TRUE(taken == blocks * kOfASection || taken == blocks * kOfASection + 1) << taken;
    } else if (what == 4) {
      ASSERT_EQ(taken, 0u);
      ASSERT_TRUE(given == blocks * kOfASection || given == blocks * kOfASection + 1) << given;
    } else {
      ASSERT_EQ(taken + given, 0u);
    }
  }

  // --- checks -----------------------------------------------------------------------------------------------------------

  std::vector<bool> free_frames() {
    std::vector<bool> free(kFrames, false);
    const auto mark = [&](const Page& page, std::uint64_t pages) {
      const std::uint64_t first = index_of(mem_->page_to_pfn(page));
      for (std::uint64_t i = 0; i < pages; ++i) free[first + i] = true;
    };
    mem_->for_each_populated_zone([&](Zone& zone) {
      for (unsigned order = 0; order < kNrOrders; ++order) {
        for (const PageList& list : zone.free_area(Order(order)).free_list) {
          for (const Page& page : list) mark(page, std::uint64_t{1} << order);
        }
      }
      for (unsigned cpu = 0; cpu < zone.cpus(); ++cpu) {
        for (unsigned i = 0; i < kNrPcpLists; ++i) {
          const unsigned order = i == kNrLowOrderPcpLists ? kPageblockOrder.value() : i / kMigratePcpTypes;
          for (const Page& page : zone.pcp(cpu).lists[i]) mark(page, std::uint64_t{1} << order);
        }
      }
    });
    return free;
  }

  std::vector<bool> movable_frames() const {
    std::vector<bool> movable(kFrames, false);
    for (const auto& [pfn, mark] : mover_->pages()) movable[index_of(pfn)] = true;
    return movable;
  }

  // Everything managed is free, on a per-CPU list, isolated, or somebody's.
  void check_sums() {
    std::uint64_t known = kernel_pages_ + mover_->pages().size();
    for (const auto* runs : {&contig_, &cma_}) {
      for (const Run& run : *runs) known += run.pfns.size();
    }
    mem_->for_each_populated_zone([&](Zone& zone) {
      known += zone.free_pages();
      for (unsigned cpu = 0; cpu < zone.cpus(); ++cpu) known += static_cast<std::uint64_t>(zone.pcp(cpu).count);
      for (unsigned order = 0; order < kNrOrders && zone.has_isolate_pageblock(); ++order) {
        known += zone.free_area(Order(order)).list(MigrateType::kIsolate).count() << order;
      }
    });
    const std::uint64_t memmap = mem_->totalram_pages() - known;
    std::uint64_t added = 0;
    for (const auto& [id, block] : mem_->hotplug().blocks()) added += id >= kFirstBlock ? 1 : 0;
    ASSERT_EQ(memmap, added == 0 ? 0 : added * 512 + 1);
  }

  void check_frames() {
    mem_->validate();
    mem_->iomem().validate();
    ASSERT_TRUE(mover_->intact());
    const std::vector<bool> free = free_frames();
    const std::vector<bool> movable = movable_frames();
    for (std::uint64_t i = 0; i < kFrames; ++i) {
      const bool there = mem_->pfn_online(frame_at(i)) && owner_[i] != Owner::kBoot;
      const bool nobodys = owner_[i] == Owner::kNobody && !movable[i];
      if (free[i] != (there && nobodys)) {
        ADD_FAILURE() << "frame " << frame_at(i).value() << (free[i] ? " is free" : " is not free") << ", owner "
                      << static_cast<int>(owner_[i]);
        return;
      }
    }
  }

  void give_everything_back() {
    while (!isolated_.empty()) unisolate();
    while (!kernel_.empty()) give_kernel();
    while (!contig_.empty()) give_contig();
    while (!cma_.empty()) give_cma();
    mover_->clear();
    MemoryHotplug& plug = mem_->hotplug();
    // Struct Pages of one block may lie in another: as often as there are blocks.
    for (std::uint64_t round = 0; round < kBlocks; ++round) {
      for (std::uint64_t id = kFirstBlock; id < kFirstBlock + kBlocks; ++id) {
        if (!plug.blocks().contains(id)) continue;
        if (plug.offline_and_remove_memory(PhysAddr(id * kBlock), kBlock)) settle(4, 1);
      }
    }
    check_sums();
    check_frames();
  }

  Run take_from(std::vector<Run>& runs) {
    const std::size_t i = rng_.below(runs.size());
    const Run run = runs[i];
    runs[i] = runs.back();
    runs.pop_back();
    return run;
  }

  Rng rng_;
  PhysConfig config_;
  TraceRegistry traces_;
  std::unique_ptr<sim::Scheduler> scheduler_;
  std::unique_ptr<PhysMem> mem_;
  sim::FaultInjection faults_;
  std::unique_ptr<FakeMover> mover_;
  std::vector<Owner> owner_;
  std::vector<Run> kernel_;
  std::vector<Run> contig_;
  std::vector<Run> cma_;
  std::vector<Run> isolated_;
  std::uint64_t kernel_pages_ = 0;
  Done done_{};
};

TEST(HotplugProperty, AgreesWithTheNaiveModel) {
  constexpr std::uint64_t kSeeds = 11;
  const std::uint64_t normal = kEveryCheckIsOn ? 22'000 : 110'000;
  const std::uint64_t ops = from_environment("QUIRE_OPS", normal);
  const std::uint64_t first = from_environment("QUIRE_SEED", 1);
  Model::Done done{};
  for (std::uint64_t seed = first; seed < first + kSeeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Model model(seed);
    model.run(ops / kSeeds);
    if (HasFailure()) return;
    for (std::size_t i = 0; i < done.size(); ++i) done[i] += model.done()[i];
  }
  // Nothing is tested by what always fails.
  for (std::size_t i = 0; i < done.size() && ops >= normal; ++i) EXPECT_GE(done[i], ops / 5'000) << "kind " << i;
  fmt::print("worked: {}\n", fmt::join(done, " "));
}

}  // namespace
}  // namespace quire::phys
