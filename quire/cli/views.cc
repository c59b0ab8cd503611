#include "quire/cli/views.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
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

// Of a process that has memory.
using ProcessText = std::string (*)(kernel::Machine&, kernel::Process&);
template <std::string (*kText)(vm::Vm&, vm::Mm&)>
std::string of_memory(kernel::Machine& machine, kernel::Process& process) {
  return kText(machine.vm(), *process.mm);
}
constexpr std::pair<std::string_view, ProcessText> kProcessViews[] = {
    {"maps", of_memory<observe::maps>},
    {"smaps", of_memory<observe::smaps>},
    {"smaps_rollup", of_memory<observe::smaps_rollup>},
    {"status", [](kernel::Machine& machine, kernel::Process& process) { return observe::status(machine, process); }},
    {"statm", [](kernel::Machine&, kernel::Process& process) { return observe::statm(*process.mm); }},
    {"pagemap", of_memory<observe::pagemap>},
};

std::vector<std::string_view> known_names() {
  std::vector<std::string_view> names;
  for (const auto& [name, text] : kMachineViews) names.push_back(name);
  for (const auto& [name, text] : kProcessViews) names.push_back(name);
  return names;
}

std::string living(kernel::Machine& machine) {
  std::vector<std::string> names;
  for (const auto& process : machine.processes().all()) {
    if (process->mm != nullptr) names.push_back(fmt::format("{} ({})", process->pid, process->comm));
  }
  return names.empty() ? "no process has memory now" : fmt::format("there are {}", fmt::join(names, ", "));
}

// Whoever changes the areas at this moment comes to an end first.
void let_writer_finish(kernel::Machine& machine, const vm::Mm& mm) {
  sim::Scheduler& scheduler = machine.scheduler();
  while (mm.mmap_lock.is_write_locked()) {
    if (scheduler.run_until(scheduler.now() + sim::kMicrosecond).end() != sim::RunEnd::kTimeLimit) return;
  }
}

Checked<std::string> process_text(kernel::Machine& machine, std::string_view name, ProcessText text, int pid) {
  kernel::Process* process = machine.processes().find(pid);
  if (process != nullptr && process->mm != nullptr) let_writer_finish(machine, *process->mm);
  if (process == nullptr || process->mm == nullptr) {
    return user_error(fmt::format("--show {}:{}: process {} has no memory here; {}", name, pid, pid, living(machine)));
  }
  return text(machine, *process);
}

Checked<View> process_view(std::string_view name, ProcessText text, std::string_view number) {
  int pid = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), pid);
  if (error != std::errc{} || end != number.data() + number.size() || pid <= 0) {
    return user_error(fmt::format("--show {}: of which process? Its number comes behind a colon, as in {}:1", name, name));
  }
  return View{fmt::format("{}:{}", name, pid),
              [name, text, pid](kernel::Machine& machine) { return process_text(machine, name, text, pid); }};
}

Checked<View> find_view(std::string_view wanted) {
  const std::string_view name = wanted.substr(0, wanted.find(':'));
  for (const auto& [known, text] : kMachineViews) {
    if (wanted == known)
      return View{std::string(known), [text](kernel::Machine& m) -> Checked<std::string> { return text(m); }};
  }
  for (const auto& [known, text] : kProcessViews) {
    if (name == known) return process_view(known, text, wanted.substr(std::min(wanted.size(), name.size() + 1)));
  }
  const std::string_view guess = nearest(name, known_names());
  return user_error(fmt::format(
      "--show {}: {}", wanted,
      guess.empty() ? fmt::format("known are {}", fmt::join(known_names(), ", ")) : fmt::format("did you mean '{}'?", guess)));
}

}  // namespace

std::string view_names() { return fmt::format("{}", fmt::join(known_names(), ", ")); }

Checked<std::vector<View>> find_views(const std::vector<std::string>& names) {
  std::vector<View> views;
  for (const std::string& name : names) {
    auto view = find_view(name);
    if (!view) return std::unexpected(view.error());
    views.push_back(std::move(*view));
  }
  return views;
}

int show_views(kernel::Machine& machine, const std::vector<View>& views, bool as_json) {
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
