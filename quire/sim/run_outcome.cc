#include "quire/sim/run_outcome.h"

#include <fmt/format.h>

namespace quire::sim {

std::string RunOutcome::report() const {
  seen_ = true;
  if (end_ != RunEnd::kDeadlock) return {};
  std::string text = "deadlock: nothing can run any more, and these wait:";
  for (const BlockedTask& b : blocked_) {
    text += fmt::format("\n  task {} '{}' waits on {} since {} ns", b.id, b.task, b.waits_on, b.since);
  }
  return text;
}

}  // namespace quire::sim
