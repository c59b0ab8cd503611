#include "quire/engine/replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "quire/engine/thread_replay.h"

namespace quire::engine {

namespace {

constexpr unsigned kBlocksBetweenReports = 256;

}  // namespace

Replay::Replay(kernel::Machine& machine) : machine_(machine), files_(machine.vfs(), machine.scheduler()) {}

Replay::~Replay() {
  // Tasks that stand still wait on what is ours; what they have in hand goes with the machine, and so does the rest.
  if (end_ == End::kStandsStill) {
    machine_.scheduler().unwind_tasks();
    return;
  }
  for (const auto& program : programs_) {
    for (const auto& [recorded, id] : program->segments) static_cast<void>(machine_.shm().ipc_rmid(id));
  }
}

kernel::ProcessTable::Body Replay::body(Program& program, trace::TaskStream& stream) {
  return [this, &program, &stream](kernel::Thread& thread) { ThreadReplay(*this, program, stream, thread).run(); };
}

Checked<void> Replay::add(std::unique_ptr<trace::TraceReader> reader) {
  trace::TaskStream* first = reader->first_task();
  if (first == nullptr) {
    return user_error(fmt::format("{}: the trace holds no task{}", reader->name(),
                                  reader->warnings().empty() ? "" : "; " + reader->warnings().front()));
  }
  auto program = std::make_unique<Program>();
  program->reader = std::move(reader);
  const std::string comm = std::filesystem::path(program->reader->name()).stem().string();
  auto process = machine_.processes().create(comm, body(*program, *first));
  if (!process) {
    return user_error(fmt::format("no memory for the first process of {} ({}); give the machine more --ram",
                                  program->reader->name(), errno_name(process.error())));
  }
  program->first = *process;
  program->processes[first->id().pid] = *process;
  programs_.push_back(std::move(program));
  return {};
}

void Replay::report_progress() {
  if (!progress_ || blocks_until_progress_-- > 0) return;
  blocks_until_progress_ = kBlocksBetweenReports;
  std::uint64_t bytes = 0;
  for (const auto& program : programs_) bytes += program->reader->statistics().bytes;
  progress_(bytes);
}

// What follows the last task's end: is the file whole?
void Replay::read_to_the_end() {
  for (const auto& program : programs_) {
    while (program->reader->pull()) {}
  }
}

Checked<void> Replay::run() {
  const sim::RunOutcome outcome = machine_.run();
  read_to_the_end();
  for (const auto& program : programs_) {
    for (const auto& [process, order] : program->orders) {
      if (order.given_up() == 0) continue;
      stats_.diverged_calls += order.given_up();
      stats_.diverged["a thread's call that others waited for: missing"] += order.given_up();
    }
  }
  if (outcome.done()) return {};
  end_ = End::kStandsStill;
  return user_error("the machine stands still, every task waits:\n" + outcome.report());
}

void Replay::run_until(sim::Nanos when) {
  if (!machine_.scheduler().run_until(when).done()) end_ = End::kStandsStill;
  const auto ended = [](const auto& process) { return process->state != kernel::ProcessState::kRunning; };
  if (std::ranges::all_of(machine_.processes().all(), ended)) read_to_the_end();
}

std::vector<ProgramOutcome> Replay::outcomes() const {
  std::vector<ProgramOutcome> all;
  for (const auto& program : programs_) {
    ProgramOutcome outcome;
    outcome.name = program->reader->name();
    outcome.process = program->first;
    outcome.warnings = program->reader->warnings();
    outcome.whole = program->reader->complete();
    const kernel::ExitStatus& exit = program->first->exit;
    outcome.exit_status = exit.signal != 0 ? 128 + exit.signal : exit.code;
    all.push_back(std::move(outcome));
  }
  return all;
}

}  // namespace quire::engine
