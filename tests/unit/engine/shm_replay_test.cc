// System V shared memory of recorded programs.
#include <gtest/gtest.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "quire/engine/replay.h"
#include "trace_builder.h"

namespace quire::engine {
namespace {

using test::TraceBuilder;

constexpr std::uint64_t kKey = 0x1234;
constexpr std::uint64_t kRecordedId = 5;
constexpr std::uint64_t kSegment = TraceBuilder::kFirstPage + 4096;  // page where it was attached

std::unique_ptr<kernel::Machine> boot() {
  kernel::MachineConfig config;
  config.ram = 16 * kMiB;
  config.cpus = 2;
  config.preempt_permille = 200;
  config.kernel_reserved = kMiB;
  auto machine = kernel::Machine::boot(config);
  if (!machine) throw std::runtime_error(machine.error().sentence);
  return std::move(*machine);
}

trace::Record call(std::uint32_t number, std::int64_t result, std::array<std::uint64_t, 6> args) {
  trace::Record r;
  r.kind = trace::RecordKind::kSyscall;
  r.number = number;
  r.result = result;
  r.args = args;
  return r;
}

// Makes a segment, attaches it, shares it with a child, and removes it.
void program(TraceBuilder& trace, std::uint64_t pages) {
  constexpr auto kAddress = kSegment << kPageShift;
  trace.area(1);
  trace.record(call(SYS_shmget, kRecordedId, {kKey, pages * kPageSize, IPC_CREAT | 0600}));
  trace.record(call(SYS_shmat, static_cast<std::int64_t>(kAddress), {kRecordedId, 0, 0}));
  for (std::uint64_t page = 0; page < pages; ++page) trace.write(4096 + page);
  trace::Record fork;
  fork.kind = trace::RecordKind::kFork;
  fork.number = SYS_clone;
  fork.child = {2, 2};
  fork.flags = SIGCHLD;
  fork.result = 2;
  trace.record(fork);
  auto wait = call(SYS_wait4, 2, {});
  wait.child = {2, 2};
  trace.record(wait);
  trace.record(call(SYS_shmctl, 0, {kRecordedId, IPC_RMID}));
  trace.record(call(SYS_shmdt, 0, {kAddress}));
  trace.exit();
  trace.task(2, 2);
  for (std::uint64_t page = 0; page < pages; ++page) trace.read(4096 + page);
  trace.exit().finish();
}

TEST(ShmReplay, ProgramsThatUseOneKeyHaveSegmentsOfTheirOwn) {
  TraceBuilder small;
  TraceBuilder large;
  program(small, 16);
  program(large, 32);
  for (const auto& [first, second] : {std::pair{&small, &small}, {&small, &large}, {&large, &small}}) {
    auto machine = boot();
    {
      Replay replay(*machine);
      for (const TraceBuilder* trace : {first, second}) {
        ASSERT_TRUE(replay.add(trace->open()).has_value());
      }
      const auto done = replay.run();
      ASSERT_TRUE(done.has_value()) << done.error().sentence;
      EXPECT_EQ(replay.stats().diverged_calls, 0u);
      EXPECT_EQ(replay.stats().stray_accesses, 0u);
      EXPECT_EQ(replay.stats().accesses, first == second ? 64u : 96u);
    }
    EXPECT_EQ(machine->shm().shm_info().used_ids, 0u);
    machine->shm().validate();
    machine->validate();
  }
}

TEST(ShmReplay, AMachineMayBeDroppedWhileSegmentsAreAttached) {
  constexpr sim::Nanos kMoments = 100;
  TraceBuilder trace;
  program(trace, 16);
  sim::Nanos end = 0;
  for (sim::Nanos moment = 0; moment <= kMoments; ++moment) {
    SCOPED_TRACE(moment);
    const auto machine = boot();
    const sim::Nanos begin = machine->scheduler().now();
    Replay replay(*machine);
    ASSERT_TRUE(replay.add(trace.open()).has_value());
    if (moment == 0) {
      ASSERT_TRUE(replay.run().has_value());
      end = machine->scheduler().now();
    } else {
      replay.run_until(begin + (end - begin) * (moment - 1) / kMoments);
    }
  }
}

}  // namespace
}  // namespace quire::engine
