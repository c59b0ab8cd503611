#include "quire/engine/replay.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <nlohmann/json.hpp>

#include "quire/engine/run_report.h"
#include "trace_builder.h"

namespace quire::engine {
namespace {

using phys::VmEvent;
using test::TraceBuilder;
using trace::RecordKind;

std::unique_ptr<kernel::Machine> boot(std::uint64_t ram, const std::string& swap = "", unsigned cpus = 1) {
  kernel::MachineConfig config;
  config.ram = ram;
  config.cpus = cpus;
  config.kernel_reserved = kMiB;
  if (!swap.empty()) config.swap.push_back(*kernel::parse_swap_spec(swap));
  auto machine = kernel::Machine::boot(config);
  if (!machine) throw std::runtime_error(machine.error().sentence);
  return std::move(*machine);
}

trace::Record syscall(std::uint32_t number, std::int64_t result, std::array<std::uint64_t, 6> args) {
  trace::Record r;
  r.kind = RecordKind::kSyscall;
  r.number = number;
  r.result = result;
  r.args = args;
  return r;
}

trace::Record fork_of(std::uint32_t pid, std::uint64_t flags = SIGCHLD) {
  trace::Record r;
  r.kind = RecordKind::kFork;
  r.number = SYS_clone;
  r.child = {pid, pid};
  r.flags = flags;
  r.result = pid;
  return r;
}

trace::Record file_record(int fd, std::uint64_t inode, std::uint64_t size, std::uint64_t flags = 0) {
  trace::Record r;
  r.kind = RecordKind::kFile;
  r.file = trace::FileKind::kRegular;
  r.fd = fd;
  r.dev = 0x801;
  r.inode = inode;
  r.size = size;
  r.flags = flags;
  return r;
}

void replay(kernel::Machine& machine, const TraceBuilder& trace, ReplayStats* stats = nullptr) {
  Replay replay(machine);
  ASSERT_TRUE(replay.add(trace.open()).has_value());
  const auto done = replay.run();
  ASSERT_TRUE(done.has_value()) << done.error().sentence;
  if (stats != nullptr) *stats = replay.stats();
  machine.settle();
  machine.validate();
}

TEST(Replay, EachPageFaultsOnceWhenMemorySuffices) {
  TraceBuilder trace;
  trace.area(100);
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t page = 0; page < 100; ++page) trace.write(page);
  }
  trace.exit(7).finish();
  auto machine = boot(32 * kMiB);
  ReplayStats stats;
  replay(*machine, trace, &stats);
  EXPECT_EQ(stats.accesses, 300u);
  EXPECT_EQ(stats.stray_accesses, 0u);
  EXPECT_EQ(stats.diverged_calls, 0u);
  const kernel::Process& process = *machine->processes().all().front();
  EXPECT_EQ(process.minor_faults(), 100u);
  EXPECT_EQ(process.major_faults(), 0u);
  EXPECT_EQ(process.exit.code, 7);
  EXPECT_EQ(machine->phys().global_node_page_state(phys::NodeStat::kNrAnonPages), 0);
}

// Instructions are numbered as the program runs them: here every 50,000th touches memory. A fault finds the number of the one that
// faulted, since that one is run again; whoever is interrupted between two accesses resumes at the next.
TEST(Replay, ExceptionsReportTheFaultingInstructionInterruptsTheNext) {
  constexpr std::uint64_t kPages = 3000;
  constexpr std::uint64_t kStep = 50'000;
  TraceBuilder trace;
  trace.area(kPages);
  trace.record(fork_of(2));
  for (std::uint64_t page = 0; page < kPages; ++page) trace.touch(page, trace::AccessKind::kWrite, kStep);
  trace.touch(0, trace::AccessKind::kRead, 0);  // an instruction with two operands
  trace.touch(kPages - 1, trace::AccessKind::kRead, kStep);
  trace.exit();
  trace.task(2, 2);
  for (std::uint64_t i = 0; i < kPages; ++i) trace.touch(i % 3, trace::AccessKind::kRead, kStep);
  trace.exit().finish();
  auto machine = boot(64 * kMiB);
  sim::Scheduler& scheduler = machine->scheduler();

  const sim::Task* parent = nullptr;  // who faults first
  std::uint64_t wrong = 0;
  std::uint64_t faults = 0;
  machine->traces().find("page_fault_user")->listen([&](const EventView& e) {
    std::uint64_t page = 0;
    std::uint64_t ip = 0;
    e.fields([&](std::string_view name, const FieldValue& value) {
      if (name == "address") page = (std::get<std::uint64_t>(value) >> kPageShift) - TraceBuilder::kFirstPage;
      if (name == "ip") ip = std::get<std::uint64_t>(value);
    });
    if (parent == nullptr) parent = scheduler.current();
    if (scheduler.current() != parent) return;
    ++faults;
    wrong += ip != (page + 1) * kStep - 1 ? 1 : 0;
  });
  std::uint64_t preempted = 0;
  machine->traces().find("sched_switch")->listen([&](const EventView& e) {
    std::string_view state;
    std::uint64_t pid = 0;
    e.fields([&](std::string_view name, const FieldValue& value) {
      if (name == "prev_state") state = std::get<std::string_view>(value);
      if (name == "prev_pid") pid = std::get<std::uint64_t>(value);
    });
    if (state != "R" || parent == nullptr || pid != parent->id()) return;
    ++preempted;
    // All before has been done: the pages of the accesses before it are there, none behind.
    wrong += parent->ip != faults * kStep + kStep - 1 && parent->ip != faults * kStep - 1 ? 1 : 0;
  });
  ReplayStats stats;
  replay(*machine, trace, &stats);
  EXPECT_EQ(stats.stray_accesses, 0u);
  EXPECT_EQ(faults, kPages);
  EXPECT_GT(preempted, 2u);
  EXPECT_EQ(wrong, 0u);
}

TEST(Replay, ReadsShareTheZeroPageUntilWritten) {
  TraceBuilder trace;
  trace.area(10);
  for (std::uint64_t page = 0; page < 10; ++page) trace.read(page);
  for (std::uint64_t page = 0; page < 10; ++page) trace.write(page);
  trace.exit().finish();
  auto machine = boot(32 * kMiB);
  replay(*machine, trace);
  EXPECT_EQ(machine->processes().all().front()->minor_faults(), 20u);
  EXPECT_LE(machine->processes().all().front()->peak_rss(), 12u);
}

TEST(Replay, ForkCopiesOnWriteAndParentWaits) {
  TraceBuilder trace;
  trace.area(8);
  for (std::uint64_t page = 0; page < 8; ++page) trace.write(page);
  trace.record(fork_of(2));
  auto wait = syscall(SYS_wait4, 2, {});
  wait.child = {2, 2};
  trace.record(wait);
  for (std::uint64_t page = 0; page < 8; ++page) trace.write(page);  // the child is gone: reused, not copied
  trace.exit();
  trace.task(2, 2);
  for (std::uint64_t page = 0; page < 4; ++page) trace.write(page);
  trace.exit(3).finish();
  auto machine = boot(32 * kMiB, "", 2);
  ReplayStats stats;
  replay(*machine, trace, &stats);
  EXPECT_EQ(stats.diverged_calls, 0u);
  ASSERT_EQ(machine->processes().all().size(), 2u);
  const kernel::Process& parent = *machine->processes().all()[0];
  const kernel::Process& child = *machine->processes().all()[1];
  EXPECT_EQ(child.minor_faults(), 4u);
  EXPECT_EQ(child.exit.code, 3);
  EXPECT_EQ(parent.minor_faults(), 8u + 8u);
  EXPECT_LE(child.end_time, parent.end_time);
}

// waitid's result is 0 however long it waited. With WNOWAIT the child is still there to be waited for; a child that stopped has
// not ended.
TEST(Replay, WaitidWaitsForTheChild) {
  TraceBuilder trace;
  trace.area(8);
  trace.record(fork_of(2));
  const auto waitid = [](std::uint64_t options, std::int32_t status) {
    auto wait = syscall(SYS_waitid, 0, {1 /* P_PID */, 2, 0, options});
    wait.child = {2, 2};
    wait.status = status;
    return wait;
  };
  trace.record(waitid(WSTOPPED, (SIGSTOP << 8) | 0x7f));
  trace.write(0);  // both have the page
  trace.record(waitid(WEXITED | WNOWAIT, 0)).record(waitid(WEXITED, 0));
  trace.exit();
  trace.task(2, 2);
  trace.touch(0, trace::AccessKind::kWrite, 1'000'000).exit().finish();
  auto machine = boot(32 * kMiB, "", 2);
  ReplayStats stats;
  replay(*machine, trace, &stats);
  EXPECT_EQ(stats.diverged_calls, 0u);
  const kernel::Process& parent = *machine->processes().all()[0];
  const kernel::Process& child = *machine->processes().all()[1];
  EXPECT_LE(child.end_time, parent.end_time);
  EXPECT_GT(child.end_time, child.start_time + 100'000);
}

TEST(Replay, MappingsGoWhereTheyWereRecorded) {
  const std::uint64_t address = (TraceBuilder::kFirstPage + 4096) << kPageShift;
  TraceBuilder trace;
  trace.area(1);
  trace.record(syscall(SYS_mmap, static_cast<std::int64_t>(address),
                       {0, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, ~0ull, 0}));
  for (std::uint64_t page = 0; page < 4; ++page) trace.write(4096 + page);
  trace.record(syscall(SYS_munmap, 0, {address, 2 * kPageSize}));
  trace.write(4096).write(4098);  // one is gone, one is not
  trace.exit().finish();
  auto machine = boot(32 * kMiB);
  ReplayStats stats;
  replay(*machine, trace, &stats);
  EXPECT_EQ(stats.stray_accesses, 1u);
  EXPECT_EQ(stats.diverged_calls, 0u);
}

TEST(Replay, AFileReadTwiceIsReadFromDiskOnce) {
  TraceBuilder trace;
  trace.area(1);
  trace.record(file_record(3, 77, 64 * kPageSize), "/data");
  for (int round = 0; round < 2; ++round) {
    for (std::uint64_t i = 0; i < 16; ++i) {
      auto read = syscall(SYS_pread64, 4 * kPageSize, {3, 0, 4 * kPageSize, i * 4 * kPageSize});
      read.offset = i * 4 * kPageSize;
      trace.record(read);
    }
  }
  trace.record(syscall(SYS_close, 0, {3}));
  trace.exit().finish();
  auto machine = boot(32 * kMiB);
  ReplayStats stats;
  replay(*machine, trace, &stats);
  EXPECT_EQ(stats.diverged_calls, 0u);
  EXPECT_EQ(machine->phys().vmstat()[VmEvent::kPgpgin], static_cast<std::int64_t>(64 * kPageSize / kKiB));
  EXPECT_EQ(machine->vfs().open_files(), 0u);
}

// Files have the names that maps shows: their paths, as renames leave them; a number as long as nobody has named them.
TEST(Replay, FilesAreCalledByTheirPaths) {
  TraceBuilder trace;
  trace.area(1);
  trace.record(file_record(3, 71, kPageSize), "/data/a");
  trace.record(file_record(4, 72, kPageSize), "/data/b");
  trace.record(file_record(5, 73, kPageSize));
  trace.record(file_record(6, 74, kPageSize), "/data/c");
  trace.record(file_record(7, 74, kPageSize), "/data/hard link");
  trace.record(file_record(8, 75, kPageSize), "/data/b");  // another file of that path, while the first lives
  auto rename = syscall(SYS_rename, 0, {});
  trace.record(rename, "/data/a", "/data/renamed");
  trace.record(rename, "/data/nobody", "/data/x");
  trace.record(syscall(SYS_unlink, 0, {}), "/data/c");
  trace.exit().finish();
  auto machine = boot(32 * kMiB);
  replay(*machine, trace);
  const file::FileSystem& fs = *machine->vfs().find_mount(0x801);
  const auto name = [&](std::uint64_t ino) { return fs.path_of(*fs.lookup_ino(ino)); };
  EXPECT_EQ(name(71), "/data/renamed");
  EXPECT_EQ(name(72), "/data/b");
  EXPECT_EQ(name(73), "#73");
  EXPECT_EQ(name(74), "/data/hard link");
  EXPECT_EQ(name(75), "#75");
}

TEST(Replay, PipesMakeTheReaderWait) {
  TraceBuilder trace;
  trace.area(1);
  const auto end = [](int fd, std::uint64_t flags) {
    trace::Record r;
    r.kind = RecordKind::kFile;
    r.file = trace::FileKind::kPipe;
    r.fd = fd;
    r.flags = flags;
    return r;
  };
  trace.record(syscall(SYS_pipe2, 0, {}))
      .record(end(3, 0))
      .record(end(4, 1))
      .record(fork_of(2))
      .record(syscall(SYS_close, 0, {4}));
  trace.record(syscall(SYS_read, 100'000, {3, 0, 100'000})).exit();
  trace.task(2, 2).record(syscall(SYS_close, 0, {3}));
  trace.touch(0, trace::AccessKind::kWrite, 1'000'000);
  trace.record(syscall(SYS_write, 100'000, {4, 0, 100'000})).exit().finish();
  auto machine = boot(32 * kMiB, "", 2);
  ReplayStats stats;
  replay(*machine, trace, &stats);
  EXPECT_EQ(stats.diverged_calls, 0u);
  const auto& processes = machine->processes().all();
  EXPECT_GE(processes[0]->end_time, processes[1]->start_time + 1'000'000 * 3 / 10);
}

// The number that fcntl(2) finds for a pipe's end is that end: the reader waits for what comes through it alone.
TEST(Replay, APipeHasNumbersOfFcntl) {
  for (const std::uint64_t command : {F_DUPFD, F_DUPFD_CLOEXEC}) {
    TraceBuilder trace;
    trace.area(1);
    const auto end = [](int fd, std::uint64_t flags) {
      trace::Record r;
      r.kind = RecordKind::kFile;
      r.file = trace::FileKind::kPipe;
      r.fd = fd;
      r.flags = flags;
      return r;
    };
    trace.record(syscall(SYS_pipe2, 0, {})).record(end(3, O_RDONLY)).record(end(4, O_WRONLY));
    trace.record(syscall(SYS_fcntl, 10, {4, command, 10})).record(end(10, O_WRONLY));
    trace.record(syscall(SYS_close, 0, {4})).record(fork_of(2)).record(syscall(SYS_close, 0, {10}));
    trace.record(syscall(SYS_read, 100'000, {3, 0, 100'000})).exit();
    trace.task(2, 2).record(syscall(SYS_close, 0, {3}));
    trace.touch(0, trace::AccessKind::kWrite, 1'000'000);
    trace.record(syscall(SYS_write, 100'000, {10, 0, 100'000})).exit().finish();
    auto machine = boot(32 * kMiB, "", 2);
    ReplayStats stats;
    replay(*machine, trace, &stats);
    EXPECT_EQ(stats.diverged_calls, 0u);
    const auto& processes = machine->processes().all();
    EXPECT_GE(processes[0]->end_time, processes[1]->start_time + 1'000'000 * 3 / 10);
  }
}

TEST(Replay, LessMemoryThanTheProgramNeedsSwaps) {
  TraceBuilder trace;
  constexpr std::uint64_t kPages = 4096;
  trace.area(kPages);
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t page = 0; page < kPages; ++page) trace.write(page);
  }
  trace.exit().finish();
  auto machine = boot(12 * kMiB, "disk:64M");
  ReplayStats stats;
  replay(*machine, trace, &stats);
  EXPECT_GT(machine->phys().vmstat()[VmEvent::kPswpout], 1000);
  EXPECT_GT(machine->processes().all().front()->major_faults(), 500u);
  EXPECT_EQ(machine->processes().all().front()->exit.signal, 0);
}

TEST(Replay, WithoutSwapTheOomKillerEndsIt) {
  TraceBuilder trace;
  constexpr std::uint64_t kPages = 8192;
  // More than the machine has, so only an area without a reservation gets past the overcommit heuristic.
  trace.record(syscall(SYS_mmap, static_cast<std::int64_t>(TraceBuilder::kFirstPage << kPageShift),
                       {0, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, ~0ull, 0}));
  for (std::uint64_t page = 0; page < kPages; ++page) trace.write(page);
  trace.exit().finish();
  auto machine = boot(12 * kMiB);
  Replay run(*machine);
  ASSERT_TRUE(run.add(trace.open()).has_value());
  ASSERT_TRUE(run.run().has_value());
  EXPECT_EQ(machine->processes().all().front()->exit.signal, 9);
  EXPECT_EQ(machine->phys().vmstat()[VmEvent::kOomKill], 1);
  EXPECT_EQ(run.outcomes().front().exit_status, 137);
  machine->settle();
  machine->validate();
}

// Killed by nobody knows what: that is no exit with 0.
TEST(Replay, AnEndThatNobodyCouldTellStaysUnknown) {
  for (const int signal : {0, 11}) {
    TraceBuilder trace;
    trace.area(1);
    trace::Record end;
    end.kind = RecordKind::kExit;
    end.flags = trace::kExitGroup | trace::kExitLost;
    end.signal = signal;
    trace.record(end).finish();
    auto machine = boot(32 * kMiB);
    Replay run(*machine);
    ASSERT_TRUE(run.add(trace.open()).has_value());
    ASSERT_TRUE(run.run().has_value());
    EXPECT_EQ(run.outcomes().front().exit_status, signal == 0 ? ProgramOutcome::kUnknown : 128 + signal);
    EXPECT_EQ(report_json(make_report(*machine, run, 0))["processes"][0]["exit_status"].is_null(), signal == 0);
  }
}

// What the debugging of kernel objects finds comes with the run's figures.
TEST(Replay, TheReportTellsOfDamagedKernelObjects) {
  TraceBuilder trace;
  trace.area(10);
  for (std::uint64_t page = 0; page < 10; ++page) trace.write(page);
  trace.exit().finish();
  for (const char* layout : {"slab", "slub"}) {
    kernel::MachineConfig config;
    config.ram = 32 * kMiB;
    config.kernel_reserved = kMiB;
    config.slab = layout;
    config.slab_debug = "FZPU";
    auto machine = kernel::Machine::boot(config);
    ASSERT_TRUE(machine);
    Replay run(**machine);
    ASSERT_TRUE(run.add(trace.open()).has_value());
    ASSERT_TRUE(run.run().has_value());
    RunReport report = make_report(**machine, run, 0);
    EXPECT_EQ(report.slab_problems, 0u) << report.slab_reports.front();
    EXPECT_THAT(report_text(report), testing::HasSubstr(std::string("kernel objects         ") + layout + ", debugged: FZPU"));
    // A write behind an object, which nobody frees or allocates again.
    auto* object = static_cast<std::byte*>((*machine)->slab().kmalloc(64, phys::Gfp::kKernel));
    object[64] = std::byte{0x55};
    report = make_report(**machine, run, 0);
    EXPECT_EQ(report.slab_problems, 1u);
    ASSERT_EQ(report.slab_reports.size(), 1u);
    EXPECT_THAT(report.slab_reports.front(), testing::HasSubstr("kmalloc-64"));
    EXPECT_EQ(report_json(report)["slab"]["problems"], 1);
    (*machine)->slab().kfree(object);
  }
}

TEST(Replay, TwoRunsGiveTheSameReportAndAnotherSeedALegalOne) {
  TraceBuilder trace;
  constexpr std::uint64_t kPages = 3000;
  trace.area(kPages);
  for (std::uint64_t page = 0; page < 400; ++page) trace.write(page);
  trace.record(fork_of(2)).record(fork_of(3));
  for (std::uint64_t i = 0; i < 6000; ++i) trace.write(i * 7919 % kPages);
  trace.exit();
  for (std::uint32_t pid = 2; pid <= 3; ++pid) {
    trace.task(pid, pid);
    for (std::uint64_t i = 0; i < 6000; ++i) trace.write(i * (pid + 100) % kPages);
    trace.exit();
  }
  trace.finish();
  const auto json = [&trace](std::uint64_t seed) {
    kernel::MachineConfig config;
    config.ram = 24 * kMiB;  // swaps, but has room for everybody
    config.kernel_reserved = kMiB;
    config.cpus = 2;
    config.seed = seed;
    config.swap.push_back(*kernel::parse_swap_spec("zram:64M"));
    auto machine = kernel::Machine::boot(config);
    Replay run(**machine);
    EXPECT_TRUE(run.add(trace.open()).has_value());
    EXPECT_TRUE(run.run().has_value());
    (*machine)->settle();
    (*machine)->validate();
    nlohmann::json out = report_json(make_report(**machine, run, 0));
    out.erase("machine");
    return out;
  };
  const nlohmann::json first = json(1);
  EXPECT_EQ(first, json(1));
  const nlohmann::json other = json(2);
  EXPECT_NE(first, other);
  EXPECT_EQ(first["vmstat"]["oom_kill"], 0);
  EXPECT_GT(first["vmstat"]["pswpout"], 1000);
  EXPECT_EQ(first["replay"]["accesses"], other["replay"]["accesses"]);
}

}  // namespace
}  // namespace quire::engine
