// Processes on several CPUs that make, attach, fork, cut, move, grow, detach and remove segments of a few keys as the seed draws.
// When all have done their part and still have their attachments, these are counted; when all have ended, nothing may be left.
#include <fmt/format.h>

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

#include "races.h"

namespace quire::kernel::test {
namespace {

using vm::MremapFlags;

constexpr unsigned kProcesses = 3;
constexpr unsigned kActs = 40;
constexpr ShmGet kNew = ShmGet::kCreat | static_cast<ShmGet>(0600);

constexpr RaceMachine kMachine{.ram = 16 * kMiB, .kernel_reserved = 2 * kMiB, .swap = RaceMachine::Swap::kNo};

class ShmRaces {
 public:
  ShmRaces(Machine& machine, std::uint64_t seed) : machine_(machine), seed_(seed) {}

  void run() {
    for (unsigned i = 0; i < kProcesses; ++i) {
      ASSERT_TRUE(machine_.processes().create("shm", [this, i](Thread& thread) { live(thread, seed_ * 100 + i); }));
    }
    if (!run_until(machine_, [this] { return waiting_ == kProcesses; })) return;
    static_cast<void>(machine_.scheduler().run_until(machine_.scheduler().now() + 50 * sim::kMillisecond));  // children end
    machine_.shm().validate();
    over_ = true;
    ASSERT_TRUE(machine_.run().done());
    machine_.shm().validate();
    machine_.validate();
    for (std::int32_t index = machine_.shm().max_index(); index >= 0; --index) {
      const auto stat = machine_.shm().shm_stat(index);
      if (!stat) continue;
      EXPECT_EQ(stat->nattch, 0u);
      EXPECT_TRUE(machine_.shm().ipc_rmid(stat->id));
    }
    EXPECT_EQ(machine_.shm().shm_info().used_ids, 0u);
    EXPECT_EQ(machine_.shm().shm_info().shm_tot, 0u);
    EXPECT_EQ(machine_.vfs().open_files(), 0u);
  }

  std::uint64_t attached = 0;
  std::uint64_t removed = 0;

 private:
  struct Attachment {
    VirtAddr at;
    std::int32_t id;
  };

  void live(Thread& thread, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<Attachment> mine;
    for (unsigned i = 0; i < kActs; ++i) act(*thread.process, rng, mine);
    ++waiting_;
    while (!over_) machine_.scheduler().sleep_for(100 * sim::kMicrosecond);
    machine_.processes().exit_thread(thread, {});
  }

  void act(Process& self, Rng& rng, std::vector<Attachment>& mine) {
    vm::Vm& vm = machine_.vm();
    Shm& shm = machine_.shm();
    if (rng.chance(1, 3) || mine.empty()) return attach(self, rng, mine);
    const std::size_t which = rng.below(mine.size());
    const Attachment one = mine[which];
    switch (rng.below(7)) {
      case 0: removed += shm.ipc_rmid(one.id) ? 1 : 0; return;
      case 1: return fork_and_act(self, rng, mine);
      case 2: static_cast<void>(vm.munmap(*self.mm, one.at + kPageSize, kPageSize)); return;
      case 3: static_cast<void>(vm.mremap(*self.mm, one.at, kPageSize, 6 * kPageSize, MremapFlags::kNone)); return;
      case 4: {
        const auto moved = vm.mremap(*self.mm, one.at, 2 * kPageSize, 3 * kPageSize, MremapFlags::kMayMove);
        if (moved) mine.push_back({*moved, one.id});
        return;
      }
      default: static_cast<void>(shm.shmdt(self, one.at)); mine.erase(mine.begin() + static_cast<std::ptrdiff_t>(which));
    }
  }

  // What is attached bears its own id or, when it is new, none.
  void attach(Process& self, Rng& rng, std::vector<Attachment>& mine) {
    Shm& shm = machine_.shm();
    const auto key = static_cast<std::int32_t>(rng.below(4));
    const auto id = shm.shmget(self, key, (1 + rng.below(4)) * kPageSize, rng.chance(1, 4) ? kNew | ShmGet::kExcl : kNew);
    if (!id) return;
    const auto at = shm.shmat(self, *id, VirtAddr(0), ShmAt::kNone);
    if (!at) return;
    ++attached;
    mine.push_back({*at, *id});
    std::int32_t seen = -1;
    vm::Vm& vm = machine_.vm();
    ASSERT_EQ(vm.copy_from_user(*self.mm, std::as_writable_bytes(std::span(&seen, 1)), *at), sizeof seen);
    EXPECT_TRUE(seen == 0 || seen == *id + 1) << seen << " in segment " << *id;
    seen = *id + 1;
    ASSERT_EQ(vm.copy_to_user(*self.mm, *at, std::as_bytes(std::span(&seen, 1))), sizeof seen);
  }

  // The child ends with what it inherited and attached itself.
  void fork_and_act(Process& self, Rng& rng, const std::vector<Attachment>& mine) {
    const std::uint64_t seed = rng();
    const auto child = machine_.processes().fork(self, [this, seed, inherited = mine](Thread& thread) {
      Rng random(seed);
      std::vector<Attachment> own = inherited;
      for (unsigned i = 0; i < 4; ++i) {
        if (random.chance(1, 2)) attach(*thread.process, random, own);
        if (!own.empty() && random.chance(1, 2)) static_cast<void>(machine_.shm().shmdt(*thread.process, own.back().at));
      }
      machine_.processes().exit_thread(thread, {});
    });
    if (child && rng.chance(1, 2)) static_cast<void>(machine_.processes().wait(self, **child));
  }

  Machine& machine_;
  std::uint64_t seed_;
  unsigned waiting_ = 0;
  bool over_ = false;
};

TEST(ShmRaces, AreasAndCountsAgreeWhoeverComesFirst) {
  std::uint64_t attached = 0;
  std::uint64_t removed = 0;
  const std::uint64_t seeds = for_race_seeds(kMachine, 60, 12, [&](Machine& machine, std::uint64_t seed) {
    ShmRaces races(machine, seed);
    races.run();
    attached += races.attached;
    removed += races.removed;
  });
  if (HasFailure()) return;
  EXPECT_GT(attached, seeds * 20);
  EXPECT_GT(removed, seeds * 3);
}

}  // namespace
}  // namespace quire::kernel::test
