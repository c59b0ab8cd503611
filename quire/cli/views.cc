#include "quire/cli/views.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "quire/base/nearest.h"
#include "quire/cli/command.h"
#include "quire/observe/pagemap.h"
#include "quire/observe/proc_text.h"
#include "quire/observe/status.h"
#include "quire/observe/task_mmu.h"

namespace quire::cli {

namespace {

using MachineText = std::string (*)(kernel::Machine&);
constexpr std::pair<std::string_view, MachineText> kMachineViews[] = {
    {"zoneinfo", observe::zoneinfo},
    {"buddyinfo", [](kernel::Machine& m) { return observe::buddyinfo(m.phys()); }},
    {"pagetypeinfo", [](kernel::Machine& m) { return observe::pagetypeinfo(m.phys()); }},
    {"extfrag_index", [](kernel::Machine& m) { return observe::extfrag_index(m.phys()); }},
    {"unusable_index", [](kernel::Machine& m) { return observe::unusable_index(m.phys()); }},
    {"meminfo", observe::meminfo},
    {"slabinfo", observe::slabinfo},
    {"vmallocinfo", observe::vmallocinfo},
    {"iomem", [](kernel::Machine& m) { return observe::iomem(m.phys()); }},
    {"nodes", observe::nodes},
    {"memblock", [](kernel::Machine& m) { return observe::memblock(m.phys()); }},
};

using ProcessText = std::string (*)(kernel::Machine&, kernel::Process&);
template <std::string (*kText)(vm::Vm&, vm::Mm&)>
std::string of_memory(kernel::Machine& machine, kernel::Process& process) {
  return kText(machine.vm(), *process.mm);
}
// Whether a view wants the process's memory, or all that a zombie has left will do.
enum class Wants : std::uint8_t { kMemory, kTask };
struct ProcessView {
  std::string_view name;
  ProcessText text;
  Wants wants = Wants::kMemory;
};
constexpr ProcessView kProcessViews[] = {
    {"maps", of_memory<observe::maps>},
    {"smaps", of_memory<observe::smaps>},
    {"smaps_rollup", of_memory<observe::smaps_rollup>},
    {"status", [](kernel::Machine& machine, kernel::Process& process) { return observe::status(machine, process); },
     Wants::kTask},
    {"statm", [](kernel::Machine&, kernel::Process& process) { return observe::statm(*process.mm); }},
    {"pagemap", of_memory<observe::pagemap>},
};

std::vector<std::string_view> machine_names() {
  std::vector<std::string_view> names;
  for (const auto& [name, text] : kMachineViews) names.push_back(name);
  return names;
}
std::vector<std::string_view> process_names() {
  std::vector<std::string_view> names;
  for (const ProcessView& view : kProcessViews) names.push_back(view.name);
  return names;
}
std::vector<std::string_view> known_names(Shows shows) {
  std::vector<std::string_view> names = machine_names();
  const std::vector<std::string_view> of_processes = process_names();
  if (shows == Shows::kProcessesToo) names.insert(names.end(), of_processes.begin(), of_processes.end());
  return names;
}

// All of them, and how they are written.
std::string known_views(Shows shows) {
  std::string text = fmt::format("{}", fmt::join(machine_names(), ", "));
  if (shows == Shows::kProcessesToo) {
    text += fmt::format("; of a process, by its number as in maps:1: {}", fmt::join(process_names(), ", "));
  }
  return text;
}

// A moment between two, in few digits and as --at takes it.
std::string moment_between(sim::Nanos begin, sim::Nanos end) {
  const sim::Nanos middle = begin + (end - begin) / 2;
  for (const auto& [unit, name] : {std::pair{sim::kSecond, "s"}, {sim::kMillisecond, "ms"}, {sim::kMicrosecond, "us"}}) {
    if (middle / unit >= 10 && middle / unit * unit > begin) return fmt::format("{}{}", middle / unit, name);
  }
  return fmt::format("{}ns", middle);
}

std::string seconds(sim::Nanos time) { return fmt::format("{:.6f} s", static_cast<double>(time) / sim::kSecond); }

// Why a view cannot be had of the process, and what to do.
UserError no_process(kernel::Machine& machine, std::string_view view, int pid) {
  std::string why;
  if (const kernel::Process* process = machine.processes().find(pid); process == nullptr) {
    std::vector<std::string> others;
    for (const auto& other : machine.processes().all()) {
      if (other->mm != nullptr) others.push_back(fmt::format("{} ({})", other->pid, other->comm));
    }
    why = fmt::format("by {} no process {} has begun; {}", seconds(machine.scheduler().now()), pid,
                      others.empty() ? "all that did have ended" : fmt::format("there are {}", fmt::join(others, ", ")));
  } else if (process->state == kernel::ProcessState::kRunning) {
    why = fmt::format("process {} is just ending: look a little earlier, with --at", pid);
  } else {
    why = fmt::format("process {} ended at {}: look earlier, for instance with --at {}", pid, seconds(process->end_time),
                      moment_between(process->start_time, process->end_time));
  }
  return {fmt::format("--show {}:{}: {}", view, pid, why)};
}

Checked<std::string> process_text(kernel::Machine& machine, const ProcessView& view, int pid) {
  kernel::Process* process = machine.processes().find(pid);
  const bool there = process != nullptr && (view.wants == Wants::kMemory ? process->mm != nullptr : process->signal != nullptr);
  if (!there) return std::unexpected(no_process(machine, view.name, pid));
  return view.text(machine, *process);
}

Checked<View> process_view(const ProcessView& view, std::string_view wanted) {
  if (wanted == view.name) {
    return user_error(
        fmt::format("--show {}: of which process? Its number comes behind a colon, as in {}:1", wanted, view.name));
  }
  const std::string_view number = wanted.substr(view.name.size() + 1);
  int pid = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), pid);
  if (error != std::errc{} || end != number.data() + number.size() || pid <= 0) {
    return user_error(fmt::format("--show {}: '{}' is no process number: write one from 1 to {} behind the colon, as in {}:1",
                                  wanted, number, std::numeric_limits<int>::max(), view.name));
  }
  return View{fmt::format("{}:{}", view.name, pid), pid,
              [&view, pid](kernel::Machine& machine) { return process_text(machine, view, pid); }};
}

Checked<View> find_view(std::string_view wanted, Shows shows) {
  const std::string_view name = wanted.substr(0, wanted.find(':'));
  for (const auto& [known, text] : kMachineViews) {
    if (name != known) continue;
    if (wanted != known) {
      return user_error(
          fmt::format("--show {}: {} is the whole machine's, not a process's: write {} alone", wanted, known, known));
    }
    return View{std::string(known), 0, [text](kernel::Machine& m) -> Checked<std::string> { return text(m); }};
  }
  for (const ProcessView& view : kProcessViews) {
    if (name != view.name) continue;
    if (shows == Shows::kProcessesToo) return process_view(view, wanted);
    return user_error(
        fmt::format("--show {}: a machine that has only booted has no processes: give quire replay a trace, as in "
                    "quire replay t.qtr --at 5ms --show {}:1",
                    wanted, name));
  }
  const std::vector<std::string_view> known = known_names(shows);
  const std::string_view guess = nearest(name, known);
  return user_error(
      fmt::format("--show {}: {}", wanted,
                  guess.empty() ? fmt::format("known are {}", known_views(shows)) : fmt::format("did you mean '{}'?", guess)));
}

// The first of the views whose process's areas somebody is changing, or about to as soon as others have looked at them: the
// view would wait for him. Each time looked up anew: the process may exec or end.
const View* being_changed(kernel::Machine& machine, const std::vector<View>& views) {
  const auto it = std::ranges::find_if(views, [&machine](const View& view) {
    const kernel::Process* process = view.pid == 0 ? nullptr : machine.processes().find(view.pid);
    return process != nullptr && process->mm != nullptr && process->mm->mmap_lock.reader_would_wait();
  });
  return it == views.end() ? nullptr : &*it;
}

// A writer may wait for memory, and that for a disk; but not for so long.
constexpr sim::Nanos kLongestChange = 10 * sim::kSecond;

// Lets whoever changes areas come to an end: by small steps at first, so that little else happens.
Checked<void> settle(kernel::Machine& machine, const std::vector<View>& views) {
  sim::Scheduler& scheduler = machine.scheduler();
  const sim::Nanos begin = scheduler.now();
  bool goes_on = true;
  while (const View* view = being_changed(machine, views)) {
    const sim::Nanos passed = scheduler.now() - begin;
    if (!goes_on || passed > kLongestChange) {
      return user_error(
          fmt::format("--show {}: process {} is changing its areas and has not finished {} later: look at another "
                      "moment, with --at",
                      view->name, view->pid, seconds(passed)));
    }
    const sim::Nanos step = passed < 10 * sim::kMillisecond ? sim::kMicrosecond : passed / 16;
    goes_on = scheduler.run_until(scheduler.now() + step).end() == sim::RunEnd::kTimeLimit;
  }
  return {};
}

}  // namespace

void add_show(CLI::App& app, std::vector<std::string>& names, const std::string& instead, Shows shows) {
  app.add_option("--show", names, fmt::format("{}: {}", instead, known_views(shows)))
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("VIEW,VIEW,...");
}

Checked<std::vector<View>> find_views(const std::vector<std::string>& names, Shows shows) {
  std::vector<View> views;
  for (const std::string& name : names) {
    auto view = find_view(name, shows);
    if (!view) return std::unexpected(view.error());
    views.push_back(std::move(*view));
  }
  return views;
}

int show_views(kernel::Machine& machine, const std::vector<View>& views, bool as_json) {
  if (const auto settled = settle(machine, views); !settled) return complain(settled.error().sentence);
  nlohmann::json out = nlohmann::json::object();
  std::string all;
  for (const View& view : views) {
    const auto text = view.text(machine);
    if (!text) return complain(text.error().sentence);
    out[view.name] = *text;
    if (views.size() > 1) all += fmt::format("==> {} <==\n", view.name);
    all += *text;
  }
  if (as_json) {
    print_json(out);
  } else {
    print(all);
  }
  return 0;
}

}  // namespace quire::cli
