#include "quire/observe/status.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "quire/base/function_ref.h"
#include "quire/sim/task.h"

namespace quire::observe {

using kernel::Machine;
using kernel::Process;
using kernel::ProcessState;
using kernel::Thread;
using vm::Mm;
using vm::Rss;

namespace {

constexpr std::size_t kCommMost = 15;                             // TASK_COMM_LEN less the final zero
constexpr unsigned kMostNodes = 1024;                             // MAX_NUMNODES of Debian's kernel
constexpr std::uint64_t kAllCaps = (std::uint64_t{1} << 41) - 1;  // up to CAP_CHECKPOINT_RESTORE
constexpr std::uint64_t kCapIpcLock = std::uint64_t{1} << 14;
constexpr std::uint64_t kSigKillBit = std::uint64_t{1} << (9 - 1);

constexpr std::uint64_t pages_kib(std::uint64_t pages) { return pages << (kPageShift - 10); }

// The thread that the process began with, as long as it has a task_struct.
const Thread* leader(const Process& process) {
  if (process.signal == nullptr) return nullptr;
  for (const Thread& thread : process.signal->threads) {
    if (thread.tid == process.pid) return &thread;
  }
  return nullptr;
}

std::string_view state_of(const Process& process) {
  const Thread* first = leader(process);
  if (process.state != ProcessState::kRunning || first == nullptr || first->task == nullptr) return "Z (zombie)";
  switch (first->task->state_letter().front()) {
    case 'S': return "S (sleeping)";
    case 'D': return "D (disk sleep)";  // for memory, a lock or a page
    default: return "R (running)";
  }
}

// As seq_escape does it for what would break a line.
std::string escaped(std::string_view comm) {
  std::string text;
  for (const char c : comm.substr(0, kCommMost)) {
    switch (c) {
      case '\n': text += "\\n"; break;
      case '\\': text += "\\\\"; break;
      default: text += c;
    }
  }
  return text;
}

const Process& oldest_ancestor(const Process& process) {
  const Process* at = &process;
  while (at->parent != nullptr) at = at->parent;
  return *at;
}

// A mask as %*pb and %*pbl print it: words of 32 bits from the top, the first as wide as it needs; ranges of what is set.
struct MaskText {
  std::string bits, list;
};
MaskText mask_text(unsigned count, FunctionRef<bool(unsigned)> set) {
  MaskText text;
  for (unsigned word = (count + 31) / 32; word-- > 0;) {
    const unsigned width = std::min(32u, count - word * 32);
    std::uint32_t value = 0;
    for (unsigned bit = 0; bit < width; ++bit) value |= set(word * 32 + bit) ? 1u << bit : 0;
    text.bits += fmt::format("{}{:0{}x}", text.bits.empty() ? "" : ",", value, (width + 3) / 4);
  }
  for (unsigned at = 0; at < count; ++at) {
    if (!set(at)) continue;
    unsigned last = at;
    while (last + 1 < count && set(last + 1)) ++last;
    text.list += fmt::format("{}{}", text.list.empty() ? "" : ",", at);
    if (last != at) text.list += fmt::format("-{}", last);
    at = last;
  }
  return text;
}

void task_state(std::string& text, const Process& process) {
  if (process.fs != nullptr) text += fmt::format("Umask:\t{:04o}\n", process.fs->umask);
  text += fmt::format("State:\t{}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t0\n", state_of(process), process.pid,
                      process.pid, process.real_parent != nullptr ? process.real_parent->pid : 0);
  const auto ids = process.cred != nullptr ? process.cred->ids : decltype(process.cred->ids){};
  // Real, effective, saved and file-system id.
  text += fmt::format("Uid:\t{}\t{}\t{}\t{}\n", ids[0], ids[2], ids[1], ids[3]);
  text += fmt::format("Gid:\t{}\t{}\t{}\t{}\n", ids[4], ids[6], ids[5], ids[7]);
  text += fmt::format("FDSize:\t{}\nGroups:\t \n", process.files != nullptr ? process.files->max_fds() : 0);
  const int session = oldest_ancestor(process).pid;
  text += fmt::format("NStgid:\t{0}\nNSpid:\t{0}\nNSpgid:\t{1}\nNSsid:\t{1}\n", process.pid, session);
}

void task_mem(std::string& text, const Mm& mm) {
  const auto count = [&mm](Rss kind) { return static_cast<std::uint64_t>(std::max<std::int64_t>(0, mm.counter(kind))); };
  const auto line = [&text](std::string_view name, std::uint64_t kib) { text += fmt::format("{}:\t{:>8} kB\n", name, kib); };
  const std::uint64_t rss = count(Rss::kAnonPages) + count(Rss::kFilePages) + count(Rss::kShmemPages);
  const std::uint64_t code = align_up(mm.end_code, kPageSize) - align_down(mm.start_code, kPageSize);
  const std::uint64_t exec = pages_to_bytes(mm.exec_vm);
  const std::uint64_t program = std::min(code, exec);
  line("VmPeak", pages_kib(std::max(mm.hiwater_vm, mm.total_vm)));
  line("VmSize", pages_kib(mm.total_vm));
  line("VmLck", pages_kib(mm.locked_vm));
  line("VmPin", 0);
  line("VmHWM", pages_kib(std::max(mm.hiwater_rss, rss)));
  line("VmRSS", pages_kib(rss));
  line("RssAnon", pages_kib(count(Rss::kAnonPages)));
  line("RssFile", pages_kib(count(Rss::kFilePages)));
  line("RssShmem", pages_kib(count(Rss::kShmemPages)));
  line("VmData", pages_kib(mm.data_vm));
  line("VmStk", pages_kib(mm.stack_vm));
  line("VmExe", program / kKiB);
  line("VmLib", (exec - program) / kKiB);
  line("VmPTE", pages_kib(mm.pgtables_pages));
  line("VmSwap", pages_kib(count(Rss::kSwapEnts)));
  line("HugetlbPages", 0);
  text += "CoreDumping:\t0\nTHP_enabled:\t0\n";
}

// Half of what fork allows in all: an eighth of RAM in kernel stacks (fork_init's RLIMIT_SIGPENDING).
std::uint64_t sigpending_limit(Machine& machine) {
  const std::uint64_t threads = pages_to_bytes(machine.phys().totalram_pages()) / (kernel::TaskObjects::kThreadSize * 8);
  return std::max<std::uint64_t>(threads, 20) / 2;
}

void task_sig_and_cap(std::string& text, Machine& machine, const Process& process) {
  const bool gone = process.signal == nullptr;
  text +=
      fmt::format("Threads:\t{}\nSigQ:\t0/{}\n", gone ? 0 : process.signal->nr_threads, gone ? 0 : sigpending_limit(machine));
  text += fmt::format("SigPnd:\t{:016x}\n", process.killed() ? kSigKillBit : 0);
  for (const char* none : {"ShdPnd", "SigBlk", "SigIgn", "SigCgt"}) text += fmt::format("{}:\t{:016x}\n", none, 0);
  const bool may_lock = process.mm == nullptr || process.mm->ipc_lock == vm::CapIpcLock::kYes;
  const std::uint64_t caps = may_lock ? kAllCaps : kAllCaps & ~kCapIpcLock;
  text += fmt::format("CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\n", 0, caps,
                      caps, caps, 0);
}

}  // namespace

std::string status(Machine& machine, const Process& process) {
  std::string text = fmt::format("Name:\t{}\n", escaped(process.comm));
  task_state(text, process);
  if (process.mm != nullptr) task_mem(text, *process.mm);
  task_sig_and_cap(text, machine, process);
  // Nothing speculates here.
  text +=
      "NoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\nSpeculation_Store_Bypass:\tnot vulnerable\n"
      "SpeculationIndirectBranch:\tnot affected\n";
  const MaskText cpus = mask_text(machine.scheduler().cpus(), [](unsigned) { return true; });
  text += fmt::format("Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\n", cpus.bits, cpus.list);
  const auto nodes = machine.phys().nodes();
  const MaskText mems =
      mask_text(kMostNodes, [&nodes](unsigned nid) { return nid < nodes.size() && nodes[nid]->present_pages() != 0; });
  text += fmt::format("Mems_allowed:\t{}\nMems_allowed_list:\t{}\n", mems.bits, mems.list);
  const Thread* first = leader(process);
  const sim::TaskStats stats = first != nullptr && first->task != nullptr ? first->task->stats() : sim::TaskStats{};
  text += fmt::format("voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n", stats.voluntary_switches,
                      stats.involuntary_switches);
  return text;
}

}  // namespace quire::observe
