// Tasks of several processes that guard, free, drop, lock, seal, move and fork the same memory, and read and write each
// other's, on a few CPUs of a machine that is short of memory. They act in rounds; after each the machine is validated and every
// byte is looked at. What a byte may be, plots.h says. QUIRE_SEEDS=1000 runs more; QUIRE_SEED=17 starts there.
#include <fmt/format.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "plot_actor.h"
#include "races.h"

namespace quire::kernel::test {
namespace {

using vm::MapFlags;
using vm::Prot;

constexpr unsigned kRounds = 12;
constexpr std::uint64_t kShort = 3;  // of so many machines one has no swap, so that somebody is killed
constexpr RaceMachine kMachine{.more = [](MachineConfig& config, Rng&) {
  if (config.seed % kShort == 0) config.swap.clear();
}};

// Memory that makes reclaim work all the time: more than there is, written and looked at page by page.
class Pressure {
 public:
  Pressure(Fray& fray, std::uint64_t pages) : fray_(fray), numbers_(pages), rng_(fray.seed) {}

  void run(Thread& thread) {
    Process& self = *thread.process;
    self.oom_score_adj = 1000;  // the first to go
    vm::Vm& vm = fray_.machine.vm();
    const auto at = vm.mmap(*self.mm, VirtAddr(0), numbers_.size() * kPageSize, Prot::kRead | Prot::kWrite,
                            MapFlags::kPrivate | MapFlags::kAnonymous | MapFlags::kNoReserve, nullptr, 0);
    for (unsigned round = 1; at && fray_.wait_for_round(round, self); ++round) {
      for (unsigned i = 0; i < 400 && !self.killed(); ++i) touch(*self.mm, *at);
      if (self.killed()) break;
      ++fray_.finished;
    }
    fray_.killed += self.killed() ? 1 : 0;
    --fray_.living;
    fray_.machine.processes().exit_thread(thread, {});
  }

 private:
  void touch(vm::Mm& mm, VirtAddr base) {
    vm::Vm& vm = fray_.machine.vm();
    const std::uint64_t page = rng_.below(numbers_.size());
    const vm::AccessOutcome outcome = vm.access(mm, base + page * kPageSize, arch::Access::kWrite);
    if (!outcome.ok()) return;
    Number found = 0;
    std::byte* bytes = vm.to_host(outcome.phys);
    std::memcpy(&found, bytes, sizeof found);
    if (found != numbers_[page]) fray_.mismatch(fmt::format("pressure: page {} holds {}, not {}", page, found, numbers_[page]));
    numbers_[page] = ++fray_.next;
    std::memcpy(bytes, &numbers_[page], sizeof found);
  }

  Fray& fray_;
  std::vector<Number> numbers_;
  Rng rng_;
};

class PlotRaces {
 public:
  PlotRaces(Machine& machine, std::uint64_t seed) : fray(machine, seed), machine_(machine), rng_(seed) {}

  void run() {
    start();
    for (unsigned round = 1; round <= kRounds; ++round) {
      fray.finished = 0;
      fray.round = round;
      if (!run_until(machine_, [this] { return fray.finished >= fray.living; })) return;
      SCOPED_TRACE(fmt::format("round {}", round));
      ASSERT_EQ(fray.first_mismatch, "");
      machine_.settle();
      machine_.validate();
      if (!look_at_everything()) return;
      ASSERT_EQ(fray.first_mismatch, "");
    }
    fray.over = true;
    ASSERT_TRUE(machine_.run().done());
    nothing_is_left();
  }

  Fray fray;

 private:
  void start() {
    const unsigned spaces = 1 + static_cast<unsigned>(rng_.below(3));
    machine_.scheduler().spawn("files", [this] { EXPECT_TRUE(fray.new_file()); });
    ASSERT_TRUE(machine_.run().done());
    for (unsigned i = 0; i < spaces; ++i) {
      Space& space = *fray.spaces.emplace_back(std::make_unique<Space>());
      ++fray.living;
      const auto made = machine_.processes().create("plots", [this, &space](Thread& thread) { live(space, thread); });
      ASSERT_TRUE(made.has_value());
      space.process = *made;
    }
    ++fray.living;
    const bool too_much = machine_.swap().si_swapinfo().total == 0;
    const std::uint64_t pages = too_much ? 4000 : 1000 + rng_.below(1500);
    pressure_ = std::make_unique<Pressure>(fray, pages);
    ASSERT_TRUE(machine_.processes().create("pressure", [this](Thread& thread) { pressure_->run(thread); }));
  }

  // Two threads of a process.
  void live(Space& space, Thread& thread) {
    const unsigned first = fray.take_slot();
    const unsigned second = fray.take_slot();
    Actor actor(fray, space, first, fray.seed * 100 + first);
    actor.set_up();
    ++fray.living;
    const auto made = machine_.processes().clone_thread(*space.process, [this, &space, second](Thread& other) {
      Actor(fray, space, second, fray.seed * 100 + second).act(other, 1, kRounds + 1);
    });
    if (!made) --fray.living;
    actor.act(thread, 1, kRounds + 1);
  }

  // Between rounds, in a thread of its own.
  [[nodiscard]] bool look_at_everything() {
    bool looked = false;
    machine_.scheduler().spawn("look", [&] {
      for (const auto& space : fray.spaces) {
        if (!space->lives || space->process->killed()) continue;
        Actor eye(fray, *space, 0, 0);
        for (Plot& plot : space->plots) {
          for (std::uint64_t page = 0; page < kPlotPages && plot.mapped; ++page) eye.look(plot, page);
        }
      }
      looked = true;
    });
    return run_until(machine_, [&] { return looked; });
  }

  void nothing_is_left() {
    for (const auto& file : fray.files) machine_.vfs().fput(*file->file);
    machine_.settle();
    machine_.validate();
    const auto state = [this](phys::NodeStat s) { return machine_.phys().global_node_page_state(s); };
    EXPECT_EQ(state(phys::NodeStat::kNrAnonPages), 0);
    EXPECT_EQ(state(phys::NodeStat::kNrShmem), 0);
    EXPECT_EQ(state(phys::NodeStat::kNrUnevictable), 0);
    EXPECT_EQ(state(phys::NodeStat::kNrKernelStack), 0);
    EXPECT_EQ(state(phys::NodeStat::kNrFollPinAcquired), state(phys::NodeStat::kNrFollPinReleased));
    EXPECT_LE(static_cast<std::uint64_t>(state(phys::NodeStat::kNrPageTablePages)),
              machine_.kernel_space().init_mm().buddy_tables());
    const swap::SwapInfo swap = machine_.swap().si_swapinfo();
    EXPECT_EQ(swap.free + swap.cached, swap.total);
    EXPECT_EQ(machine_.vfs().open_files(), 0u);
    EXPECT_EQ(machine_.vm().commit().committed_as(), 0u);
  }

  Machine& machine_;
  Rng rng_;
  std::unique_ptr<Pressure> pressure_;
};

TEST(PlotRaces, NoOrderOfCallsShowsAByteThatNobodyMayFind) {
  std::array<std::uint64_t, static_cast<std::size_t>(Act::kCount)> done{};
  std::uint64_t killed = 0, refused = 0, short_of_memory = 0, write_sealed = 0;
  std::int64_t swapped_out = 0, lazily_freed = 0;
  const std::uint64_t seeds = for_race_seeds(kMachine, 30, 6, [&](Machine& machine, std::uint64_t seed) {
    PlotRaces races(machine, seed);
    races.run();
    for (std::size_t i = 0; i < done.size(); ++i) done[i] += races.fray.done[i];
    killed += races.fray.killed;
    refused += races.fray.refused;
    short_of_memory += races.fray.short_of_memory;
    write_sealed += races.fray.write_sealed;
    swapped_out += machine.phys().vmstat()[phys::VmEvent::kPswpout];
    lazily_freed += machine.phys().vmstat()[phys::VmEvent::kPglazyfreed];
  });
  fmt::print(
      "{} seeds: {} acts of each kind, {} accesses refused, {} files sealed, {} times short of memory, {} tasks killed, "
      "{} pages swapped out, {} dropped\n",
      seeds, fmt::join(done, " "), refused, write_sealed, short_of_memory, killed, swapped_out, lazily_freed);
  if (HasFailure()) return;
  if (seeds < 6) return;
  for (const std::uint64_t times : done) EXPECT_GT(times, seeds * 2);
  EXPECT_GT(refused, seeds * 100);
  EXPECT_GT(write_sealed, 0u);
  EXPECT_GT(killed, seeds / kShort / 2);
  EXPECT_GT(swapped_out, static_cast<std::int64_t>(seeds) * 100);
  EXPECT_GT(lazily_freed, static_cast<std::int64_t>(seeds) * 10);
}

}  // namespace
}  // namespace quire::kernel::test
