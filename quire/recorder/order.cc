#include "quire/recorder/process.h"

namespace quire::recorder {
namespace {

void write_order(Vcpu& v, std::uint64_t after, std::uint64_t sequence, std::uint64_t flags = 0) {
  Record order;
  order.kind = RecordKind::kOrder;
  order.after = v.ordered_after = after;
  order.sequence = sequence;
  order.flags = flags;
  write_record(v, order);
}

std::uint64_t next_sequence() { return __atomic_add_fetch(&process().completed_calls, 1, __ATOMIC_SEQ_CST); }

}  // namespace

std::uint64_t completed_calls() { return __atomic_load_n(&process().completed_calls, __ATOMIC_SEQ_CST); }

void order_call(Vcpu& v, std::uint64_t after) {
  if (process().threaded) write_order(v, after, next_sequence());
}

void order_call(Vcpu& v) {
  if (!process().threaded) return;
  const std::uint64_t sequence = next_sequence();
  write_order(v, sequence - 1, sequence);
}

void order_wake_up(Vcpu& v) {
  if (!process().threaded) return;
  const std::uint64_t sequence = next_sequence();
  write_order(v, sequence - 1, sequence, trace::kCompletesHere);
}

void order_return(Vcpu& v) {
  if (!process().threaded) return;
  if (const std::uint64_t after = completed_calls(); after > v.ordered_after) write_order(v, after, 0);
}

}  // namespace quire::recorder
