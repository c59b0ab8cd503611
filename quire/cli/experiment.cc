#include "quire/cli/experiment.h"

#include <fmt/format.h>

#include <variant>

namespace quire::cli {

namespace {

// A request that cannot succeed and may not fail tries for ever: so long, and so many steps, are looked at.
constexpr sim::Nanos kMostTime = 60 * sim::kSecond;
constexpr std::uint64_t kMostSteps = 1'000'000;
constexpr sim::Nanos kLookEvery = 10 * sim::kMillisecond;
constexpr std::size_t kKeptFirst = 20'000;  // of the steps that are kept, in memory and in --json
constexpr std::size_t kKeptLast = 20'000;

}  // namespace

Event::Event(const EventView& view, sim::Nanos when) : name(view.name()), at(when) {
  view.fields([this](std::string_view field, FieldValue value) {
    if (const auto* words = std::get_if<std::string_view>(&value)) text.emplace(field, *words);
    if (const auto* n = std::get_if<std::int64_t>(&value)) number.emplace(field, *n);
    if (const auto* n = std::get_if<std::uint64_t>(&value)) number.emplace(field, static_cast<std::int64_t>(*n));
  });
}

void Steps::add(Event event) {
  ++all_;
  if (first_.size() < kKeptFirst) return first_.push_back(std::move(event));
  last_.push_back(std::move(event));
  if (last_.size() > kKeptLast) last_.pop_front();
}

nlohmann::json Steps::to_json() const {
  nlohmann::json events = nlohmann::json::array();
  const auto add = [&events](const Event& event) {
    nlohmann::json fields = nlohmann::json::object();
    for (const auto& [name, value] : event.number) fields[name] = value;
    for (const auto& [name, value] : event.text) fields[name] = value;
    events.push_back({{"event", event.name}, {"ns", event.at}, {"fields", std::move(fields)}});
  };
  for (const Event& event : first_) add(event);
  for (const Event& event : last_) add(event);
  return events;
}

StepListener::StepListener(kernel::Machine& machine, Wanted wanted, Sink sink)
    : machine_(machine),
      wanted_(wanted),
      sink_(std::move(sink)),
      task_(machine.scheduler().current()),
      start_(machine.scheduler().now()) {
  for (TracepointBase* point : machine_.traces().all()) {
    if (!wanted_(point->name())) continue;
    point->listen([this](const EventView& view) {
      if (machine_.scheduler().current() == task_) sink_(Event(view, machine_.scheduler().now() - start_));
    });
  }
}

StepListener::~StepListener() {
  for (TracepointBase* point : machine_.traces().all()) {
    if (wanted_(point->name())) point->silence();
  }
}

void run_experiment(kernel::Machine& machine, Experiment& experiment, const std::function<void(kernel::Thread&)>& body,
                    const std::function<void()>& forget) {
  const auto made = machine.processes().create("explain", [&](kernel::Thread& thread) {
    body(thread);
    machine.processes().exit_thread(thread, {});
  });
  if (!made) {
    experiment.mistake = fmt::format("no process could be made: {}; give more --ram", errno_name(made.error()));
    return;
  }
  sim::Scheduler& scheduler = machine.scheduler();
  while (!experiment.done && experiment.mistake.empty()) {
    const sim::RunOutcome outcome = scheduler.run_until(scheduler.now() + kLookEvery);
    if (experiment.done || !experiment.mistake.empty()) break;
    const sim::Nanos tried = experiment.begun_at ? scheduler.now() - *experiment.begun_at : 0;
    if (outcome.end() != sim::RunEnd::kTimeLimit) {
      experiment.mistake = fmt::format("what was asked did not come back: {}", outcome.report());
    } else if (tried >= kMostTime || experiment.steps.all() >= kMostSteps) {
      break;
    }
  }
  forget();
  if (experiment.done || !experiment.mistake.empty()) static_cast<void>(machine.run());
}

}  // namespace quire::cli
