// Traces of calls on files, replayed on a machine that can be looked at afterwards.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/syscall.h>

#include <array>
#include <memory>
#include <string_view>

#include "quire/engine/replay.h"
#include "trace_builder.h"

namespace quire::engine {

class ReplayTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kDevice = 0x801;

  ReplayTest() {
    config_.ram = 32 * kMiB;
    config_.kernel_reserved = kMiB;
    trace_.area(1);
  }

  void syscall(std::uint32_t number, std::int64_t result, std::array<std::uint64_t, 6> args, std::uint64_t offset = 0,
               std::string_view path = {}) {
    trace::Record r;
    r.kind = trace::RecordKind::kSyscall;
    r.number = number;
    r.result = result;
    r.args = args;
    r.offset = offset;
    trace_.record(r, path);
  }
  // What a descriptor names, as the recorder tells it.
  void file(int fd, std::uint64_t inode, std::uint64_t size, std::string_view path = {}, std::uint64_t offset = 0,
            std::uint64_t dev = kDevice) {
    trace::Record r;
    r.kind = trace::RecordKind::kFile;
    r.file = trace::FileKind::kRegular;
    r.fd = fd;
    r.dev = dev;
    r.inode = inode;
    r.size = size;
    r.flags = O_RDWR;
    r.offset = offset;
    trace_.record(r, path);
  }
  void write(std::uint64_t fd, std::uint64_t bytes, std::uint64_t offset) {
    syscall(SYS_write, static_cast<std::int64_t>(bytes), {fd, 0, bytes}, offset);
  }
  void fork(std::uint32_t pid, std::uint32_t tid, std::uint64_t flags) {
    trace::Record r;
    r.kind = trace::RecordKind::kFork;
    r.number = SYS_clone;
    r.child = {pid, tid};
    r.flags = flags;
    r.result = tid;
    trace_.record(r);
  }
  // A machine with the trace, of which all tasks have their exits.
  void load() {
    trace_.finish();
    auto machine = kernel::Machine::boot(config_);
    ASSERT_TRUE(machine);
    machine_ = std::move(*machine);
    replay_ = std::make_unique<Replay>(*machine_);
    ASSERT_TRUE(replay_->add(trace_.open()));
  }
  // To the end; what is left in the machine is there to be looked at.
  void run() {
    const auto done = replay_->run();
    ASSERT_TRUE(done) << done.error().sentence;
    machine_->settle();
    machine_->validate();
    EXPECT_EQ(machine_->vfs().open_files(), 0u);
  }
  void replay() {
    ASSERT_NO_FATAL_FAILURE(load());
    run();
  }
  [[nodiscard]] file::DiskInode* inode(std::uint64_t ino) const { return machine_->vfs().find_mount(kDevice)->lookup_ino(ino); }
  [[nodiscard]] const ReplayStats& stats() const { return replay_->stats(); }

  kernel::MachineConfig config_;
  test::TraceBuilder trace_;
  std::unique_ptr<kernel::Machine> machine_;
  std::unique_ptr<Replay> replay_;
};

}  // namespace quire::engine
