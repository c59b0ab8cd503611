// quire explain fault: one page fault, told as ftrace's function graph tells it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <optional>

#include "quire/arch/access.h"
#include "quire/base/nearest.h"
#include "quire/cli/command.h"
#include "quire/cli/experiment.h"
#include "quire/cli/explain.h"
#include "quire/cli/fault_scene.h"
#include "quire/cli/machine_state.h"
#include "quire/cli/numbers.h"
#include "quire/kernel/machine.h"
#include "quire/phys/gfp.h"

namespace quire::cli {

namespace {

// What came of it.
struct Fault {
  Experiment experiment;
  FillReport before;
  FaultScene scene;
  vm::AccessOutcome outcome;
  std::uint64_t minor = 0;  // faults that were counted
  std::uint64_t major = 0;
  arch::Pte pte{};  // the entry afterwards
  sim::Nanos took = 0;
};

// Whatever the machine tells while it is in the fault, but for the way of each allocation, which explain alloc tells.
bool is_step_of_fault(std::string_view name) { return !name.starts_with("alloc_"); }

// While it lives locks tell of themselves.
class LocksTell {
 public:
  explicit LocksTell(sim::Scheduler& scheduler) : scheduler_(scheduler), before_(scheduler.lock_checks()) {
    scheduler_.set_lock_checks(true);
  }
  ~LocksTell() { scheduler_.set_lock_checks(before_); }
  LocksTell(const LocksTell&) = delete;
  LocksTell& operator=(const LocksTell&) = delete;

 private:
  sim::Scheduler& scheduler_;
  bool before_;
};

void take_the_fault(kernel::Machine& machine, vm::Mm& mm, Fault& fault, std::optional<StepListener>& listener) {
  const std::uint64_t minor = mm.min_flt;
  const std::uint64_t major = mm.maj_flt;
  listener.emplace(machine, is_step_of_fault, [&fault](Event event) { fault.experiment.steps.add(std::move(event)); });
  fault.experiment.begun_at = listener->start();
  fault.outcome = machine.vm().access(mm, fault.scene.address, fault.scene.access);
  fault.took = machine.scheduler().now() - listener->start();
  listener.reset();
  fault.minor = mm.min_flt - minor;
  fault.major = mm.maj_flt - major;
  const arch::Pte* pte = machine.vm().pgtable().pte_offset(mm, align_down(fault.scene.address, kPageSize));
  if (pte != nullptr) fault.pte = *pte;
  fault.experiment.done = true;
}

Fault fault_on(kernel::Machine& machine, const FaultKind& kind, const MachineState& state) {
  Fault fault;
  std::optional<StepListener> listener;
  std::optional<LocksTell> locks;
  const auto body = [&](kernel::Thread& thread) {
    const auto filled = Filler(machine, thread).bring_into(state);
    if (!filled) {
      fault.experiment.mistake = filled.error().sentence;
      return;
    }
    fault.before = *filled;
    vm::Mm& mm = *thread.process->mm;
    const auto scene = kind.prepare(machine, mm);
    if (!scene) {
      fault.experiment.mistake = scene.error().sentence;
      return;
    }
    fault.scene = *scene;
    locks.emplace(machine.scheduler());
    take_the_fault(machine, mm, fault, listener);
    locks.reset();
  };
  run_experiment(machine, fault.experiment, body, [&] {
    if (listener) fault.took = machine.scheduler().now() - listener->start();
    listener.reset();
    locks.reset();
  });
  return fault;
}

// --- telling --------------------------------------------------------------------------------------------------------------------

std::string error_code_words(std::int64_t code) {
  const auto bits = static_cast<arch::FaultCode>(code);
  using F = arch::FaultCode;
  return fmt::format("{} {}, {}", any(bits, F::kUser) ? "user" : "kernel",
                     any(bits, F::kInstr)   ? "fetch"
                     : any(bits, F::kWrite) ? "write"
                                            : "read",
                     any(bits, F::kProt) ? "page present" : "no page");
}

// An event's fields as ftrace prints them; of those that say more in words, the words.
std::string fields_of(const Event& e) {
  if (e.name == "page_fault_user") {
    return fmt::format("address={:#x} error_code={:#x} ({})", e.n("address"), e.n("error_code"),
                       error_code_words(e.n("error_code")));
  }
  if (e.name == "lock_acquire") {
    return fmt::format("{}{}{}", (e.n("flags") & sim::kLockTry) != 0 ? "try " : "",
                       (e.n("flags") & sim::kLockRead) != 0 ? "read " : "", e.s("name"));
  }
  if (e.name == "lock_release") return std::string(e.s("name"));
  std::vector<std::string> words;
  for (const auto& [name, value] : e.text) words.push_back(fmt::format("{}={}", name, value));
  for (const auto& [name, value] : e.number) {
    if (name == "gfp_flags") {
      words.push_back(fmt::format("{}={}", name, phys::gfp_names(static_cast<phys::Gfp>(value))));
    } else if (name == "pfn") {
      words.push_back(fmt::format("{}={:#x}", name, value));
    } else {
      words.push_back(fmt::format("{}={}", name, value));
    }
  }
  return fmt::format("{}", fmt::join(words, " "));
}

// Columns as ftrace's function_graph tracer has them: a function's time where it ends, events as comments.
class GraphText {
 public:
  explicit GraphText(const std::vector<Event>& events) : events_(events) {}

  std::vector<std::string> lines() {
    for (std::size_t i = 0; i < events_.size(); ++i) {
      const Event& e = events_[i];
      if (e.name == "funcgraph_entry") {
        const bool leaf = i + 1 < events_.size() && events_[i + 1].name == "funcgraph_exit";
        if (leaf) {
          line(events_[i + 1].at - e.at, fmt::format("{}();", e.s("func")));
          ++i;
        } else {
          line(std::nullopt, fmt::format("{}() {{", e.s("func")));
          begun_.push_back(e.at);
        }
      } else if (e.name == "funcgraph_exit") {
        const sim::Nanos begun = begun_.empty() ? 0 : begun_.back();
        if (!begun_.empty()) begun_.pop_back();
        line(e.at - begun, "}");
      } else {
        line(std::nullopt, fmt::format("/* {}: {} */", e.name, fields_of(e)));
      }
    }
    return std::move(lines_);
  }

 private:
  void line(std::optional<sim::Nanos> took, const std::string& what) {
    const std::string time = took ? fmt::format("{:.3f} us", static_cast<double>(*took) / 1000) : "";
    lines_.push_back(fmt::format("{:>13} | {:{}}{}\n", time, "", 2 * begun_.size(), what));
  }

  const std::vector<Event>& events_;
  std::vector<sim::Nanos> begun_;
  std::vector<std::string> lines_;
};

// A line without its numbers: what it has in common with others of its kind.
std::string shape(const std::string& line) {
  std::string out;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const bool digit = std::isxdigit(static_cast<unsigned char>(line[i])) != 0 && i > 0 &&
                       (line[i - 1] == '=' || line[i - 1] == 'x' || (!out.empty() && out.back() == '#'));
    if (!digit) {
      out += line[i];
    } else if (out.back() != '#') {
      out += '#';
    }
  }
  return out;
}

// How often the `period` lines from `at` on come one after the other.
std::size_t repeats(const std::vector<std::string>& shapes, std::size_t at, std::size_t period) {
  std::size_t n = 1;
  while (at + (n + 1) * period <= shapes.size() &&
         std::equal(shapes.begin() + static_cast<std::ptrdiff_t>(at), shapes.begin() + static_cast<std::ptrdiff_t>(at + period),
                    shapes.begin() + static_cast<std::ptrdiff_t>(at + n * period))) {
    ++n;
  }
  return n;
}

// Prints lines; of groups of lines that come again and again (readahead's pages), the first.
void print_folded(const std::vector<std::string>& lines) {
  constexpr std::size_t kLongestGroup = 16;
  constexpr std::size_t kWorthFolding = 4;
  std::vector<std::string> shapes;
  for (const std::string& line : lines) shapes.push_back(shape(line));
  for (std::size_t i = 0; i < lines.size();) {
    std::size_t period = 1;
    std::size_t times = 1;
    for (std::size_t p = 1; p <= kLongestGroup; ++p) {
      const std::size_t n = repeats(shapes, i, p);
      if (n >= kWorthFolding && n * p > times * period) {
        period = p;
        times = n;
      }
    }
    for (std::size_t k = 0; k < period; ++k) print(lines[i + k]);
    if (times > 1) {
      print(fmt::format("{:>13} | ... {} more of {} ...\n", "", times - 1,
                        period == 1 ? "this line" : fmt::format("these {} lines", period)));
    }
    i += period * times;
  }
}

std::string signal_words(const vm::AccessOutcome& outcome) {
  switch (outcome.signal) {
    case vm::Signal::kBus: return "SIGBUS, si_code BUS_ADRERR";
    case vm::Signal::kKill: return "SIGKILL";
    case vm::Signal::kSegv:
      return fmt::format("SIGSEGV, si_code {}", outcome.si_code == vm::SiCode::kSegvMapErr   ? "SEGV_MAPERR"
                                                : outcome.si_code == vm::SiCode::kSegvAccErr ? "SEGV_ACCERR"
                                                                                             : "SI_KERNEL");
    default: return "no signal";
  }
}

std::string result_words(const Fault& fault) {
  if (!fault.experiment.done) return "the fault had not ended when we stopped looking";
  if (fault.outcome.status == vm::AccessStatus::kOom) return "VM_FAULT_OOM";
  if (!fault.outcome.ok()) return signal_words(fault.outcome);
  const std::string_view counted = fault.major != 0 ? "a major fault" : fault.minor != 0 ? "a minor fault" : "no fault";
  return fmt::format("pfn {:#x}, mapped {}{}; counted as {}", fault.pte.pfn().value(),
                     arch::pte_write(fault.pte) ? "writable" : "read-only", arch::pte_dirty(fault.pte) ? ", dirty" : "",
                     counted);
}

void tell(const FaultKind& kind, const Fault& fault) {
  print(fmt::format("one fault: {}; {} of {} pages free before\n\n", kind.what, fault.before.free, fault.before.managed));
  print("#    DURATION   FUNCTION CALLS, EVENTS\n");
  const Steps& steps = fault.experiment.steps;
  // A fault in long reclaim has tens of thousands of steps; its beginning and its end are told.
  constexpr std::size_t kMostEvents = 1000;
  const auto& first = steps.first();
  if (steps.all() <= kMostEvents) {
    print_folded(GraphText(first).lines());
  } else {
    GraphText graph(first);
    const std::vector<std::string> lines = graph.lines();
    print_folded({lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(std::min(lines.size(), kMostEvents / 2))});
    print(fmt::format("{:>13} | ... {} steps in all; --json has more ...\n", "", steps.all()));
    if (steps.last().empty()) {
      print_folded({lines.end() - static_cast<std::ptrdiff_t>(std::min(lines.size(), kMostEvents / 10)), lines.end()});
    }
  }
  print(fmt::format("\nresult: {}, after {:.3f} us\n", result_words(fault), static_cast<double>(fault.took) / 1000));
}

nlohmann::json to_json(const FaultKind& kind, const Fault& fault) {
  const Steps& steps = fault.experiment.steps;
  const bool mapped = fault.experiment.done && fault.outcome.ok();
  constexpr std::string_view kAccesses[] = {"read", "write", "fetch"};
  return {{"kind", kind.name},
          {"address", fault.scene.address.value()},
          {"access", kAccesses[static_cast<std::size_t>(fault.scene.access)]},
          {"before", {{"free", fault.before.free}, {"managed", fault.before.managed}}},
          {"signal", static_cast<int>(fault.outcome.signal)},
          {"writable", mapped && arch::pte_write(fault.pte)},
          {"dirty", mapped && arch::pte_dirty(fault.pte)},
          {"done", fault.experiment.done},
          {"result", result_words(fault)},
          {"pfn", mapped ? nlohmann::json(fault.pte.pfn().value()) : nlohmann::json(nullptr)},
          {"minor_faults", fault.minor},
          {"major_faults", fault.major},
          {"steps", steps.all()},
          {"events_left_out", steps.left_out()},
          {"events", steps.to_json()},
          {"ns", fault.took}};
}

}  // namespace

std::string fault_kinds() {
  std::vector<std::string_view> names;
  for (const FaultKind& kind : fault_kinds_table()) names.push_back(kind.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

int explain_fault(const ExplainOptions& options) {
  const std::string name = options.kind.value_or("anon-write");
  const FaultKind* kind = find_fault_kind(name);
  if (kind == nullptr) {
    std::vector<std::string_view> names;
    for (const FaultKind& known : fault_kinds_table()) names.push_back(known.name);
    const std::string_view guess = nearest(name, names);
    return complain(guess.empty() ? fmt::format("--kind {}: there is no such fault; there are {}", name, fault_kinds())
                                  : fmt::format("--kind {}: there is no such fault; did you mean '{}'?", name, guess),
                    kUsage);
  }
  const auto fill = whole_number("--fill", options.fill, {.least = 0, .most = 100, .what = "percent"});
  if (!fill) return complain(fill.error().sentence, kUsage);
  auto config = options.machine.config();
  if (!config) return complain(config.error().sentence, kUsage);
  if (kind->name == "swap" && config->swap.empty()) {
    return complain("--kind swap: this machine has no swap; give it some, as with --swap zram:64M", kUsage);
  }
  if (auto runs = kernel::check_runs_programs(*config); !runs) return complain(runs.error().sentence, kUsage);
  auto machine = kernel::Machine::boot(*config);
  if (!machine) return complain(machine.error().sentence);
  const Fault fault = fault_on(**machine, *kind, {.fill_percent = static_cast<unsigned>(*fill)});
  if (!fault.experiment.mistake.empty()) return complain(fault.experiment.mistake);
  if (options.json) {
    print_json(to_json(*kind, fault));
  } else {
    tell(*kind, fault);
  }
  return fault.experiment.done ? 0 : 1;
}

}  // namespace quire::cli
