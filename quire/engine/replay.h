// Running recorded programs on a machine: each task of a trace becomes a thread of the machine, which touches what the
// program touched and makes the calls it made, at the pace its instruction counts give.
//
//   trace task ── accesses ──→ Vm::access (TLB hit: a few ns)      kernel-chosen addresses are put where they were recorded
//              ── system calls → Vm, Vfs, Pipe                     results are compared with the recorded ones
//              ── fork, exec, exit → ProcessTable
//
// What a trace cannot say is counted, never hidden: an access outside every area (memory that the recorded kernel gave and
// the trace does not tell of) is a `stray` access, a call that ends otherwise than recorded a `diverged` call.
//
// Differs from the recorded run: tasks are ordered by fork, wait, vfork and pipes, threads of a process also by their calls
// (CallOrder) and what they touch after them, not otherwise by what they tell each other through memory; signals are not delivered; sleeps take no time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quire/base/user_error.h"
#include "quire/engine/call_order.h"
#include "quire/engine/file_set.h"
#include "quire/kernel/machine.h"
#include "quire/trace/reader.h"

namespace quire::engine {

struct ReplayStats {
  std::uint64_t accesses = 0;
  std::uint64_t instructions = 0;
  std::uint64_t syscalls = 0;
  std::uint64_t stray_accesses = 0;
  std::uint64_t diverged_calls = 0;
  std::uint64_t overcommitted_maps = 0;           // mmaps refused for want of RAM + swap, made all the same as when recorded
  std::map<std::string, std::uint64_t> diverged;  // "mmap: ENOMEM" → times
};

// What one trace did on the machine.
struct ProgramOutcome {
  std::string name;                    // of the trace
  kernel::Process* process = nullptr;  // its first process
  // As recorded: code, or 128 + signal; 137 when the machine's OOM killer ended it; kUnknown when the trace breaks off.
  static constexpr int kUnknown = -1;
  int exit_status = kUnknown;
  bool whole = false;  // the trace has its end
  std::vector<std::string> warnings;
};

class Replay {
 public:
  explicit Replay(kernel::Machine& machine);
  ~Replay();
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  // Adds a trace as a process of the machine, to start with the others when the machine runs.
  Checked<void> add(std::unique_ptr<trace::TraceReader> reader);
  // Called now and then with the bytes of trace read so far.
  void on_progress(std::function<void(std::uint64_t bytes)> progress) { progress_ = std::move(progress); }
  // Runs all to the end. The error tells who waits on what when nothing can go on; the machine is then good for its destructor
  // only, once the Replay is gone.
  Checked<void> run();
  // Runs what happens before `when` of virtual time; tasks then stand where they are, to be looked at.
  void run_until(sim::Nanos when);

  [[nodiscard]] const ReplayStats& stats() const { return stats_; }
  [[nodiscard]] std::vector<ProgramOutcome> outcomes() const;

 private:
  friend class ThreadReplay;

  // One trace and what its numbers mean on this machine.
  struct Program {
    std::unique_ptr<trace::TraceReader> reader;
    kernel::Process* first = nullptr;
    std::map<std::uint32_t, kernel::Process*> processes;  // by recorded pid
    std::map<const kernel::Process*, CallOrder> orders;   // of their threads' calls
    std::map<std::int64_t, std::int32_t> segments;        // System V shared memory: the machine's id by the recorded one
    std::map<std::uint64_t, std::uint64_t> memfds;        // the machine's inode number by the recorded one; it may have gone
  };
  kernel::ProcessTable::Body body(Program& program, trace::TaskStream& stream);
  CallOrder& order(Program& program, const kernel::Process& process) {
    return program.orders.try_emplace(&process, machine_.scheduler()).first->second;
  }
  void report_progress();
  void read_to_the_end();

  kernel::Machine& machine_;
  FileSet files_;
  std::vector<std::unique_ptr<Program>> programs_;
  ReplayStats stats_;
  enum class End : std::uint8_t { kAll, kStandsStill } end_ = End::kAll;
  std::function<void(std::uint64_t)> progress_;
  unsigned blocks_until_progress_ = 0;
};

}  // namespace quire::engine
