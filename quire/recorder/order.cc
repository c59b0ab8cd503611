#include "quire/recorder/process.h"

namespace quire::recorder {
namespace {

void write_order(Vcpu& v, std::uint64_t after, std::uint64_t sequence, std::uint64_t flags = 0) {
  Record order;
  order.kind = RecordKind::kOrder;
  order.after = after;
  v.ordered_after = sequence == after + 1 ? sequence : after;  // its own call is behind it, too
  order.sequence = sequence;
  order.flags = flags;
  write_record(v, order);
}

std::uint64_t next_sequence() { return __atomic_add_fetch(&process().completed_calls, 1, __ATOMIC_SEQ_CST); }

}  // namespace

std::uint64_t completed_calls() { return __atomic_load_n(&process().completed_calls, __ATOMIC_SEQ_CST); }

void order_call_after(Vcpu& v, std::uint64_t after) {
  if (process().threaded) write_order(v, after, next_sequence());
}

void order_call(Vcpu& v) {
  if (!process().threaded) return;
  const std::uint64_t sequence = next_sequence();
  write_order(v, sequence - 1, sequence);
}

std::uint64_t order_entry(Vcpu& v) {
  Process& p = process();
  if (!p.threaded) return 0;
  std::vector<Record> others;
  {
    Lock hold(p.lock);
    for (const Vcpu* u = p.vcpus; u != nullptr; u = u->next) {
      if (u == &v) continue;
      Record& behind = others.emplace_back();
      behind.kind = RecordKind::kBehind;
      behind.child = u->id;
      behind.after = u->shared.instructions;
    }
  }
  for (const Record& behind : others) write_record(v, behind);
  return next_sequence();
}

void order_call(Vcpu& v, const PendingSyscall& call) { write_order(v, call.sequence - 1, call.sequence); }

void order_wake_up(Vcpu& v) {
  if (!process().threaded) return;
  const std::uint64_t sequence = next_sequence();
  write_order(v, sequence - 1, sequence, trace::kCompletesHere);
}

void order_here(Vcpu& v) {
  if (!process().threaded) return;
  if (const std::uint64_t after = completed_calls(); after > v.ordered_after) write_order(v, after, 0);
}

}  // namespace quire::recorder
