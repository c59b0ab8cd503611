// What a run came to: one value with all figures, as text for people and as one JSON object for programs.
//
// Everything outside "host" depends on the machine, its seed and the traces alone, so two runs of the same give the same.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "quire/engine/replay.h"
#include "quire/kernel/machine.h"
#include "quire/observe/vmstat.h"

namespace quire::engine {

struct ProcessReport {
  int pid = 0;
  int parent = 0;  // 0: none
  std::string comm;
  int exit_status = 0;  // code, or 128 + signal, or ProgramOutcome::kUnknown
  std::uint64_t min_flt = 0;
  std::uint64_t maj_flt = 0;
  std::uint64_t max_rss = 0;  // bytes
  std::uint64_t start_ns = 0;
  std::uint64_t end_ns = 0;
};

struct SwapReport {
  std::uint64_t total = 0;  // pages
  std::uint64_t free = 0;
  std::uint64_t zram_stored = 0;    // bytes before compression
  std::uint64_t zram_used_max = 0;  // bytes of RAM
};

// What address translation came to, of all CPUs together. Loads of an id that made it forget its entries are switch_flushes.
struct TlbReport {
  arch::TlbStats hardware;
  vm::TlbShootdown::Stats flushes;
};

struct RunReport {
  kernel::MachineConfig machine;
  std::vector<ProcessReport> processes;
  struct Program {
    std::string name;
    int exit_status = ProgramOutcome::kUnknown;
    bool whole = false;
    std::vector<std::string> warnings;
  };
  std::vector<Program> programs;
  ReplayStats replay;
  observe::CounterList vmstat;
  SwapReport swap;
  TlbReport tlb;
  // What the debugging of kernel objects found: how much, and the text of the first.
  std::uint64_t slab_problems = 0;
  std::vector<std::string> slab_reports;
  std::uint64_t run_ns = 0;  // virtual time until the last process ended
  std::uint64_t managed_pages = 0;
  double host_seconds = 0;

  [[nodiscard]] std::int64_t counter(std::string_view name) const;
  [[nodiscard]] double run_seconds() const { return static_cast<double>(run_ns) * 1e-9; }
};

[[nodiscard]] RunReport make_report(kernel::Machine& machine, const Replay& replay, double host_seconds);
// Why the figures may not be those of the programs: "12 stray accesses, 3 diverged calls"; empty when nothing says so.
[[nodiscard]] std::string doubts(const RunReport& report);
[[nodiscard]] std::string report_text(const RunReport& report);
[[nodiscard]] nlohmann::json report_json(const RunReport& report);

}  // namespace quire::engine
