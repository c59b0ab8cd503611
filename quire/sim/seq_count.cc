#include "quire/sim/seq_count.h"

namespace quire::sim {

// A writer on another CPU is inside its section, or a section that ran undisturbed ends later in virtual time.
void SeqCount::wait_for_writer() {
  const Nanos begin = scheduler_.now();
  while ((sequence_ & 1) != 0) {
    if (scheduler_.current() == nullptr) bug("a sequence counter is read inside its own write section");
    scheduler_.charge(scheduler_.costs().lock_handover + 1);
    scheduler_.sync_point();
  }
  if (scheduler_.now() < written_at_) scheduler_.spin_until(written_at_);
  class_.stats().record_wait(scheduler_.now() - begin);
}

}  // namespace quire::sim
