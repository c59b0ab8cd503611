// A scheduler of its own for each test, with round figures for costs so that times can be worked out by hand.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quire/base/tracepoint.h"
#include "quire/sim/lock_guards.h"
#include "quire/sim/scheduler.h"
#include "quire/sim/seq_count.h"
#include "quire/sim/wait_queue.h"
#include "quire/sim/wait_table.h"

namespace quire::sim {

// Nothing costs anything but what the test charges.
inline CostModel free_of_charge() {
  CostModel costs;
  for (const CostModel::Entry& e : CostModel::entries()) {
    if (e.unit != "bytes/s") costs.*e.field = 0;
  }
  return costs;
}

struct Sim {
  explicit Sim(const SchedulerConfig& config = {}, const CostModel& costs = free_of_charge())
      : scheduler(config, costs, trace) {}
  ~Sim() { scheduler.unwind_tasks(); }

  TraceRegistry trace;
  Scheduler scheduler;

  LockClass& lock_class(std::string_view name) { return scheduler.locks().lock_class(name); }
};

// Every scheduling and lock event with its time, folded into one number.
class TraceHash {
 public:
  explicit TraceHash(Sim& sim) {
    for (TracepointBase* tracepoint : sim.trace.all()) {
      tracepoint->listen([this, &sim](const EventView& event) {
        ++events_;
        mix(sim.scheduler.now());
        mix(sim.scheduler.cpu());
        mix(event.name());
        event.fields([this](std::string_view, FieldValue value) {
          if (const auto* text = std::get_if<std::string_view>(&value)) mix(*text);
          if (const auto* number = std::get_if<std::uint64_t>(&value)) mix(*number);
          if (const auto* number = std::get_if<std::int64_t>(&value)) mix(static_cast<std::uint64_t>(*number));
        });
      });
    }
  }
  [[nodiscard]] std::uint64_t value() const { return hash_; }
  [[nodiscard]] std::uint64_t events() const { return events_; }

 private:
  void mix(std::uint64_t word) {
    hash_ = (hash_ ^ word) * 0x9e3779b97f4a7c15;
    hash_ ^= hash_ >> 29;
  }
  void mix(std::string_view text) {
    for (const char c : text) mix(static_cast<std::uint64_t>(c));
  }
  std::uint64_t hash_ = 1;
  std::uint64_t events_ = 0;
};

}  // namespace quire::sim
