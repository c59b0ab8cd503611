#include "quire/engine/thread_replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace quire::engine {

namespace {

constexpr std::uint64_t kPicosPerNano = 1000;
constexpr kernel::ExitStatus kUnknownEnd{ProgramOutcome::kUnknown, 0};
constexpr sim::Nanos kFar = std::numeric_limits<sim::Nanos>::max() / kPicosPerNano;

// A recorded access has the machine's own numbers.
static_assert(static_cast<int>(trace::AccessKind::kRead) == static_cast<int>(arch::Access::kRead));
static_assert(static_cast<int>(trace::AccessKind::kWrite) == static_cast<int>(arch::Access::kWrite));
static_assert(static_cast<int>(trace::AccessKind::kExec) == static_cast<int>(arch::Access::kExec));

}  // namespace

ThreadReplay::ThreadReplay(Replay& replay, Replay::Program& program, trace::TaskStream& stream, kernel::Thread& thread)
    : replay_(replay),
      program_(program),
      stream_(stream),
      thread_(thread),
      order_(replay.order(program, *thread.process)),
      progress_(order_.progress_of(stream.id().tid)),
      machine_(replay.machine_),
      scheduler_(machine_.scheduler()),
      vm_(machine_.vm()),
      instruction_ps_(scheduler_.costs().instruction_ps) {}

void ThreadReplay::run() {
  replay_records();
  order_.thread_ends(stream_.id().tid);
}

void ThreadReplay::replay_records() {
  for (;;) {
    if (const auto accesses = stream_.accesses(); !accesses.empty()) {
      if (touch(accesses) == Next::kEnded) return;
      replay_.report_progress();
      continue;
    }
    trace::Record r;
    if (!stream_.next(r)) break;
    if (record(r) == Next::kEnded) return;
  }
  // The trace breaks off here (its reader says why): nobody knows how the task ended.
  end(kUnknownEnd);
}

// An access that hits the TLB touches nothing that another CPU could see: its time is only added up, and charged when the
// machine has to know it, before a miss and where the run reaches the horizon.
ThreadReplay::Next ThreadReplay::touch(std::span<const trace::Access> accesses) {
  if (!unconfirmed_.empty()) close_unconfirmed();
  vm::Mm& mm = this->mm();
  const std::uint64_t instruction_ps = instruction_ps_;
  std::uint64_t ps = pending_ps_;
  std::uint64_t instructions = 0;
  // All instructions before the one that makes the access at hand have retired.
  const auto charge = [&] {
    set_ip(std::max<std::uint64_t>(position_ + instructions, 1) - 1);
    scheduler_.charge(ps / kPicosPerNano);
    ps %= kPicosPerNano;
    scheduler_.sync_point();
  };
  const auto picos_left = [&] {
    const sim::Nanos left = scheduler_.until_horizon();
    return left < kFar ? left * kPicosPerNano : kFar;
  };
  std::uint64_t due = picos_left();
  arch::Mmu* mmu = &vm_.mmu();
  Next next = Next::kGoOn;
  for (const trace::Access& a : accesses) {
    ++replay_.stats_.accesses;
    instructions += a.instructions;
    ps += a.instructions * instruction_ps;
    if (ps >= due) [[unlikely]] {
      charge();
      due = picos_left();
      mmu = &vm_.mmu();
    }
    const VirtAddr address(a.page() << kPageShift);
    const auto kind = static_cast<arch::Access>(a.kind());
    if (vm_.tlb_hit(*mmu, mm, address, kind) != nullptr) [[likely]]
      continue;
    charge();
    const vm::AccessOutcome outcome = vm_.access(mm, address, kind);
    if (!outcome.ok()) [[unlikely]] {
      next = touch_failed(outcome);
      if (next == Next::kEnded) break;
    }
    due = picos_left();
    mmu = &vm_.mmu();
  }
  pending_ps_ = ps;
  replay_.stats_.instructions += instructions;
  reach(instructions);
  if (next == Next::kGoOn && killed()) {
    end({0, 9});
    return Next::kEnded;
  }
  return next;
}

ThreadReplay::Next ThreadReplay::touch_one(std::uint64_t page, trace::AccessKind kind) {
  const trace::Access access = trace::Access::make(page, kind, 0);
  return touch({&access, 1});
}

ThreadReplay::Next ThreadReplay::touch_failed(const vm::AccessOutcome& outcome) {
  if (killed() || outcome.signal == vm::Signal::kKill || outcome.status == vm::AccessStatus::kOom) {
    end({0, 9});
    return Next::kEnded;
  }
  ++replay_.stats_.stray_accesses;
  return Next::kGoOn;
}

ThreadReplay::Next ThreadReplay::record(const trace::Record& r) {
  set_ip(position_ + r.instructions);
  if (r.instructions > 0) {
    pending_ps_ += r.instructions * instruction_ps_;
    scheduler_.charge(pending_ps_ / kPicosPerNano);
    pending_ps_ %= kPicosPerNano;
    replay_.stats_.instructions += r.instructions;
    reach(r.instructions);
  }
  scheduler_.sync_point();
  if (killed()) {
    end({0, 9});
    return Next::kEnded;
  }
  if (r.kind == trace::RecordKind::kBehind) {
    order_.await_progress(r.child.tid, r.after, [this] { return killed(); });
    return Next::kGoOn;
  }
  if (r.kind == trace::RecordKind::kOrder) {
    order_.await(r.after, [this] { return killed(); });
    sequence_ = r.sequence;
    if ((r.flags & trace::kCompletesHere) != 0) order_.complete(std::exchange(sequence_, 0));
    return Next::kGoOn;
  }
  const bool of_exec = r.kind == trace::RecordKind::kArea || r.kind == trace::RecordKind::kFile;
  if (!of_exec && !unconfirmed_.empty()) close_unconfirmed();
  if (r.kind == trace::RecordKind::kSyscall || r.kind == trace::RecordKind::kExec) forget_next_file();
  switch (r.kind) {
    case trace::RecordKind::kAccess: ++replay_.stats_.accesses; return touch_one(r.page, r.access);
    case trace::RecordKind::kSyscall: syscall(r); break;
    case trace::RecordKind::kFork: fork(r); break;
    case trace::RecordKind::kExec: exec(r); break;
    case trace::RecordKind::kArea: area(r); break;
    case trace::RecordKind::kFile: file(r); break;
    case trace::RecordKind::kExit: return exit(r);
    case trace::RecordKind::kOrder:
    case trace::RecordKind::kBehind: break;
  }
  if (sequence_ != 0) order_.complete(std::exchange(sequence_, 0));
  if (killed()) {
    end({0, 9});
    return Next::kEnded;
  }
  return Next::kGoOn;
}

// The end of a whole process ended each thread's records where it met them, so each goes on to its own end; the last takes
// the process with it.
ThreadReplay::Next ThreadReplay::exit(const trace::Record& r) {
  if (sequence_ != 0) order_.complete(sequence_);
  const bool untold = (r.flags & trace::kExitLost) != 0 && r.signal == 0;
  const kernel::ExitStatus status = untold ? kUnknownEnd : kernel::ExitStatus{r.status, r.signal};
  if ((r.flags & trace::kExitGroup) != 0) process().settle_exit(status);
  end(status);
  return Next::kEnded;
}

void ThreadReplay::end(kernel::ExitStatus status) { machine_.processes().exit_thread(thread_, status); }

void ThreadReplay::diverged(std::string_view call, Errno error) {
  if (killed()) return;
  ++replay_.stats_.diverged_calls;
  ++replay_.stats_.diverged[fmt::format("{}: {}", call, errno_name(error))];
}

}  // namespace quire::engine
