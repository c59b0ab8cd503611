// Threads of two processes that fork, copy on write, unmap, move and page out the same few pages at the same moment. They act in
// rounds: all of them act at once, from starting times that the seed draws, and when the last is done the whole machine is
// validated and every byte is looked at.
//
// Each thread owns eight bytes of each page and writes a number there that only grows. What a read may find is what was written
// last, or 0 where the page was thrown away in the same round, while it was being written.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <set>

#include "quire/sim/wait_queue.h"
#include "races.h"

namespace quire::kernel::test {
namespace {

using arch::Access;
using vm::Advice;
using vm::MapFlags;
using vm::Prot;

constexpr std::uint64_t kPages = 12;
constexpr unsigned kThreads = 4;
constexpr std::size_t kKinds = 9;  // of acts
constexpr unsigned kRounds = 60;
constexpr sim::Nanos kStart = 100 * sim::kMicrosecond;  // a round may begin at its multiples
constexpr Prot kReadWrite = Prot::kRead | Prot::kWrite;

constexpr RaceMachine kMachine{.least_cpus = 1};

// What may be found in one thread's part of one page; of each thread in each page.
using Possible = std::set<std::uint64_t>;
using Contents = std::array<std::array<Possible, kPages>, kThreads>;

class Race {
 public:
  Race(Machine& machine, std::uint64_t seed) : machine_(machine), seed_(seed), rng_(seed) {}

  void run() {
    const auto made = machine_.processes().create("races", [this](Thread& thread) { start(thread); });
    ASSERT_TRUE(made.has_value());
    for (unsigned round = 1; round <= kRounds && !testing::Test::HasFatalFailure(); ++round) {
      finished_ = 0;
      round_ = round;
      if (!run_until(machine_, [this] { return finished_ == kThreads; })) return;
      SCOPED_TRACE(fmt::format("round {}: {}", round, fmt::join(doing_, ", ")));
      machine_.settle();
      machine_.validate();
      if (!look_at_everything()) return;
    }
    round_ = kRounds + 1;
    over_ = true;
    ASSERT_TRUE(machine_.run().done());
    machine_.settle();
    machine_.validate();
  }

  std::array<std::uint64_t, kKinds> done{};  // how often each kind of act was done

 private:
  // In the first thread: the pages, then the others.
  void start(Thread& thread) {
    process_ = thread.process;
    map_anew();
    for (unsigned i = 1; i < kThreads; ++i) {
      const auto made = machine_.processes().clone_thread(*process_, [this, i](Thread& other) { act_in_rounds(other, i); });
      ASSERT_TRUE(made.has_value());
    }
    act_in_rounds(thread, 0);
  }

  void map_anew() {
    const auto at = machine_.vm().mmap(mm(), VirtAddr(0), kPages * kPageSize, kReadWrite,
                                       MapFlags::kAnonymous | MapFlags::kPrivate, nullptr, 0);
    ASSERT_TRUE(at.has_value());
    base_ = *at;
  }

  void act_in_rounds(Thread& thread, unsigned self) {
    Rng rng(seed_ * 100 + self);
    for (unsigned round = 1; !over_; ++round) {
      sim::Scheduler& scheduler = machine_.scheduler();
      while (round_ < round) scheduler.sleep_until((scheduler.now() / kStart + 1) * kStart);
      if (over_) break;
      scheduler.sleep_for(rng.below(4000));  // within what one act takes
      act(self, rng);
      ++finished_;
    }
    machine_.processes().exit_thread(thread, {});
  }

  void act(unsigned self, Rng& rng) {
    const std::uint64_t page = rng.below(kPages);
    const std::uint64_t count = 1 + rng.below(kPages - page);
    const VirtAddr at = base_ + page * kPageSize;
    const std::uint64_t bytes = count * kPageSize;
    constexpr std::array<std::string_view, kKinds> kNames{"write",   "write", "fork", "drop", "page out",
                                                          "protect", "remap", "pin",  "read"};
    const auto kind = static_cast<unsigned>(rng.below(kNames.size()));
    doing_[self] = fmt::format("{} {}+{}", kNames[kind], page, count);
    ++done[kind];
    switch (kind) {
      case 0:
      case 1:
        for (std::uint64_t i = page; i < page + count; ++i) write(self, i);
        return;
      case 2: return fork_and_look();
      case 3: return drop(at, page, count);
      case 4: return void(machine_.vm().madvise(mm(), at, bytes, Advice::kPageOut));
      case 5:  // and back: for a moment writes are refused
        static_cast<void>(machine_.vm().mprotect(mm(), at, bytes, Prot::kRead));
        static_cast<void>(machine_.vm().mprotect(mm(), at, bytes, kReadWrite));
        return;
      case 6: return map_over(at, page, count);
      case 7: return pin_and_write(self, page);
      default:
        for (std::uint64_t i = page; i < page + count; ++i)
          static_cast<void>(machine_.vm().access(mm(), base_ + i * kPageSize, Access::kRead));
    }
  }

  void write(unsigned self, std::uint64_t page) {
    const VirtAddr address = base_ + page * kPageSize + self * sizeof(std::uint64_t);
    const std::uint64_t number = ++next_;
    // While another protects or maps over it, the write may be refused.
    may_be(self, page, number);
    const vm::AccessOutcome outcome = machine_.vm().access(mm(), address, Access::kWrite);
    if (!outcome.ok()) {
      possible_[self][page].erase(number);
      return;
    }
    std::memcpy(machine_.vm().to_host(outcome.phys), &number, sizeof number);
    // What was there before is gone, unless somebody throws the page away from now on.
    possible_[self][page] = {number};
  }

  // From now on it may be found, also in copies that are being made.
  void may_be(unsigned owner, std::uint64_t page, std::uint64_t number) {
    possible_[owner][page].insert(number);
    for (Contents* copied : copies_) (*copied)[owner][page].insert(number);
  }

  // The pages are zero from some moment of `act` on; a write in the same round came before it or after.
  void throw_away(std::uint64_t page, std::uint64_t count, const std::function<void()>& act) {
    const auto may_be_zero = [&](int going) {
      for (std::uint64_t i = page; i < page + count; ++i) {
        thrown_away_[i] = true;
        being_thrown_away_[i] += going;
        for (unsigned owner = 0; owner < kThreads; ++owner) may_be(owner, i, 0);
      }
    };
    may_be_zero(1);
    act();
    may_be_zero(-1);
  }
  void drop(VirtAddr at, std::uint64_t page, std::uint64_t count) {
    throw_away(page, count, [&] { static_cast<void>(machine_.vm().madvise(mm(), at, count * kPageSize, Advice::kDontNeed)); });
  }
  void map_over(VirtAddr at, std::uint64_t page, std::uint64_t count) {
    throw_away(page, count, [&] {
      static_cast<void>(machine_.vm().mmap(mm(), at, count * kPageSize, kReadWrite,
                                           MapFlags::kAnonymous | MapFlags::kPrivate | MapFlags::kFixed, nullptr, 0));
    });
  }

  // A device that writes to the page's frame behind the process's back, for as long as it holds a pin.
  void pin_and_write(unsigned self, std::uint64_t page) {
    std::array<phys::Page*, 1> pages{};
    if (!machine_.vm().pin_user_pages(mm(), base_ + page * kPageSize, pages, Access::kWrite)) return;
    machine_.scheduler().sleep_for(2000);
    const std::uint64_t number = ++next_;
    // Where the page was thrown away the process has another one by now, or will have.
    if (!thrown_away_[page]) possible_[self][page].clear();
    may_be(self, page, number);
    auto* bytes = static_cast<std::byte*>(machine_.phys().page_address(*pages[0]));
    std::memcpy(bytes + self * sizeof number, &number, sizeof number);
    machine_.scheduler().sleep_for(2000);
    machine_.vm().unpin_user_pages_dirty_lock(pages);
  }

  // What is there now, or, where pages are on their way out, may be.
  [[nodiscard]] Contents contents_now() const {
    Contents contents = possible_;
    for (auto& parts : contents) {
      for (std::uint64_t page = 0; page < kPages; ++page) {
        if (parts[page].empty() || being_thrown_away_[page] != 0) parts[page].insert(0);
      }
    }
    return contents;
  }

  // A copy of the address space, which nobody else writes to: it holds what was there while it was made, and that does not change
  // while the others go on.
  void fork_and_look() {
    Contents copied = contents_now();
    copies_.insert(&copied);
    const auto copy = machine_.vm().dup_mm(mm());
    copies_.erase(&copied);
    if (!copy) return;
    vm::Mm& child = **copy;
    for (int look = 0; look < 2; ++look) {
      for (unsigned owner = 0; owner < kThreads; ++owner) {
        for (std::uint64_t page = 0; page < kPages; ++page) {
          const auto found = read(child, owner, page);
          if (!found) continue;  // its area was being mapped over when the copy was made, or memory ran out
          Possible& may = copied[owner][page];
          EXPECT_TRUE(may.contains(*found)) << "look " << look << " at a child's page " << page << ", thread " << owner << ": "
                                            << *found << " is none of " << testing::PrintToString(may);
          may = {*found};
        }
      }
      machine_.scheduler().sleep_for(5000);
    }
    machine_.vm().mmput(child);
  }

  [[nodiscard]] std::optional<std::uint64_t> read(vm::Mm& mm, unsigned owner, std::uint64_t page) {
    const vm::AccessOutcome outcome =
        machine_.vm().access(mm, base_ + page * kPageSize + owner * sizeof(std::uint64_t), Access::kRead);
    if (!outcome.ok()) return std::nullopt;
    std::uint64_t number = 0;
    std::memcpy(&number, machine_.vm().to_host(outcome.phys), sizeof number);
    return number;
  }

  // Between rounds, in a thread of its own.
  [[nodiscard]] bool look_at_everything() {
    bool looked = false;
    thrown_away_ = {};
    machine_.scheduler().spawn("look", [&] {
      for (unsigned owner = 0; owner < kThreads; ++owner) {
        for (std::uint64_t page = 0; page < kPages; ++page) {
          const auto found = read(mm(), owner, page);
          if (!found) {
            ADD_FAILURE() << "page " << page << " cannot be read";
            continue;
          }
          Possible& possible = possible_[owner][page];
          if (possible.empty()) possible.insert(0);
          EXPECT_TRUE(possible.contains(*found)) << "page " << page << ", thread " << owner << ": " << *found << " is none of "
                                                 << testing::PrintToString(possible);
          possible = {*found};
        }
      }
      looked = true;
    });
    return run_until(machine_, [&] { return looked; });
  }

  [[nodiscard]] vm::Mm& mm() { return *process_->mm; }

  Machine& machine_;
  std::uint64_t seed_;
  Rng rng_;
  Process* process_ = nullptr;
  VirtAddr base_;
  Contents possible_;
  std::set<Contents*> copies_;  // that are being made
  std::array<int, kPages> being_thrown_away_{};
  std::array<bool, kPages> thrown_away_{};  // in this round
  std::array<std::string, kThreads> doing_;
  std::uint64_t next_ = 0;
  unsigned round_ = 0;
  unsigned finished_ = 0;
  bool over_ = false;
};

// Otherwise a test would go on with a machine that stands still, and with tasks that refer to what is gone.
TEST(RunUntil, EndsTheTasksOfAMachineThatStandsStill) {
  const auto machine = Machine::boot(race_machine(1, kMachine)).value();
  bool ended = false;
  struct Leave {
    bool& ended;
    ~Leave() { ended = true; }
  };
  sim::WaitQueue never(machine->scheduler(), "never");
  machine->scheduler().spawn("waits", [&] {
    const Leave leave{ended};
    never.wait();
  });
  bool happened = true;
  EXPECT_NONFATAL_FAILURE(happened = run_until(*machine, [&] { return ended; }), "waits on wait queue 'never'");
  EXPECT_FALSE(happened);
  EXPECT_TRUE(ended);
}

TEST(Races, NoOrderOfEventsBreaksTheMachineOrLosesAByte) {
  std::array<std::uint64_t, kKinds> done{};
  const std::uint64_t seeds = for_race_seeds(kMachine, 60, 12, [&](Machine& machine, std::uint64_t seed) {
    Race race(machine, seed);
    race.run();
    for (std::size_t i = 0; i < done.size(); ++i) done[i] += race.done[i];
  });
  if (HasFailure()) return;
  for (const std::uint64_t times : done) EXPECT_GT(times, seeds * 10);
}

}  // namespace
}  // namespace quire::kernel::test
