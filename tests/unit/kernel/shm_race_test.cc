// System V shared memory between processes and threads that call at the same moment, on two CPUs, preempted wherever that may be.
#include <array>
#include <optional>

#include "quire/kernel/shm.h"
#include "small_machine.h"

namespace quire::kernel {
namespace {

constexpr ShmGet kNew = ShmGet::kCreat | static_cast<ShmGet>(0600);
constexpr VirtAddr kAt{0x10000000};
constexpr std::uint64_t kSeeds = 20;
constexpr std::int32_t kKeys = 20;

std::unique_ptr<Machine> boot_two_cpus(std::uint64_t seed) { return boot_small(16 * kMiB, 2, 500, seed); }

// Each of two processes asks for each key; what they got.
using Ids = std::array<std::array<Result<std::int32_t>, kKeys>, 2>;
Ids both_ask_for_each_key(Machine& machine, ShmGet flags, std::array<std::uint64_t, 2> sizes) {
  Ids ids{};
  for (std::size_t who = 0; who < 2; ++who) {
    start(machine, "asks", [&machine, &ids, who, flags, sizes](Process& self) {
      for (std::int32_t key = 1; key <= kKeys; ++key)
        ids[who][static_cast<std::size_t>(key - 1)] = machine.shm().shmget(self, key, sizes[who], flags);
    });
  }
  EXPECT_TRUE(machine.run().done());
  machine.shm().validate();
  machine.validate();
  return ids;
}

TEST(ShmRace, OneOfTwoWhoCreateAKeyForThemselvesIsRefused) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    const auto machine = boot_two_cpus(seed);
    const Ids ids = both_ask_for_each_key(*machine, kNew | ShmGet::kExcl, {5000, 5000});
    for (std::size_t key = 0; key < kKeys; ++key) {
      ASSERT_NE(ids[0][key].has_value(), ids[1][key].has_value());
      EXPECT_EQ((ids[0][key] ? ids[1] : ids[0])[key].error(), Errno::kExist);
    }
    EXPECT_EQ(machine->shm().shm_info().used_ids, static_cast<std::uint64_t>(kKeys));
    EXPECT_EQ(machine->vfs().open_files(), static_cast<std::uint64_t>(kKeys));
  }
}

TEST(ShmRace, TwoWhoCreateAKeyShareItsSegmentWhereItIsLargeEnough) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    const auto machine = boot_two_cpus(seed);
    const Ids ids = both_ask_for_each_key(*machine, kNew, {5000, 6000});
    for (std::size_t key = 0; key < kKeys; ++key) {
      ASSERT_TRUE(ids[0][key]);  // who wants less
      if (!ids[1][key]) {
        EXPECT_EQ(ids[1][key].error(), Errno::kInval);
      } else {
        EXPECT_EQ(*ids[0][key], *ids[1][key]);
      }
    }
  }
}

TEST(ShmRace, LimitsHoldForAllWhoCreateAtOnce) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    const auto machine = boot_two_cpus(seed);
    machine->shm().limits().shmall = 11;
    unsigned made = 0;
    for (unsigned who = 0; who < 2; ++who) {
      start(*machine, "asks", [&](Process& self) {
        for (unsigned i = 0; i < 8; ++i) made += machine->shm().shmget(self, kIpcPrivate, 2 * kPageSize, kNew) ? 1 : 0;
      });
    }
    ASSERT_TRUE(machine->run().done());
    EXPECT_EQ(made, 5u);
    EXPECT_EQ(machine->shm().shm_info().shm_tot, 10u);
    machine->shm().validate();
  }
}

// Two threads let go of one attachment while a third maps into the hole: one of the two finds nothing, and the mapping stays.
TEST(ShmRace, DetachingTakesNothingButTheSegment) {
  for (std::uint64_t seed = 1; seed <= 5 * kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    const auto machine = boot_two_cpus(seed);
    ProcessTable& table = machine->processes();
    vm::Vm& vm = machine->vm();
    unsigned detached = 0;
    std::optional<VirtAddr> mapped;
    start(*machine, "detaches", [&](Process& self) {
      Shm& shm = machine->shm();
      const std::int32_t id = *shm.shmget(self, kIpcPrivate, 4 * kPageSize, kNew);
      ASSERT_EQ(shm.shmat(self, id, kAt, ShmAt::kNone), kAt);
      const auto detach = [&] { detached += shm.shmdt(self, kAt) ? 1 : 0; };
      const auto map = [&] {
        for (unsigned tries = 0; tries < 200 && !mapped; ++tries) {
          const auto at =
              vm.mmap(*self.mm, kAt, 4 * kPageSize, vm::Prot::kRead,
                      vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous | vm::MapFlags::kFixedNoReplace, nullptr, 0);
          if (at) mapped = *at;
        }
      };
      unsigned left = 2;
      const auto in_thread = [&](auto body) {
        ASSERT_TRUE(table.clone_thread(self, [&, body](Thread& thread) {
          body();
          --left;
          table.exit_thread(thread, {});
        }));
      };
      in_thread(map);
      in_thread(detach);
      detach();
      while (left != 0) machine->scheduler().sleep_for(sim::kMicrosecond);
      EXPECT_EQ(detached, 1u);
      EXPECT_EQ(self.mm->mm_vmas.lookup(kAt) != nullptr, mapped.has_value());
    });
    ASSERT_TRUE(machine->run().done());
    machine->shm().validate();
    machine->validate();
  }
}

}  // namespace
}  // namespace quire::kernel
