// Recorded files of memfd_create: what they were made for and the seals that they got.
#include "replay_fixture.h"

namespace quire::engine {
namespace {

class MemfdReplay : public ReplayTest {
 protected:
  MemfdReplay() { config_.ram = 16 * kMiB; }

  void memfd(int fd, std::uint64_t flags) {
    syscall(SYS_memfd_create, fd, {0, flags});
    named(fd, static_cast<std::uint64_t>(fd), 0);
  }
  // Another number for what `fd` names.
  void dup(int fd, int other, std::uint64_t inode) {
    syscall(SYS_dup2, other, {static_cast<std::uint64_t>(fd), static_cast<std::uint64_t>(other)});
    named(other, inode, 0);
  }
  void named(int fd, std::uint64_t inode, std::uint64_t size) {
    trace::Record r;
    r.kind = trace::RecordKind::kFile;
    r.file = trace::FileKind::kMemfd;
    r.fd = fd;
    r.inode = inode;
    r.size = size;
    r.flags = O_RDWR;
    trace_.record(r, "/memfd:x (deleted)");
  }
  std::uint64_t diverged() {
    trace_.exit();
    replay();
    EXPECT_EQ(machine_->vfs().shmem().used_blocks(), 0u);
    EXPECT_EQ(replay_->outcomes().front().exit_status, 0);
    return stats().diverged_calls;
  }
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
    named(5, inode, 0);
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
  named(7, 5, 0);  // opened once more, through /proc
  syscall(SYS_close, 0, {5});
  syscall(SYS_fcntl, 0, {6, 1033, static_cast<std::uint64_t>(file::Seals::kGrow)});
  syscall(SYS_ftruncate, 0, {7, 2 * kPageSize});
  EXPECT_EQ(diverged(), 1u);
}

}  // namespace
}  // namespace quire::engine
