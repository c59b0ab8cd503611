// System V shared memory: what shmget(2), shmop(2) and shmctl(2) promise, one test a promise; and the errnos of the host's kernel
// for the same calls.
#include "quire/kernel/shm.h"

#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "quire/swap/zram.h"
#include "small_machine.h"

namespace quire::kernel {
namespace {

using sim::FaultPoint;

constexpr ShmGet kNew = ShmGet::kCreat | static_cast<ShmGet>(0600);
constexpr VirtAddr kAt{0x10000000};

class ShmTest : public ::testing::Test {
 protected:
  ShmTest() : machine_(boot_with_data()) {}

  void in_process(const std::function<void(Process&)>& body) {
    start(*machine_, "program", body);
    ASSERT_TRUE(machine_->run().done());
    machine_->shm().validate();
    machine_->validate();
  }
  Shm& shm() { return machine_->shm(); }
  vm::Vm& vm() { return machine_->vm(); }
  std::int32_t segment(Process& self, std::uint64_t size, std::int32_t key = kIpcPrivate) {
    return shm().shmget(self, key, size, kNew).value();
  }
  void write(Process& self, VirtAddr at, std::uint8_t value) {
    const auto byte = static_cast<std::byte>(value);
    ASSERT_EQ(vm().copy_to_user(*self.mm, at, std::span(&byte, 1)), 1u);
  }
  int read(Process& self, VirtAddr at) {
    std::byte byte{};
    return vm().copy_from_user(*self.mm, std::span(&byte, 1), at) == 1 ? std::to_integer<int>(byte) : -1;
  }
  // The child runs `body` while its parent waits.
  void in_child(Process& self, const std::function<void(Process&)>& body) {
    ProcessTable& table = machine_->processes();
    Process* child = table
                         .fork(self,
                               [&](Thread& thread) {
                                 body(*thread.process);
                                 table.exit_thread(thread, {});
                               })
                         .value();
    ASSERT_TRUE(table.wait(self, *child));
  }
  std::uint64_t nattch(std::int32_t id) { return shm().ipc_stat(id)->nattch; }

  std::unique_ptr<Machine> machine_;
};

template <class T>
std::string_view error_of(const std::expected<T, Errno>& result) {
  return result ? "none" : errno_name(result.error());
}

// --- shmget ---------------------------------------------------------------------------------------------------------------

TEST_F(ShmTest, AKeyFindsItsSegmentAndPrivateOnesAreAlwaysNew) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 100, 7);
    EXPECT_EQ(shm().shmget(self, 7, 100, ShmGet::kNone).value(), id);
    EXPECT_EQ(shm().shmget(self, 7, 0, ShmGet::kNone).value(), id);
    EXPECT_EQ(shm().shmget(self, 7, 50, kNew).value(), id);
    EXPECT_NE(segment(self, 100), segment(self, 100));
  });
}

TEST_F(ShmTest, ASegmentIsAsPrivateAsItsCreatorSaidAndHasHisNumber) {
  in_process([&](Process& self) {
    machine_->scheduler().sleep_for(3 * sim::kSecond);
    const ShmStat stat = shm().ipc_stat(segment(self, 5000, 7)).value();
    EXPECT_EQ(stat.key, 7);
    EXPECT_EQ(stat.segsz, 5000u);
    EXPECT_EQ(stat.mode, 0600u);
    EXPECT_EQ(stat.cpid, self.pid);
    EXPECT_EQ(stat.lpid, 0);
    EXPECT_EQ(stat.ctime, 3u);
    EXPECT_EQ(stat.atime, 0u);
    EXPECT_EQ(stat.nattch, 0u);
  });
}

TEST_F(ShmTest, LimitsBoundSegments) {
  in_process([&](Process& self) {
    shm().limits() = {.shmmax = 8 * kPageSize, .shmmin = 1, .shmmni = 3, .shmall = 10};
    EXPECT_EQ(error_of(shm().shmget(self, kIpcPrivate, 0, kNew)), "EINVAL");
    EXPECT_EQ(error_of(shm().shmget(self, kIpcPrivate, 8 * kPageSize + 1, kNew)), "EINVAL");
    segment(self, 8 * kPageSize);
    EXPECT_EQ(error_of(shm().shmget(self, kIpcPrivate, 3 * kPageSize, kNew)), "ENOSPC");  // shmall
    segment(self, 1);
    segment(self, 1);
    shm().limits().shmall = 100;
    EXPECT_EQ(error_of(shm().shmget(self, kIpcPrivate, 1, kNew)), "ENOSPC");  // shmmni
    EXPECT_EQ(shm().shm_info().used_ids, 3u);
    EXPECT_EQ(shm().shm_info().shm_tot, 10u);
    EXPECT_EQ(shm().max_index(), 2);
  });
}

TEST_F(ShmTest, AnIdThatIsGoneIsNotSoonAnothers) {
  in_process([&](Process& self) {
    std::set<std::int32_t> ids;
    for (unsigned i = 0; i < 300; ++i) {
      const std::int32_t id = segment(self, 1);
      EXPECT_TRUE(ids.insert(id).second) << id;
      EXPECT_LT(id % 32768, 64);
      ASSERT_TRUE(shm().ipc_rmid(id));
    }
  });
}

TEST_F(ShmTest, MemoryIsPromisedWithTheSegmentUnlessItIsNoreserve) {
  in_process([&](Process& self) {
    const std::uint64_t before = vm().commit().committed_as();
    const std::int32_t id = segment(self, 10 * kPageSize);
    EXPECT_EQ(vm().commit().committed_as(), before + 10);
    ASSERT_TRUE(shm().shmget(self, kIpcPrivate, 10 * kPageSize, kNew | ShmGet::kNoReserve));
    EXPECT_EQ(vm().commit().committed_as(), before + 10);
    ASSERT_TRUE(shm().ipc_rmid(id));
    EXPECT_EQ(vm().commit().committed_as(), before);
  });
}

// Shared memory belongs to no process, but it is the caller's reserve that stays free.
TEST_F(ShmTest, NeverOvercommitLeavesTheCallersReserve) {
  in_process([&](Process& self) {
    constexpr auto kShared = vm::MapFlags::kShared | vm::MapFlags::kAnonymous;
    const auto map = [&](std::uint64_t pages, vm::Prot prot, vm::MapFlags flags) {
      return vm().mmap(*self.mm, VirtAddr(0), pages * kPageSize, prot, flags, nullptr, 0);
    };
    ASSERT_TRUE(map(16384, vm::Prot::kRead, vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous));  // a 32nd: 512 pages
    file::File& memfd = *machine_->vfs().memfd_create("", file::MemfdFlags::kNone).value();
    std::array<std::byte, 1> byte{};
    const auto write_page = [&] {
      file::KernelBuffer from(byte);
      return machine_->vfs().pwrite(memfd, 0, 1, from);
    };
    vm::VmTunables& tunables = vm().tunables();
    tunables.overcommit_memory = vm::OvercommitMode::kNever;
    tunables.admin_reserve_kbytes = 0;
    tunables.user_reserve_kbytes = 1000 * 4;
    tunables.overcommit_kbytes = (vm().commit().committed_as() + 500) * 4;
    EXPECT_EQ(error_of(shm().shmget(self, kIpcPrivate, 10 * kPageSize, kNew)), "ENOMEM");
    EXPECT_EQ(error_of(map(10, vm::Prot::kRead, kShared)), "ENOMEM");
    EXPECT_EQ(error_of(write_page()), "ENOSPC");
    tunables.user_reserve_kbytes = 0;
    EXPECT_TRUE(shm().ipc_rmid(segment(self, 10 * kPageSize)));
    EXPECT_TRUE(map(10, vm::Prot::kRead, kShared));
    EXPECT_TRUE(write_page());
    machine_->vfs().fput(memfd);
  });
}

// --- shmat, shmdt -----------------------------------------------------------------------------------------------------------

TEST_F(ShmTest, ProcessesSeeOneMemory) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 2 * kPageSize);
    const VirtAddr at = shm().shmat(self, id, VirtAddr(0), ShmAt::kNone).value();
    write(self, at + kPageSize, 7);
    in_child(self, [&](Process& child) {
      EXPECT_EQ(read(child, at + kPageSize), 7);
      const VirtAddr other = shm().shmat(child, id, VirtAddr(0), ShmAt::kNone).value();
      EXPECT_NE(other, at);
      write(child, other, 9);
    });
    EXPECT_EQ(read(self, at), 9);
  });
}

TEST_F(ShmTest, ItsContentsStayWhileNobodyIsAttached) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 1);
    write(self, shm().shmat(self, id, kAt, ShmAt::kNone).value(), 5);
    ASSERT_TRUE(shm().shmdt(self, kAt));
    EXPECT_EQ(nattch(id), 0u);
    EXPECT_EQ(read(self, kAt), -1);
    EXPECT_EQ(shm().shm_info().shm_rss, 1u);
    EXPECT_EQ(read(self, shm().shmat(self, id, VirtAddr(0), ShmAt::kNone).value()), 5);
  });
}

TEST_F(ShmTest, AttachmentsAreCountedOverForkExitSplitAndExec) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 4 * kPageSize);
    const VirtAddr at = shm().shmat(self, id, kAt, ShmAt::kNone).value();
    EXPECT_EQ(nattch(id), 1u);
    in_child(self, [&](Process& child) {
      EXPECT_EQ(nattch(id), 2u);
      ASSERT_TRUE(machine_->processes().exec(child, "other"));
      EXPECT_EQ(nattch(id), 1u);
    });
    in_child(self, [&](Process&) { EXPECT_EQ(nattch(id), 2u); });
    EXPECT_EQ(nattch(id), 1u);
    ASSERT_TRUE(vm().munmap(*self.mm, at + kPageSize, kPageSize));
    EXPECT_EQ(nattch(id), 2u);  // two areas now
    ASSERT_TRUE(shm().shmdt(self, at));
    EXPECT_EQ(nattch(id), 0u);
    EXPECT_EQ(self.mm->map_count, 0);
    EXPECT_EQ(shm().ipc_stat(id)->lpid, self.pid);
  });
}

// remap_file_pages maps the area anew: the segment went with the area that was there before, unless another holds it.
TEST_F(ShmTest, WhatIsLeftOfARemovedSegmentCannotBeMappedAnew) {
  in_process([&](Process& self) {
    const auto remap = [&](VirtAddr at, std::uint64_t pgoff) {
      return vm().remap_file_pages(*self.mm, at, kPageSize, vm::Prot::kNone, pgoff, vm::MapFlags::kNone);
    };
    const std::int32_t id = segment(self, 2 * kPageSize);
    const VirtAddr at = shm().shmat(self, id, kAt, ShmAt::kNone).value();
    write(self, at + kPageSize, 7);
    ASSERT_TRUE(shm().ipc_rmid(id));
    ASSERT_TRUE(remap(at, 1));  // the second page stays mapped at its own place
    EXPECT_EQ(read(self, at), 7);
    EXPECT_EQ(nattch(id), 2u);
    ASSERT_TRUE(vm().munmap(*self.mm, at + kPageSize, kPageSize));
    EXPECT_EQ(error_of(remap(at, 0)), "EINVAL");
    EXPECT_EQ(self.mm->map_count, 0);
    EXPECT_EQ(error_of(shm().ipc_stat(id)), "EINVAL");
  });
}

TEST_F(ShmTest, DetachingLeavesSealedPieces) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 4 * kPageSize);
    const VirtAddr at = shm().shmat(self, id, kAt, ShmAt::kNone).value();
    ASSERT_TRUE(vm().mseal(*self.mm, at + kPageSize, kPageSize));
    EXPECT_EQ(error_of(shm().shmdt(self, at)), "none");
    EXPECT_EQ(self.mm->map_count, 1);
    EXPECT_EQ(nattch(id), 1u);
    EXPECT_EQ(read(self, at), -1);
    EXPECT_EQ(read(self, at + kPageSize), 0);
  });
}

TEST_F(ShmTest, PiecesOfASegmentDoNotMergeAgain) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 4 * kPageSize);
    ASSERT_TRUE(shm().shmat(self, id, kAt, ShmAt::kNone));
    ASSERT_TRUE(vm().mprotect(*self.mm, kAt, kPageSize, vm::Prot::kRead));
    EXPECT_EQ(nattch(id), 2u);
    ASSERT_TRUE(vm().mprotect(*self.mm, kAt, kPageSize, vm::Prot::kRead | vm::Prot::kWrite));
    EXPECT_EQ(self.mm->map_count, 2);
    EXPECT_EQ(nattch(id), 2u);
  });
}

TEST_F(ShmTest, AMovedAttachmentStillCountsOnce) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 2 * kPageSize);
    ASSERT_TRUE(shm().shmat(self, id, kAt, ShmAt::kNone));
    const auto moved = vm().mremap(*self.mm, kAt, 2 * kPageSize, 2 * kPageSize,
                                   vm::MremapFlags::kMayMove | vm::MremapFlags::kFixed, kAt + kMiB);
    ASSERT_TRUE(moved);
    EXPECT_EQ(nattch(id), 1u);
    EXPECT_EQ(error_of(shm().shmdt(self, kAt)), "EINVAL");
    EXPECT_EQ(error_of(shm().shmdt(self, kAt + kMiB)), "none");
  });
}

// It grows in place, as of 6.1.y (6.1.0 refused); what lies behind the segment is SIGBUS.
TEST_F(ShmTest, AnAttachmentGrowsInPlaceAndIsDetachedWhole) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 4 * kPageSize);
    ASSERT_TRUE(shm().shmat(self, id, kAt, ShmAt::kNone));
    write(self, kAt + 3 * kPageSize, 7);
    EXPECT_EQ(vm().mremap(*self.mm, kAt, 4 * kPageSize, 8 * kPageSize, vm::MremapFlags::kNone), kAt);
    EXPECT_EQ(nattch(id), 1u);
    EXPECT_EQ(self.mm->map_count, 1);
    EXPECT_EQ(self.mm->total_vm, 8u);
    EXPECT_EQ(read(self, kAt + 3 * kPageSize), 7);
    EXPECT_EQ(static_cast<int>(vm().access(*self.mm, kAt + 4 * kPageSize, arch::Access::kRead).signal), SIGBUS);
    ASSERT_TRUE(shm().shmdt(self, kAt));
    EXPECT_EQ(self.mm->map_count, 0);
    EXPECT_EQ(nattch(id), 0u);
  });
}

TEST_F(ShmTest, AReadOnlyAttachmentCannotBecomeWritable) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, kPageSize);
    ASSERT_TRUE(shm().shmat(self, id, kAt, ShmAt::kReadOnly));
    EXPECT_EQ(read(self, kAt), 0);
    EXPECT_FALSE(vm().access(*self.mm, kAt, arch::Access::kWrite).ok());
    EXPECT_EQ(error_of(vm().mprotect(*self.mm, kAt, kPageSize, vm::Prot::kRead | vm::Prot::kWrite)), "EACCES");
  });
}

TEST_F(ShmTest, RemapTakesThePlaceOfWhatIsThere) {
  in_process([&](Process& self) {
    const std::int32_t first = segment(self, kPageSize);
    const std::int32_t second = segment(self, kPageSize);
    ASSERT_TRUE(shm().shmat(self, first, kAt, ShmAt::kNone));
    EXPECT_EQ(error_of(shm().shmat(self, second, kAt, ShmAt::kNone)), "EINVAL");
    EXPECT_EQ(shm().shmat(self, second, kAt + 123, ShmAt::kRemap | ShmAt::kRound).value(), kAt);
    EXPECT_EQ(nattch(first), 0u);
    EXPECT_EQ(nattch(second), 1u);
  });
}

TEST_F(ShmTest, MapsNameTheKeyAndTheIdIsTheInode) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 1, 0x1234abcd);
    ASSERT_TRUE(shm().shmat(self, id, kAt, ShmAt::kNone));
    const file::File& file = *self.mm->mm_vmas.lookup(kAt)->vm_file;
    EXPECT_EQ(file.sb().path_of(file.inode()), "/SYSV1234abcd (deleted)");
    EXPECT_EQ(file.inode().ino, static_cast<std::uint64_t>(id));
    EXPECT_EQ(file.sb().dev(), 1u);
  });
}

// --- shmctl -----------------------------------------------------------------------------------------------------------------

TEST_F(ShmTest, AMarkedSegmentGoesWithItsLastAttachmentAndIsFoundByIdUntilThen) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 1, 7);
    ASSERT_TRUE(shm().shmat(self, id, kAt, ShmAt::kNone));
    ASSERT_TRUE(shm().ipc_rmid(id));
    EXPECT_EQ(shm().ipc_stat(id)->mode, 0600u | kShmDest);
    EXPECT_EQ(shm().ipc_stat(id)->key, kIpcPrivate);
    EXPECT_EQ(error_of(shm().shmget(self, 7, 1, ShmGet::kNone)), "ENOENT");
    ASSERT_TRUE(shm().shmat(self, id, kAt + kMiB, ShmAt::kNone));  // Linux lets in whoever knows the id
    ASSERT_TRUE(shm().shmdt(self, kAt));
    EXPECT_EQ(error_of(shm().ipc_stat(id)), "none");
    ASSERT_TRUE(shm().shmdt(self, kAt + kMiB));
    EXPECT_EQ(error_of(shm().ipc_stat(id)), "EINVAL");
    EXPECT_EQ(shm().shm_info().used_ids, 0u);
  });
}

TEST_F(ShmTest, AMarkedSegmentGoesWhenItsProcessesEnd) {
  std::int32_t id = 0;
  in_process([&](Process& self) {
    id = segment(self, 8 * kPageSize);
    write(self, shm().shmat(self, id, kAt, ShmAt::kNone).value(), 1);
    ASSERT_TRUE(shm().ipc_rmid(id));
  });
  EXPECT_EQ(shm().shm_info().used_ids, 0u);
  EXPECT_EQ(machine_->vfs().open_files(), 0u);
}

TEST_F(ShmTest, SetChangesOwnerAndPermissionsOnly) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 1);
    ASSERT_TRUE(shm().shm_lock(self, id));
    ASSERT_TRUE(shm().ipc_set(id, 10, 20, 07644));
    const ShmStat stat = shm().ipc_stat(id).value();
    EXPECT_EQ(stat.uid, 10u);
    EXPECT_EQ(stat.gid, 20u);
    EXPECT_EQ(stat.cuid, 0u);
    EXPECT_EQ(stat.mode, 0644u | kShmLocked);
    EXPECT_EQ(shm().shm_stat(id % 32768)->id, id);
  });
}

TEST_F(ShmTest, LockingNeedsTheRightOrTheLimit) {
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 2 * kPageSize);
    self.mm->rlimits.memlock = 0;
    EXPECT_EQ(error_of(shm().shm_lock(self, id)), "EPERM");
    self.mm->rlimits.memlock = kPageSize;
    EXPECT_EQ(error_of(shm().shm_lock(self, id)), "ENOMEM");
    self.mm->ipc_lock = vm::CapIpcLock::kYes;
    EXPECT_EQ(error_of(shm().shm_lock(self, id)), "none");
    EXPECT_EQ(shm().ipc_stat(id)->mode & kShmLocked, kShmLocked);
    ASSERT_TRUE(shm().shm_unlock(id));
    EXPECT_EQ(shm().ipc_stat(id)->mode & kShmLocked, 0u);
  });
}

TEST(ShmLock, PagesOfALockedSegmentDoNotGoToSwap) {
  for (const bool locked : {false, true}) {
    MachineConfig config;
    config.ram = 32 * kMiB;
    config.kernel_reserved = 4 * kMiB;
    SwapSpec zram;
    zram.kind = SwapKind::kZram;
    zram.bytes = 64 * kMiB;
    config.swap = {zram};
    const auto machine = Machine::boot(config);
    ASSERT_TRUE(machine);
    Machine& m = **machine;
    start(m, "program", [&](Process& self) {
      self.mm->ipc_lock = vm::CapIpcLock::kYes;
      const std::int32_t id = m.shm().shmget(self, kIpcPrivate, 2 * kMiB, kNew).value();
      if (locked) {
        ASSERT_TRUE(m.shm().shm_lock(self, id));
      }
      const VirtAddr at = m.shm().shmat(self, id, VirtAddr(0), ShmAt::kNone).value();
      EXPECT_EQ(m.vm().touch_user(*self.mm, at, 2 * kMiB, arch::Access::kWrite), 2 * kMiB);
      const std::uint64_t bytes = 40 * kMiB;
      const auto more = m.vm().mmap(*self.mm, VirtAddr(0), bytes, vm::Prot::kRead | vm::Prot::kWrite,
                                    vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0);
      EXPECT_EQ(m.vm().touch_user(*self.mm, *more, bytes, arch::Access::kWrite), bytes);
      EXPECT_EQ(m.shm().shm_info().shm_swp == 0, locked);
    });
    ASSERT_TRUE(m.run().done());
  }
}

TEST_F(ShmTest, EachAllocationThatFailsLeavesNothingBehind) {
  in_process([&](Process& self) {
    for (const FaultPoint point : {FaultPoint::kSlabAlloc, FaultPoint::kPageAlloc}) {
      unsigned failed = 0;
      for (std::uint64_t nth = 1; nth <= 24; ++nth) {
        machine_->slab().cache_reap(slab::SlabSystem::ReapMode::kAll);
        Objects before = objects(*machine_);
        before.erase("maple_node");
        machine_->faults().set(point, {.nth = nth});
        const auto id = shm().shmget(self, kIpcPrivate, 2 * kPageSize, kNew);
        const auto at = id ? shm().shmat(self, *id, VirtAddr(0), ShmAt::kNone) : Result<VirtAddr>(fail(id.error()));
        machine_->faults().set(point, {});
        if (!at) {
          ++failed;
          EXPECT_EQ(errno_name(at.error()), "ENOMEM");
        } else {
          EXPECT_TRUE(shm().shmdt(self, *at));
        }
        if (id) {
          EXPECT_EQ(nattch(*id), 0u);
          EXPECT_TRUE(shm().ipc_rmid(*id));
        }
        Objects after = objects(*machine_);
        after.erase("maple_node");  // an address space keeps the one that it did not need
        EXPECT_EQ(after, before) << nth;
        shm().validate();
      }
      EXPECT_GT(failed, point == FaultPoint::kSlabAlloc ? 5u : 2u);
    }
  });
}

// --- the host's errnos --------------------------------------------------------------------------------------------------------

// Calls that both sides make on a segment of three pages attached at kAt; each gives 0 or an errno.
struct Calls {
  std::function<int(int key, std::uint64_t size, int flags)> get;  // the id is dropped
  std::function<int(std::uint64_t address, int flags)> at;         // and detached again when it worked
  std::function<int(std::uint64_t address)> dt;
  std::function<int(int command)> ctl;  // of an id that there is not
};

std::vector<int> answers(const Calls& calls, int key) {
  const std::uint64_t base = kAt.value();
  const std::uint64_t page = kPageSize;
  return {
      calls.get(key, 3 * page, 0),
      calls.get(key, 3 * page + 1, 0),
      calls.get(key, 3 * page + 1, IPC_CREAT | IPC_EXCL),
      calls.get(key, 1, IPC_CREAT | IPC_EXCL | 0600),
      calls.get(key, 0, IPC_EXCL),
      calls.get(key + 1, 1, 0),
      calls.get(key + 1, 0, IPC_CREAT | 0600),
      calls.get(IPC_PRIVATE, 0, 0600),
      calls.get(IPC_PRIVATE, ~std::uint64_t{0}, 0600),
      calls.at(base, 0),
      calls.at(base + page, 0),
      calls.at(base - 2 * page, 0),
      calls.at(base + 3 * page, 0),
      calls.at(base + 0x100001, 0),
      calls.at(base + 0x100001, SHM_RND),
      calls.at(base + 0x100001, SHM_RND | SHM_RDONLY),
      calls.at(base + 0x100000, SHM_EXEC),
      calls.at(0, SHM_REMAP),
      calls.at(1, SHM_RND | SHM_REMAP),
      calls.at(0, SHM_RDONLY),
      calls.at(0xfffffffffffff000, 0),
      calls.at(0xfffffffffffff000, SHM_REMAP),
      calls.at(0x7ffffffff000, 0),
      calls.at(0x7ffffffff000, SHM_REMAP),
      calls.dt(base + 1),
      calls.dt(base + page),
      calls.dt(base - page),
      calls.dt(0),
      calls.ctl(IPC_STAT),
      calls.ctl(IPC_RMID),
      calls.ctl(SHM_LOCK),
      calls.ctl(SHM_UNLOCK),
  };
}

int errno_of(long result) { return result == -1 ? errno : 0; }
template <class T>
int errno_of(const std::expected<T, Errno>& result) {
  return result ? 0 : static_cast<int>(result.error());
}

// Why the host gives us no segment; empty: it does.
std::string refused_by_host() {
  const int id = shmget(IPC_PRIVATE, kPageSize, IPC_CREAT | 0600);
  if (id < 0) return std::strerror(errno);
  ::shmctl(id, IPC_RMID, nullptr);
  return {};
}

// In a child of its own: the key, and what it attaches, are gone afterwards. Empty: the child failed.
std::vector<int> host_answers(int key) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return {};
  const pid_t pid = fork();
  if (pid == 0) {
    const auto at = reinterpret_cast<void*>(kAt.value());
    const int id = shmget(key, 3 * kPageSize, IPC_CREAT | IPC_EXCL | 0600);
    if (id < 0) _exit(1);
    std::vector<int> got;
    if (::shmat(id, at, 0) == at) {
      got = answers({.get = [](int of, std::uint64_t size, int flags) { return errno_of(shmget(of, size, flags)); },
                     .at =
                         [id](std::uint64_t address, int flags) {
                           void* mapped = ::shmat(id, reinterpret_cast<void*>(address), flags);
                           const int error = errno_of(reinterpret_cast<long>(mapped));
                           if (error == 0) ::shmdt(mapped);
                           return error;
                         },
                     .dt = [](std::uint64_t address) { return errno_of(::shmdt(reinterpret_cast<void*>(address))); },
                     .ctl =
                         [](int command) {
                           shmid_ds ds{};
                           return errno_of(::shmctl(0x7ffffff0, command, &ds));
                         }},
                    key);
    }
    ::shmctl(id, IPC_RMID, nullptr);
    const auto bytes = static_cast<ssize_t>(got.size() * sizeof(int));
    _exit(::write(ends[1], got.data(), static_cast<std::size_t>(bytes)) == bytes ? 0 : 1);
  }
  close(ends[1]);
  std::vector<int> got;
  for (int error = 0; ::read(ends[0], &error, sizeof(error)) == sizeof(error);) got.push_back(error);
  close(ends[0]);
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) return {};
  return got;
}

TEST_F(ShmTest, ErrnosAreTheHosts) {
  const int key = 0x51000000 + static_cast<int>(getpid());
  if (const std::string why = refused_by_host(); !why.empty()) {
    GTEST_SKIP() << "the host has no System V shared memory for us: " << why;
  }
  const std::vector<int> host = host_answers(key);
  ASSERT_FALSE(host.empty());
  std::vector<int> here;
  in_process([&](Process& self) {
    const std::int32_t id = segment(self, 3 * kPageSize, key);
    ASSERT_TRUE(shm().shmat(self, id, kAt, ShmAt::kNone));
    here = answers({.get = [&](int of, std::uint64_t size,
                               int flags) { return errno_of(shm().shmget(self, of, size, static_cast<ShmGet>(flags))); },
                    .at =
                        [&](std::uint64_t address, int flags) {
                          const auto mapped = shm().shmat(self, id, VirtAddr(address), static_cast<ShmAt>(flags));
                          if (mapped) static_cast<void>(shm().shmdt(self, *mapped));
                          return errno_of(mapped);
                        },
                    .dt = [&](std::uint64_t address) { return errno_of(shm().shmdt(self, VirtAddr(address))); },
                    .ctl =
                        [&](int command) {
                          const std::int32_t none = 0x7ffffff0;
                          switch (command) {
                            case IPC_STAT: return errno_of(shm().ipc_stat(none));
                            case IPC_RMID: return errno_of(shm().ipc_rmid(none));
                            case SHM_LOCK: return errno_of(shm().shm_lock(self, none));
                            default: return errno_of(shm().shm_unlock(none));
                          }
                        }},
                   key);
  });
  EXPECT_EQ(here, host);
}

}  // namespace
}  // namespace quire::kernel
