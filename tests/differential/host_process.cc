// In the processes: no allocation, nothing but system calls.
#include "host_process.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace quire::differential {

namespace {

constexpr long kMsealNumber = 462;  // SYS_mseal, which headers before 6.10 do not have

sigjmp_buf g_back;
volatile int g_signal = 0;
volatile int g_code = 0;
constexpr std::size_t kAltStack = 64 * 1024;
alignas(4096) char g_alt_stack[kAltStack];

void on_signal(int signal, siginfo_t* info, void*) {
  g_signal = signal;
  g_code = info->si_code;
  siglongjmp(g_back, 1);
}

void catch_signals() {
  const stack_t stack{.ss_sp = g_alt_stack, .ss_flags = 0, .ss_size = kAltStack};
  sigaltstack(&stack, nullptr);
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

std::uint64_t minor_faults() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_minflt);
}

__attribute__((no_sanitize_address)) void access(const Op& op, Answer& answer) {
  auto* at = reinterpret_cast<volatile unsigned char*>(op.address);
  g_signal = 0;
  const std::uint64_t before = minor_faults();
  if (sigsetjmp(g_back, 0) == 0) {
    if (op.call == Call::kRead) {
      answer.result = hash_page(at);
    } else {
      *at = op.value;
      answer.result = 0;
    }
  }
  answer.minor_faults = minor_faults() - before;
  answer.signal = g_signal;
  answer.si_code = g_signal != 0 ? g_code : 0;
}

alignas(4096) std::array<unsigned char, kPage> g_residency;
alignas(4096) std::array<char, kMostPwrite> g_bytes;
Beginning g_beginning;

long residency(const Op& op) {
  g_residency.fill(0);
  const long result = syscall(SYS_mincore, op.address, op.length, g_residency.data());
  if (result != 0) return result;
  for (unsigned char& page : g_residency) page &= 1;
  return hash_page(g_residency.data());
}

long set_rlimit(const Op& op) {
  rlimit limits{};
  getrlimit(static_cast<__rlimit_resource_t>(op.flags), &limits);
  limits.rlim_cur = limit_of(op, g_beginning);
  return setrlimit(static_cast<__rlimit_resource_t>(op.flags), &limits);
}

long drop_ipc_lock() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct caps[2];
  syscall(SYS_capget, &header, caps);
  caps[0].effective &= ~(1u << CAP_IPC_LOCK);
  return syscall(SYS_capset, &header, caps);
}

iovec part(std::uint64_t address, std::uint64_t length) { return {reinterpret_cast<void*>(address), length}; }

// The result, with errno set on -1, of a call that concerns the process `other`.
long remote_call(const Op& op, pid_t other) {
  const std::array ours{part(op.address, op.length), part(op.address + kSecondLocal, kSecondLocalBytes)};
  const std::array theirs{part(op.new_address, op.new_length), part(op.new_address + kSecondRemote, kSecondRemoteBytes)};
  if (op.call == Call::kProcessVm) {
    return syscall(op.value == 0 ? SYS_process_vm_readv : SYS_process_vm_writev, other, ours.data(), 2, theirs.data(), 2, 0);
  }
  const std::array parts{ours[0], part(op.address + kSecondRemote, kPage)};
  const int handle = static_cast<int>(syscall(SYS_pidfd_open, other, 0));
  const long result = syscall(SYS_process_madvise, handle, parts.data(), 2, op.flags, 0);
  const int error = errno;
  close(handle);
  errno = error;
  return result;
}

long system_call(const Op& op, int disk_file, int memfd) {
  const auto flags = static_cast<unsigned long>(op.flags);
  switch (op.call) {
    case Call::kMmap: {
      const int file = op.backing == Backing::kDiskFile ? disk_file : op.backing == Backing::kMemfd ? memfd : -1;
      return syscall(SYS_mmap, op.address, op.length, op.prot, flags, file, op.offset);
    }
    case Call::kMunmap: return syscall(SYS_munmap, op.address, op.length);
    case Call::kMprotect: return syscall(SYS_mprotect, op.address, op.length, op.prot);
    case Call::kMremap: return syscall(SYS_mremap, op.address, op.length, op.new_length, flags, op.new_address);
    case Call::kMadvise: return syscall(SYS_madvise, op.address, op.length, op.flags);
    case Call::kMlock: return syscall(SYS_mlock, op.address, op.length);
    case Call::kMlock2: return syscall(SYS_mlock2, op.address, op.length, op.flags);
    case Call::kMunlock: return syscall(SYS_munlock, op.address, op.length);
    case Call::kMsync: return syscall(SYS_msync, op.address, op.length, op.flags);
    case Call::kMlockall: return syscall(SYS_mlockall, op.flags);
    case Call::kMunlockall: return syscall(SYS_munlockall);
    case Call::kBrk: return syscall(SYS_brk, op.address);
    case Call::kMseal: return syscall(kMsealNumber, op.address, op.length, flags);
    case Call::kRemapFilePages: return syscall(SYS_remap_file_pages, op.address, op.length, op.prot, op.offset, flags);
    case Call::kMembarrier: return syscall(SYS_membarrier, op.flags, op.value, 0);
    case Call::kAddSeals: return fcntl(memfd, F_ADD_SEALS, op.flags);
    case Call::kGetSeals: return fcntl(memfd, F_GET_SEALS);
    case Call::kFtruncate: return ftruncate(memfd, static_cast<off_t>(op.length));
    case Call::kFallocate: return fallocate(memfd, op.flags, static_cast<off_t>(op.offset), static_cast<off_t>(op.length));
    case Call::kPwrite:
      std::memset(g_bytes.data(), op.value, g_bytes.size());
      return pwrite(memfd, g_bytes.data(), op.length, static_cast<off_t>(op.offset));
    case Call::kMincore: return residency(op);
    case Call::kSetRlimit: return set_rlimit(op);
    case Call::kDropIpcLock: return drop_ipc_lock();
    default: return 0;
  }
}

// --- before the first step -------------------------------------------------------------------------------------------------

std::array<char, 64 * 1024> g_text;  // of a file in /proc

std::size_t read_file(const char* name) {
  const int file = open(name, O_RDONLY | O_CLOEXEC);
  std::size_t bytes = 0;
  while (file >= 0 && bytes + 1 < g_text.size()) {
    const ssize_t got = read(file, g_text.data() + bytes, g_text.size() - 1 - bytes);
    if (got <= 0) break;
    bytes += static_cast<std::size_t>(got);
  }
  close(file);
  g_text[bytes] = 0;
  return bytes;
}

// Nothing stays free behind the arena, so that the kernel's choice of addresses ends there. (The top of user space, where the
// stack may grow, is not searched.)
void fill_behind_arena() {
  constexpr std::uint64_t kStackRoom = std::uint64_t{64} << 20;
  constexpr std::uint64_t kTop = 0x7fff'ffff'0000;
  struct Hole {
    std::uint64_t begin, end;
  };
  static std::array<Hole, 256> holes;
  std::size_t count = 0;
  std::uint64_t from = kArenaEnd;
  read_file("/proc/self/maps");
  for (char* line = g_text.data(); *line != 0 && count < holes.size();) {
    char* end_of_line = std::strchr(line, '\n');
    if (end_of_line == nullptr) break;
    *end_of_line = 0;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    if (std::sscanf(line, "%lx-%lx", &begin, &end) != 2 || end > kTop) break;
    if (std::strstr(line, "[stack]") != nullptr) begin -= kStackRoom;
    if (begin > from) holes[count++] = {from, begin};
    from = std::max(from, end);
    line = end_of_line + 1;
  }
  for (std::size_t i = 0; i < count; ++i) {
    syscall(SYS_mmap, holes[i].begin, holes[i].end - holes[i].begin, PROT_NONE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  }
}

// The process's brk lies in the arena, and its limits are those of a machine here. Reports its size.
Beginning begin() {
  fill_behind_arena();
  prctl_mm_map map{};
  map.start_code = map.start_data = map.end_data = map.start_stack = kBase;
  map.arg_start = map.arg_end = map.env_start = map.env_end = kBase;
  map.end_code = kBase + 1;
  map.start_brk = map.brk = kBrkStart;
  map.exe_fd = static_cast<std::uint32_t>(-1);
  prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0);
  constexpr rlim_t kBegin = 8 << 20;
  rlimit limits{};
  for (const auto resource : {RLIMIT_STACK, RLIMIT_MEMLOCK}) {
    getrlimit(resource, &limits);
    limits.rlim_cur = kBegin;
    setrlimit(resource, &limits);
  }
  Beginning beginning;
  read_file("/proc/self/status");
  const auto pages = [](const char* name) {
    const char* line = std::strstr(g_text.data(), name);
    return line == nullptr ? 0 : std::strtoull(line + std::strlen(name), nullptr, 10) / 4;
  };
  beginning.total_pages = pages("VmSize:");
  beginning.data_pages = pages("VmData:");
  return beginning;
}

// Everything that a step touches of the process's own, so that no fault of its own is counted.
void warm_up() {
  for (std::size_t i = 0; i < kAltStack; i += 4096) g_alt_stack[i] = 1;
  g_residency.fill(0);
  g_bytes.fill(0);
  Answer answer;
  Op bad;
  bad.call = Call::kWrite;
  bad.address = 0;
  access(bad, answer);
  static volatile unsigned char page[4096];
  Op good;
  good.call = Call::kRead;
  good.address = reinterpret_cast<std::uint64_t>(&page[0]);
  access(good, answer);
}

void read_smaps(Channel& channel) {
  const int file = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
  channel.smaps_bytes = 0;
  while (file >= 0 && channel.smaps_bytes < kSmapsBytes) {
    const ssize_t got = read(file, channel.smaps.data() + channel.smaps_bytes, kSmapsBytes - channel.smaps_bytes);
    if (got <= 0) break;
    channel.smaps_bytes += static_cast<std::size_t>(got);
  }
  close(file);
}

}  // namespace

void serve(Shared& shared, int disk_file, int memfd) {
  Channel* channels = shared.channels.data();
  unsigned process = 0;
  catch_signals();
  shared.beginning = g_beginning = begin();
  warm_up();
  channels[process].self = getpid();
  sem_post(&channels[process].done);
  while (true) {
    Channel& channel = channels[process];
    while (sem_wait(&channel.go) != 0) {}
    const Op op = channel.op;
    Answer answer;
    if (op.call == Call::kExit) _exit(0);
    if (op.call == Call::kFork) {
      const pid_t child = fork();
      if (child == 0) {
        process = op.child;
        channels[process].self = getpid();
        warm_up();
        sem_post(&channels[process].done);
        continue;
      }
      channel.child = child;
      answer.error = child < 0 ? errno : 0;
      warm_up();
    } else if (op.call == Call::kRead || op.call == Call::kWrite) {
      access(op, answer);
    } else {
      errno = 0;
      const bool remote = op.call == Call::kProcessVm || op.call == Call::kProcessMadvise;
      answer.result = remote ? remote_call(op, channels[op.child].self) : system_call(op, disk_file, memfd);
      answer.error = answer.result == -1 ? errno : 0;
    }
    read_smaps(channel);
    channel.answer = answer;
    sem_post(&channel.done);
  }
}

}  // namespace quire::differential
