// One experiment on a machine: something is done in a thread of a process, and its steps (tracepoints that fire meanwhile) are
// kept, the first and the last of them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/user_error.h"
#include "quire/kernel/machine.h"

namespace quire::cli {

// One tracepoint that fired, `at` nanoseconds after the listening began.
struct Event {
  std::string name;
  sim::Nanos at = 0;
  std::map<std::string, std::string, std::less<>> text;
  std::map<std::string, std::int64_t, std::less<>> number;

  Event(const EventView& view, sim::Nanos when);

  [[nodiscard]] std::int64_t n(std::string_view field) const {
    const auto it = number.find(field);
    return it == number.end() ? 0 : it->second;
  }
  [[nodiscard]] std::string_view s(std::string_view field) const {
    const auto it = text.find(field);
    return it == text.end() ? std::string_view{} : it->second;
  }
};

// The first and the last steps, and how many there were: one that tries for ever makes no end of them.
class Steps {
 public:
  void add(Event event);
  [[nodiscard]] std::uint64_t all() const { return all_; }
  [[nodiscard]] const std::vector<Event>& first() const { return first_; }
  [[nodiscard]] const std::deque<Event>& last() const { return last_; }
  // In the middle.
  [[nodiscard]] std::uint64_t left_out() const { return all_ - first_.size() - last_.size(); }
  [[nodiscard]] nlohmann::json to_json() const;

 private:
  std::vector<Event> first_;
  std::deque<Event> last_;
  std::uint64_t all_ = 0;
};

// From its birth to its death it hears what the calling task does; what others do meanwhile is left out.
class StepListener {
 public:
  using Wanted = bool (*)(std::string_view name);
  using Sink = std::function<void(Event)>;
  StepListener(kernel::Machine& machine, Wanted wanted, Sink sink);
  ~StepListener();
  StepListener(const StepListener&) = delete;
  StepListener& operator=(const StepListener&) = delete;
  [[nodiscard]] sim::Nanos start() const { return start_; }

 private:
  kernel::Machine& machine_;
  Wanted wanted_;
  Sink sink_;
  const sim::Task* task_;
  sim::Nanos start_;
};

// How an experiment went.
struct Experiment {
  std::string mistake;                      // of the preparation: nothing else counts then
  bool done = false;                        // false: it was still trying when we stopped looking
  std::optional<sim::Nanos> begun_at = {};  // set by the body when what is looked at begins
  Steps steps;
};

// Runs `body` in a thread of a new process until it has set `done` or `mistake`, or has tried for longer than anything needs.
// kDone false afterwards: the task still tries; nothing of it may reach into the caller then. `forget` is called before the task
// goes on to its end or is unwound.
void run_experiment(kernel::Machine& machine, Experiment& experiment, const std::function<void(kernel::Thread&)>& body,
                    const std::function<void()>& forget);

}  // namespace quire::cli
