// membarrier(2): every thread of a process passes a full memory barrier before the call returns.
//
// One host thread runs the whole machine, so memory is in order by itself; what is left is who may ask (registration, which
// fork passes on and exec takes away) and the price: an interrupt to the other CPUs that run the process now, or, for
// MEMBARRIER_CMD_GLOBAL_EXPEDITED, any process that has registered for that; a grace period for MEMBARRIER_CMD_GLOBAL.
#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

using Cmd = MembarrierCmd;
using State = MembarrierState;

struct Kind {
  Cmd cmd;
  Cmd registration;
  State state;
};

constexpr Kind kExpedited[] = {
    {Cmd::kGlobalExpedited, Cmd::kRegisterGlobalExpedited, State::kGlobalExpedited},
    {Cmd::kPrivateExpedited, Cmd::kRegisterPrivateExpedited, State::kPrivateExpedited},
    {Cmd::kPrivateExpeditedSyncCore, Cmd::kRegisterPrivateExpeditedSyncCore, State::kPrivateExpeditedSyncCore},
    {Cmd::kPrivateExpeditedRseq, Cmd::kRegisterPrivateExpeditedRseq, State::kPrivateExpeditedRseq},
};

constexpr std::uint32_t kAllCommands = (std::uint32_t{1} << 10) - 1;  // MEMBARRIER_CMD_BITMASK with GET_REGISTRATIONS

std::uint32_t registrations(State state) {
  std::uint32_t mask = 0;
  for (const Kind& kind : kExpedited) {
    if (any(state, kind.state)) mask |= static_cast<std::uint32_t>(kind.registration);
  }
  // Linux counts who registered for more than the plain private barrier as registered for that, too; it may still not ask for it.
  if (any(state, State::kPrivateExpeditedSyncCore | State::kPrivateExpeditedRseq)) {
    mask |= static_cast<std::uint32_t>(Cmd::kRegisterPrivateExpedited);
  }
  return mask;
}

}  // namespace

Result<std::uint32_t> Vm::membarrier(Mm& mm, MembarrierCmd cmd, std::uint32_t flags, int cpu) {
  const bool takes_cpu = cmd == Cmd::kPrivateExpeditedRseq;
  if (flags != 0 && !(takes_cpu && flags == kMembarrierCmdFlagCpu)) return fail(Errno::kInval);
  sim::Scheduler& scheduler = parts_.scheduler;
  switch (cmd) {
    case Cmd::kQuery: return kAllCommands;
    case Cmd::kGetRegistrations: return registrations(mm.membarrier_state);
    case Cmd::kGlobal:
      if (scheduler.cpus() > 1) scheduler.charge(scheduler.costs().ipi);  // synchronize_rcu
      return 0;
    default: break;
  }
  for (const Kind& kind : kExpedited) {
    if (cmd == kind.registration) {
      mm.membarrier_state |= kind.state;
      return 0;
    }
    if (cmd != kind.cmd) continue;
    const bool one_cpu = flags == kMembarrierCmdFlagCpu;
    const unsigned self = scheduler.cpu();
    bool others = false;
    const auto reach = [&](const Mm& target) {
      target.cpumask.for_each([&](unsigned n) {
        others |= n != self && (!one_cpu || static_cast<int>(n) == cpu) && !shootdown_.is_lazy(n, target);
      });
    };
    if (kind.state != State::kGlobalExpedited) {
      if (!any(mm.membarrier_state, kind.state)) return fail(Errno::kPerm);
      reach(mm);
    } else {  // whoever asks need not have registered
      for (const Mm& target : mms_) {
        if (any(target.membarrier_state, kind.state)) reach(target);
      }
    }
    if (others) scheduler.charge(scheduler.costs().ipi);
    return 0;
  }
  return fail(Errno::kInval);
}

}  // namespace quire::vm
