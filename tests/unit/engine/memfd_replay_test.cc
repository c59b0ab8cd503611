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
    trace::Record r;
    r.kind = RecordKind::kFile;
    r.file = trace::FileKind::kMemfd;
    r.fd = fd;
    r.inode = static_cast<std::uint64_t>(fd);
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

}  // namespace
}  // namespace quire::engine
