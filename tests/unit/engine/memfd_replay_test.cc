// Recorded files of memfd_create: what they were made for and the seals that they got.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include "quire/engine/replay.h"
#include "trace_builder.h"

namespace quire::engine {
namespace {

using trace::RecordKind;

class MemfdReplay : public ::testing::Test {
 protected:
  void syscall(std::uint32_t number, std::int64_t result, std::array<std::uint64_t, 6> args) {
    trace::Record r;
    r.kind = RecordKind::kSyscall;
    r.number = number;
    r.result = result;
    r.args = args;
    trace_.record(r);
  }
  void memfd(int fd, std::uint64_t flags) {
    syscall(SYS_memfd_create, fd, {0, flags});
    file(fd, static_cast<std::uint64_t>(fd), 0);
  }
  // Another number for what `fd` names.
  void dup(int fd, int other, std::uint64_t inode) {
    syscall(SYS_dup2, other, {static_cast<std::uint64_t>(fd), static_cast<std::uint64_t>(other)});
    file(other, inode, 0);
  }
  void file(int fd, std::uint64_t inode, std::uint64_t size) {
    trace::Record r;
    r.kind = RecordKind::kFile;
    r.file = trace::FileKind::kMemfd;
    r.fd = fd;
    r.inode = inode;
    r.size = size;
    r.flags = O_RDWR;
    trace_.record(r, "/memfd:x (deleted)");
  }
  std::uint64_t diverged() {
    kernel::MachineConfig config;
    config.ram = 16 * kMiB;
    config.kernel_reserved = kMiB;
    const auto machine = std::move(*kernel::Machine::boot(config));
    trace_.exit().finish();
    Replay replay(*machine);
    EXPECT_TRUE(replay.add(trace_.open()));
    EXPECT_TRUE(replay.run());
    machine->settle();
    machine->validate();
    EXPECT_EQ(machine->vfs().open_files(), 0u);
    EXPECT_EQ(machine->vfs().shmem().used_blocks(), 0u);
    EXPECT_EQ(replay.outcomes().front().exit_status, 0);
    return replay.stats().diverged_calls;
  }

  test::TraceBuilder trace_;
};

// F_SEAL_EXEC of a file that may be run seals its contents, too; of one that may not it seals nothing else.
TEST_F(MemfdReplay, AFileThatMayNotBeRunKeepsItsContentsOpen) {
  memfd(5, static_cast<std::uint64_t>(file::MemfdFlags::kNoexecSeal));
  syscall(SYS_fcntl, 0, {5, 1033 /* F_ADD_SEALS */, static_cast<std::uint64_t>(file::Seals::kExec | file::Seals::kShrink)});
  syscall(SYS_ftruncate, 0, {5, 2 * kPageSize});
  syscall(SYS_pwrite64, 100, {5, 0, 100, 0});
  memfd(6, static_cast<std::uint64_t>(file::MemfdFlags::kAllowSealing));
  syscall(SYS_fcntl, 0, {6, 1033, static_cast<std::uint64_t>(file::Seals::kExec)});
  EXPECT_EQ(diverged(), 0u);
}

// The calls are done: what the recorded program could not have done differs.
TEST_F(MemfdReplay, SealsActInTheReplay) {
  memfd(5, static_cast<std::uint64_t>(file::MemfdFlags::kAllowSealing));
  syscall(SYS_fcntl, 0, {5, 1033, static_cast<std::uint64_t>(file::Seals::kExec)});
  syscall(SYS_ftruncate, 0, {5, 2 * kPageSize});
  EXPECT_EQ(diverged(), 1u);
}

// Four times the machine's memory, one file after the other: each goes with its last descriptor.
TEST_F(MemfdReplay, AFileThatIsClosedGivesItsMemoryBack) {
  constexpr std::uint64_t kBytes = kMiB;
  for (std::uint64_t inode = 100; inode < 164; ++inode) {
    syscall(SYS_memfd_create, 5, {0, 0});
    file(5, inode, 0);
    dup(5, 6, inode);
    syscall(SYS_write, kBytes, {5, 0, kBytes});
    syscall(SYS_close, 0, {5});
    syscall(SYS_close, 0, {6});
  }
  EXPECT_EQ(diverged(), 0u);
}

// However many numbers a file has: what one does to it the others see.
TEST_F(MemfdReplay, AFileIsOneUnderAllItsNumbers) {
  memfd(5, static_cast<std::uint64_t>(file::MemfdFlags::kAllowSealing));
  dup(5, 6, 5);
  file(7, 5, 0);  // opened once more, through /proc
  syscall(SYS_close, 0, {5});
  syscall(SYS_fcntl, 0, {6, 1033, static_cast<std::uint64_t>(file::Seals::kGrow)});
  syscall(SYS_ftruncate, 0, {7, 2 * kPageSize});
  EXPECT_EQ(diverged(), 1u);
}

}  // namespace
}  // namespace quire::engine
