// Traces that nobody vouches for: records in any order with any numbers. Replay ends, every time, and the machine is whole.
// QUIRE_SEEDS=5000 runs more; QUIRE_SEED=17 starts there.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/syscall.h>

#include <array>
#include <cstdlib>
#include <string>

#include "effort.h"
#include "quire/base/rng.h"
#include "quire/engine/replay.h"
#include "trace_builder.h"

#ifndef SYS_mseal
#define SYS_mseal 462  // headers older than 6.10
#endif

namespace quire::engine {
namespace {

using trace::Record;
using trace::RecordKind;

// clang-format off
constexpr std::array<std::uint32_t, 52> kCalls{
    SYS_mmap,    SYS_munmap,   SYS_mremap,   SYS_mprotect,        SYS_brk,       SYS_madvise,   SYS_mlock,           SYS_mlock2,
    SYS_munlock, SYS_mlockall, SYS_msync,    SYS_munlockall,      SYS_mincore,   SYS_read,      SYS_write,           SYS_pread64,
    SYS_pwrite64, SYS_readv,   SYS_writev,   SYS_lseek,           SYS_sendfile,  SYS_splice,    SYS_copy_file_range, SYS_ftruncate,
    SYS_truncate, SYS_fallocate, SYS_fsync,  SYS_sync,            SYS_dup,       SYS_dup2,      SYS_dup3,            SYS_close,
    SYS_close_range, SYS_pipe, SYS_pipe2,    SYS_shmget,          SYS_shmat,     SYS_shmdt,     SYS_shmctl,          SYS_memfd_create,
    SYS_open,    SYS_openat,   SYS_unlink,   SYS_rename,          SYS_readahead, SYS_fadvise64, SYS_wait4,           SYS_sync_file_range,
    SYS_mseal,   SYS_membarrier, SYS_fcntl,  SYS_remap_file_pages};
// clang-format on

class HostileTrace {
 public:
  explicit HostileTrace(std::uint64_t seed) : rng_(seed) {}

  void build(test::TraceBuilder& trace) {
    const unsigned tasks = 1 + static_cast<unsigned>(rng_.below(4));
    for (unsigned task = 1; task <= tasks; ++task) {
      const bool thread = task > 1 && rng_.below(2) == 0;
      ids_.push_back({thread ? 1 : task, task});
    }
    trace.task(1, 1).area(1 + rng_.below(64));
    for (unsigned i = 0; i < ids_.size(); ++i) {
      trace.task(ids_[i].pid, ids_[i].tid);
      if (i + 1 < ids_.size()) fork(trace, ids_[i + 1]);
      const std::uint64_t records = rng_.below(120);
      for (std::uint64_t n = 0; n < records; ++n) record(trace);
      if (rng_.below(8) != 0) trace.exit(static_cast<int>(rng_.below(300)));
    }
    trace.finish();
  }

 private:
  // Numbers that programs pass, and numbers that only a fuzzer does.
  std::uint64_t number() {
    switch (rng_.below(8)) {
      case 0: return 0;
      case 1: return ~std::uint64_t{0} >> rng_.below(64);
      case 2: return std::uint64_t{1} << rng_.below(64);
      case 3: return rng_();
      case 4: return (test::TraceBuilder::kFirstPage + rng_.below(128)) << kPageShift;
      case 5: return rng_.below(64) << kPageShift;
      default: return rng_.below(8);
    }
  }
  void fork(test::TraceBuilder& trace, trace::TaskId child) {
    Record r;
    r.kind = RecordKind::kFork;
    r.number = SYS_clone;
    r.child = child;
    const bool thread = child.pid != child.tid;
    r.flags = thread ? CLONE_VM | CLONE_THREAD : rng_.below(3) == 0 ? CLONE_VM | CLONE_VFORK : 0;
    trace.record(r);
  }
  void record(test::TraceBuilder& trace) {
    Record r;
    switch (rng_.below(12)) {
      case 0: r.kind = RecordKind::kArea; break;
      case 1: r.kind = RecordKind::kFile; break;
      case 2: r.kind = rng_.below(3) == 0 ? RecordKind::kBehind : RecordKind::kOrder; break;
      case 3:
        if (rng_.below(8) == 0)
          r.kind = RecordKind::kExec;
        else
          r.kind = RecordKind::kSyscall;
        break;
      case 4:
      case 5:
      case 6:
        trace.touch(rng_.below(10) == 0 ? number() >> 13 : rng_.below(128), static_cast<trace::AccessKind>(rng_.below(3)));
        return;
      default: r.kind = RecordKind::kSyscall; break;
    }
    r.number = kCalls[rng_.below(kCalls.size())];
    for (std::uint64_t& arg : r.args) arg = number();
    if (r.number == SYS_fcntl) r.args[1] = F_ADD_SEALS;
    r.result = static_cast<std::int64_t>(number());
    r.area = static_cast<trace::AreaKind>(rng_.below(7));
    r.file = static_cast<trace::FileKind>(rng_.below(9));
    r.fd = static_cast<std::int32_t>(rng_.below(8));
    r.prot = static_cast<std::uint32_t>(rng_.below(8));
    r.flags = number();
    r.offset = number();
    r.begin = number();
    r.end = r.begin + number();
    r.dev = rng_.below(3);
    r.inode = rng_.below(5);
    r.size = number();
    r.after = rng_.below(10) == 0 ? number() : rng_.below(4);
    r.sequence = rng_.below(10) == 0 ? number() : rng_.below(4);
    if (rng_.below(2) == 0) r.child = ids_[rng_.below(ids_.size())];
    trace.record(r, rng_.below(2) == 0 ? "/tmp/a" : "/tmp/b", "x");
  }

  Rng rng_;
  std::vector<trace::TaskId> ids_;
};

TEST(HostileTrace, ReplayEndsAndTheMachineIsWhole) {
  const std::uint64_t first = from_environment("QUIRE_SEED", 1);
  const std::uint64_t seeds = from_environment("QUIRE_SEEDS", 150, 50);
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    SCOPED_TRACE("QUIRE_SEED=" + std::to_string(seed) + " QUIRE_SEEDS=1 repeats this");
    test::TraceBuilder trace;
    HostileTrace(seed).build(trace);
    kernel::MachineConfig config;
    config.ram = 12 * kMiB;
    config.cpus = 2;
    config.kernel_reserved = kMiB;
    config.seed = seed;
    config.swap.push_back(*kernel::parse_swap_spec("zram:4M"));
    auto machine = kernel::Machine::boot(config);
    ASSERT_TRUE(machine.has_value()) << machine.error().sentence;
    Replay replay(**machine);
    ASSERT_TRUE(replay.add(trace.open()).has_value());
    if (!replay.run()) continue;  // it stands still: a task waits for what no other will do
    (*machine)->settle();
    (*machine)->validate();
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace quire::engine
