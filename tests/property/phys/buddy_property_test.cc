// Random allocations and frees against a naive model: the set of pages that are in use. Nothing is handed out twice,
// nothing is lost, every block is aligned and inside one zone, and the structure is valid all along.
//
//   QUIRE_OPS, QUIRE_SEED    how many operations in all (120,000), and the first seed (1)
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "effort.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"

namespace quire::phys {
namespace {

struct Block {
  Page* page;
  Order order;
};

class Model {
 public:
  explicit Model(std::uint64_t seed) : rng_(seed) {
    config_.ram_bytes = (48 + rng_.below(4) * 16) * kMiB;
    config_.kernel_reserved = 8 * kMiB;
    config_.cpus = 1 + static_cast<unsigned>(rng_.below(3));
    if (rng_.chance(1, 2)) config_.nodes.resize(1 + rng_.below(3));
    config_.deferred_init = rng_.chance(1, 2) ? DeferredInit::kOn : DeferredInit::kOff;
    scheduler_ =
        std::make_unique<sim::Scheduler>(sim::SchedulerConfig{.cpus = config_.cpus, .seed = seed}, sim::CostModel{}, traces_);
    auto booted = PhysMem::boot(config_, *scheduler_, traces_);
    if (!booted) ADD_FAILURE() << booted.error().message;
    mem_ = std::move(*booted);
    used_.resize(mem_->max_pfn().value());
    total_ = mem_->meminfo().freeram;
  }

  void run(std::uint64_t ops) {
    // One task on each CPU in turn, so that every CPU's lists are used.
    for (unsigned cpu = 0; cpu < config_.cpus; ++cpu) {
      scheduler_->spawn("worker", [this, n = ops / config_.cpus] { work(n); }, {.cpu = cpu});
    }
    EXPECT_TRUE(scheduler_->run().done());
    while (!blocks_.empty()) release(blocks_.size() - 1);
    mem_->drain_all_pages();
    mem_->validate();
    EXPECT_EQ(mem_->meminfo().freeram, total_);
    const auto& events = mem_->vmstat();
    EXPECT_EQ(events[VmEvent::kPgallocDma] + events[VmEvent::kPgallocDma32] + events[VmEvent::kPgallocNormal],
              events[VmEvent::kPgfree]);
  }

 private:
  void work(std::uint64_t ops) {
    for (std::uint64_t i = 0; i < ops && !::testing::Test::HasFatalFailure(); ++i) {
      const bool grow = in_use_ < total_ * (rng_.below(100)) / 100;
      ++in_flight_;
      grow || blocks_.empty() ? allocate() : release(rng_.below(blocks_.size()));
      --in_flight_;
      if (rng_.chance(1, 500)) mem_->drain_all_pages();
      if (rng_.chance(1, 50)) scheduler_->yield();
      if (i % validate_every() == 0) check();
    }
  }

  static std::uint64_t validate_every() {
#ifdef QUIRE_DEBUG
    return 100;
#else
    return 1000;
#endif
  }

  void allocate() {
    constexpr std::array<Gfp, 5> kKinds = {Gfp::kNoWait, Gfp::kNoWait | Gfp::kReclaimable,
                                           Gfp::kHighUserMovable & ~Gfp::kDirectReclaim, Gfp::kAtomic,
                                           Gfp::kNoWait | Gfp::kBareDma};
    Gfp gfp = kKinds[rng_.below(kKinds.size())];
    const Order order(rng_.chance(3, 4) ? 0 : static_cast<unsigned>(rng_.below(kNrOrders)));
    if (rng_.chance(1, 3)) gfp |= Gfp::kComp;
    const Nid nid = rng_.chance(1, 4) ? Nid(static_cast<int>(rng_.below(mem_->nodes().size()))) : kNoNode;
    Page* page = mem_->alloc_pages(gfp, order, nid);
    if (page == nullptr) return;
    const Pfn pfn = mem_->page_to_pfn(*page);
    ASSERT_EQ(pfn.value() % order.pages(), 0u);
    ASSERT_EQ(page->refcount, 1);
    const Zone& zone = mem_->page_zone(*page);
    ASSERT_TRUE(zone.spans(pfn) && zone.spans(pfn + order.pages() - 1));
    ASSERT_TRUE(zone.type() == ZoneType::kDma || !any(gfp, Gfp::kBareDma));
    for (std::uint64_t i = 0; i < order.pages(); ++i) {
      ASSERT_FALSE(used_[pfn.value() + i]) << "pfn " << pfn.value() + i << " handed out twice";
      used_[pfn.value() + i] = true;
    }
    in_use_ += order.pages();
    blocks_.push_back({page, order});
  }

  void release(std::size_t i) {
    const Block block = blocks_[i];
    blocks_[i] = blocks_.back();
    blocks_.pop_back();
    const Pfn pfn = mem_->page_to_pfn(*block.page);
    for (std::uint64_t p = 0; p < block.order.pages(); ++p) used_[pfn.value() + p] = false;
    in_use_ -= block.order.pages();
    if (block.order.value() != 0 && !block.page->is_compound() && rng_.chance(1, 4)) {
      mem_->split_page(*block.page, block.order);
      for (std::uint64_t p = 0; p < block.order.pages(); ++p) mem_->free_page(block.page[p]);
    } else {
      mem_->free_pages(*block.page, block.order);
    }
  }

  void check() {
    mem_->validate();
    std::uint64_t listed = 0;
    for (const auto& node : mem_->nodes()) {
      node->for_each_zone([&](const Zone& zone) {
        for (unsigned cpu = 0; cpu < zone.cpus(); ++cpu) listed += static_cast<std::uint64_t>(zone.pcp(cpu).count);
      });
    }
    // Another CPU's task may stand at a lock in the middle of an operation.
    if (in_flight_ != 0) return;
    ASSERT_EQ(mem_->meminfo().freeram + listed + in_use_, total_);
  }

  Rng rng_;
  PhysConfig config_;
  TraceRegistry traces_;
  std::unique_ptr<sim::Scheduler> scheduler_;
  std::unique_ptr<PhysMem> mem_;
  std::vector<bool> used_;
  std::vector<Block> blocks_;
  std::uint64_t in_use_ = 0;
  unsigned in_flight_ = 0;
  std::uint64_t total_ = 0;
};

TEST(BuddyProperty, AgreesWithTheNaiveModel) {
  constexpr std::uint64_t kSeeds = 12;
  const std::uint64_t ops = from_environment("QUIRE_OPS", 120'000, 60'000);
  const std::uint64_t first = from_environment("QUIRE_SEED", 1);
  for (std::uint64_t seed = first; seed < first + kSeeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Model(seed).run(ops / kSeeds);
    if (HasFailure()) return;
  }
}

// The same seed repeats to the last counter.
TEST(BuddyProperty, SameSeedSameCounters) {
  const auto counters = [](std::uint64_t seed) {
    Rng rng(seed);
    PhysConfig config;
    config.ram_bytes = 64 * kMiB;
    config.kernel_reserved = 8 * kMiB;
    TraceRegistry traces;
    sim::Scheduler scheduler({.seed = seed}, sim::CostModel{}, traces);
    auto mem = std::move(*PhysMem::boot(config, scheduler, traces));
    std::vector<Block> blocks;
    std::uint64_t sum = 0;
    for (int i = 0; i < 5000; ++i) {
      if (rng.chance(1, 2) || blocks.empty()) {
        const Order order(static_cast<unsigned>(rng.below(5)));
        Page* page = mem->alloc_pages(Gfp::kNoWait, order);
        if (page == nullptr) continue;
        sum = sum * 31 + mem->page_to_pfn(*page).value();
        blocks.push_back({page, order});
      } else {
        mem->free_pages(*blocks.back().page, blocks.back().order);
        blocks.pop_back();
      }
    }
    return std::pair(sum, scheduler.now());
  };
  EXPECT_EQ(counters(5), counters(5));
  EXPECT_NE(counters(5), counters(6));
}

}  // namespace
}  // namespace quire::phys
