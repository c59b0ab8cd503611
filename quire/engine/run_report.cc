#include "quire/engine/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "quire/base/size.h"

namespace quire::engine {

namespace {

int exit_status(const kernel::ExitStatus& exit) { return exit.signal != 0 ? 128 + exit.signal : exit.code; }

SwapReport swap_report(kernel::Machine& machine) {
  SwapReport report;
  const swap::SwapInfo info = machine.swap().si_swapinfo();
  report.total = info.total;
  report.free = info.free;
  for (const swap::Zram* zram : machine.zrams()) {
    const swap::ZramStats stats = zram->mm_stat();
    report.zram_stored += stats.orig_data_size;
    report.zram_used_max += stats.mem_used_max;
  }
  return report;
}

std::string exit_text(int status) { return status == ProgramOutcome::kUnknown ? "?" : std::to_string(status); }

nlohmann::json exit_json(int status) { return status == ProgramOutcome::kUnknown ? nlohmann::json() : nlohmann::json(status); }

std::string process_table_text(const RunReport& report) {
  constexpr std::size_t kMostRows = 40;
  std::string text = fmt::format("{:>5} {:>5}  {:<16} {:>4} {:>10} {:>10} {:>10} {:>12}\n", "pid", "ppid", "command", "exit",
                                 "minflt", "majflt", "maxrss", "time");
  for (std::size_t i = 0; i < report.processes.size() && i < kMostRows; ++i) {
    const ProcessReport& p = report.processes[i];
    text += fmt::format("{:>5} {:>5}  {:<16} {:>4} {:>10} {:>10} {:>9}K {:>10.3f} s\n", p.pid, p.parent, p.comm,
                        exit_text(p.exit_status), p.min_flt, p.maj_flt, p.max_rss / kKiB,
                        static_cast<double>(p.end_ns - p.start_ns) * 1e-9);
  }
  if (report.processes.size() > kMostRows) {
    text += fmt::format("      … and {} processes more (--json lists all)\n", report.processes.size() - kMostRows);
  }
  return text;
}

}  // namespace

std::int64_t RunReport::counter(std::string_view name) const {
  const auto it = std::ranges::find(vmstat, name, [](const auto& entry) { return entry.first; });
  return it == vmstat.end() ? 0 : it->second;
}

namespace {

// The figures of the run are taken: now the machine may come to rest, and what lies overwritten is found though nobody has
// asked for it since.
void take_slab_reports(kernel::Machine& machine, RunReport& report) {
  const kernel::MachineConfig& config = machine.config();
  if (!config.slab_debug.empty() || config.cmdline.find("slub_debug") != std::string::npos) {
    machine.settle();
    machine.slab().validate();
  }
  report.slab_problems = machine.slab().object_reports().count();
  for (const slab::ObjectReport& found : machine.slab().object_reports().kept()) report.slab_reports.push_back(found.text);
}

TlbReport tlb_report(kernel::Machine& machine) {
  const vm::TlbShootdown& shootdown = machine.vm().shootdown();
  TlbReport report{.hardware = {}, .flushes = shootdown.stats()};
  for (unsigned cpu = 0; cpu < machine.scheduler().cpus(); ++cpu) {
    const arch::TlbStats& one = shootdown.cpu_state(cpu).mmu.tlb().stats();
    report.hardware.l1_hits += one.l1_hits;
    report.hardware.l2_hits += one.l2_hits;
    report.hardware.misses += one.misses;
    report.hardware.evictions += one.evictions;
  }
  return report;
}

nlohmann::json tlb_json(const TlbReport& tlb) {
  return {{"l1_hits", tlb.hardware.l1_hits},
          {"l2_hits", tlb.hardware.l2_hits},
          {"misses", tlb.hardware.misses},
          {"evictions", tlb.hardware.evictions},
          {"local_flushes", tlb.flushes.local_flushes},
          {"full_flushes", tlb.flushes.full_flushes},
          {"remote_flushes", tlb.flushes.remote_flushes},
          {"ipis", tlb.flushes.ipis},
          {"lazy_skipped", tlb.flushes.lazy_skipped},
          {"deferred", tlb.flushes.deferred},
          {"switches", tlb.flushes.switches},
          {"switch_flushes", tlb.flushes.switch_flushes}};
}

}  // namespace

RunReport make_report(kernel::Machine& machine, const Replay& replay, double host_seconds) {
  RunReport report;
  report.machine = machine.config();
  report.host_seconds = host_seconds;
  report.replay = replay.stats();
  report.vmstat = observe::vmstat(machine.phys());
  report.swap = swap_report(machine);
  report.tlb = tlb_report(machine);
  report.managed_pages = machine.phys().totalram_pages();
  for (const ProgramOutcome& outcome : replay.outcomes()) {
    report.programs.push_back({outcome.name, outcome.exit_status, outcome.whole, outcome.warnings});
  }
  for (const auto& process : machine.processes().all()) {
    report.processes.push_back({.pid = process->pid,
                                .parent = process->parent == nullptr ? 0 : process->parent->pid,
                                .comm = process->comm,
                                .exit_status = exit_status(process->exit),
                                .min_flt = process->minor_faults(),
                                .maj_flt = process->major_faults(),
                                .max_rss = pages_to_bytes(process->peak_rss()),
                                .start_ns = process->start_time,
                                .end_ns = process->end_time});
    report.run_ns = std::max(report.run_ns, process->end_time);
  }
  take_slab_reports(machine, report);
  return report;
}

std::string doubts(const RunReport& report) {
  std::string text;
  const auto add = [&text](const std::string& doubt) { text += (text.empty() ? "" : ", ") + doubt; };
  if (report.replay.stray_accesses > 0) add(fmt::format("{} stray accesses", report.replay.stray_accesses));
  if (report.replay.diverged_calls > 0) add(fmt::format("{} diverged calls", report.replay.diverged_calls));
  for (const RunReport::Program& program : report.programs) {
    if (!program.whole) add(program.name + " is not whole");
  }
  return text;
}

std::string report_text(const RunReport& report) {
  std::string text = process_table_text(report);
  text += '\n';
  const auto line = [&text](std::string_view name, const std::string& value) {
    text += fmt::format("{:<22} {}\n", name, value);
  };
  line("machine",
       fmt::format("{} RAM ({} usable), {} CPU{}, {} node{}, swap {}", format_size(report.machine.ram),
                   format_size(pages_to_bytes(report.managed_pages)), report.machine.cpus, report.machine.cpus == 1 ? "" : "s",
                   report.machine.nodes, report.machine.nodes == 1 ? "" : "s", format_size(pages_to_bytes(report.swap.total))));
  if (report.machine.slab != kernel::MachineConfig{}.slab || !report.machine.slab_debug.empty()) {
    const std::string& debug = report.machine.slab_debug;
    line("kernel objects", report.machine.slab + (debug.empty() ? "" : ", debugged: " + debug));
  }
  line("estimated run time", fmt::format("{:.3f} s", report.run_seconds()));
  line("accesses", fmt::format("{} recorded, {} instructions", report.replay.accesses, report.replay.instructions));
  for (const std::string_view name :
       {"pgfault", "pgmajfault", "pswpin", "pswpout", "pgpgin", "pgpgout", "pgscan_kswapd", "pgscan_direct", "pgsteal_kswapd",
        "pgsteal_direct", "workingset_refault_anon", "workingset_refault_file", "oom_kill"}) {
    line(name, fmt::format("{}", report.counter(name)));
  }
  if (report.swap.zram_used_max > 0) line("zram peak", format_size(report.swap.zram_used_max) + " of RAM");
  if (report.replay.stray_accesses > 0) {
    line("stray accesses", fmt::format("{} (outside every area the trace tells of)", report.replay.stray_accesses));
  }
  if (report.replay.overcommitted_maps > 0) {
    line("overcommitted maps",
         fmt::format("{} (more than RAM + swap; mapped as when recorded)", report.replay.overcommitted_maps));
  }
  for (const auto& [what, times] : report.replay.diverged) {
    line("diverged call", fmt::format("{} ({} times)", what, times));
  }
  for (const RunReport::Program& program : report.programs) {
    for (const std::string& warning : program.warnings) line("warning", warning);
  }
  line("host time", fmt::format("{:.2f} s, {:.1f} M accesses/s", report.host_seconds,
                                static_cast<double>(report.replay.accesses) * 1e-6 / std::max(report.host_seconds, 1e-9)));
  return text;
}

nlohmann::json report_json(const RunReport& report) {
  using nlohmann::json;
  json processes = json::array();
  for (const ProcessReport& p : report.processes) {
    processes.push_back({{"pid", p.pid},
                         {"ppid", p.parent},
                         {"comm", p.comm},
                         {"exit_status", exit_json(p.exit_status)},
                         {"min_flt", p.min_flt},
                         {"maj_flt", p.maj_flt},
                         {"max_rss_bytes", p.max_rss},
                         {"start_ns", p.start_ns},
                         {"end_ns", p.end_ns}});
  }
  json programs = json::array();
  for (const RunReport::Program& p : report.programs) {
    programs.push_back(
        {{"name", p.name}, {"exit_status", exit_json(p.exit_status)}, {"whole", p.whole}, {"warnings", p.warnings}});
  }
  json counters = json::object();
  for (const auto& [name, value] : report.vmstat) counters[std::string(name)] = value;
  const auto rate = static_cast<double>(report.replay.accesses) / std::max(report.host_seconds, 1e-9);
  return {{"machine",
           {{"ram_bytes", report.machine.ram},
            {"managed_pages", report.managed_pages},
            {"cpus", report.machine.cpus},
            {"nodes", report.machine.nodes},
            {"profile", report.machine.profile},
            {"slab", report.machine.slab},
            {"seed", report.machine.seed},
            {"toml", kernel::to_toml(report.machine)}}},
          {"programs", std::move(programs)},
          {"processes", std::move(processes)},
          {"run_ns", report.run_ns},
          {"replay",
           {{"accesses", report.replay.accesses},
            {"instructions", report.replay.instructions},
            {"syscalls", report.replay.syscalls},
            {"stray_accesses", report.replay.stray_accesses},
            {"diverged_calls", report.replay.diverged_calls},
            {"overcommitted_maps", report.replay.overcommitted_maps},
            {"diverged", report.replay.diverged}}},
          {"swap",
           {{"total_pages", report.swap.total},
            {"free_pages", report.swap.free},
            {"zram_stored_bytes", report.swap.zram_stored},
            {"zram_used_max_bytes", report.swap.zram_used_max}}},
          {"tlb", tlb_json(report.tlb)},
          {"slab", {{"problems", report.slab_problems}, {"reports", report.slab_reports}}},
          {"vmstat", std::move(counters)},
          {"host", {{"seconds", report.host_seconds}, {"accesses_per_second", rate}}}};
}

}  // namespace quire::engine
