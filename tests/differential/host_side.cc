#include "host_side.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <semaphore.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

namespace quire::differential {

namespace {

constexpr std::size_t kSmapsBytes = 256 * 1024;

struct Channel {
  sem_t go;
  sem_t done;
  Op op;
  Answer answer;
  pid_t child = 0;  // of the fork just done
  std::size_t smaps_bytes = 0;
  std::array<char, kSmapsBytes> smaps;
};

// --- in the processes: no allocation, nothing but system calls ----------------------------------------------------------

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
    default: return 0;
  }
}

// Everything that a step touches of the process's own, so that no fault of its own is counted.
void warm_up() {
  for (std::size_t i = 0; i < kAltStack; i += 4096) g_alt_stack[i] = 1;
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

[[noreturn]] void serve(Channel* channels, unsigned process, int disk_file, int memfd) {
  catch_signals();
  warm_up();
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
      answer.result = system_call(op, disk_file, memfd);
      answer.error = answer.result == -1 ? errno : 0;
    }
    read_smaps(channel);
    channel.answer = answer;
    sem_post(&channel.done);
  }
}

int open_disk_file(const std::string& bytes) {
  const char* folder = std::getenv("TMPDIR");
  std::string name = std::string(folder != nullptr ? folder : "/tmp") + "/quire-differential-XXXXXX";
  const int file = mkstemp(name.data());
  if (file < 0) throw std::runtime_error(fmt::format("cannot make a file in {}: {}", folder, std::strerror(errno)));
  unlink(name.c_str());
  // A page at a time: one large write may become one large folio, whose pages are dirty together.
  for (std::size_t at = 0; at < bytes.size(); at += kPage) {
    if (pwrite(file, bytes.data() + at, kPage, static_cast<off_t>(at)) != static_cast<ssize_t>(kPage)) {
      throw std::runtime_error(fmt::format("cannot write {}: {}", name, std::strerror(errno)));
    }
  }
  if (fsync(file) != 0) throw std::runtime_error(fmt::format("cannot sync {}: {}", name, std::strerror(errno)));
  return file;
}

}  // namespace

struct HostSide::Shared {
  std::array<Channel, kProcesses> channels;
};

HostSide::HostSide(const std::string& disk_bytes) {
  disk_file_ = open_disk_file(disk_bytes);
  memfd_ = memfd_create("memfd", MFD_CLOEXEC);
  if (memfd_ < 0 || ftruncate(memfd_, kFilePages * kPage) != 0) throw std::runtime_error("the host makes no memfd");
  void* room = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) throw std::runtime_error("the host has no memory to share");
  shared_ = static_cast<Shared*>(std::memset(room, 0, sizeof(Shared)));
  for (Channel& channel : shared_->channels) {
    sem_init(&channel.go, 1, 0);
    sem_init(&channel.done, 1, 0);
  }
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // grandchildren are ours to wait for
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("the host makes no process");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGCHLD, SIG_IGN);
    serve(shared_->channels.data(), 0, disk_file_, memfd_);
  }
  pids_[0] = child;
}

HostSide::~HostSide() {
  for (unsigned process = 0; process < kProcesses; ++process) {
    if (pids_[process] == 0) continue;
    kill(pids_[process], SIGKILL);
    waitpid(pids_[process], nullptr, 0);
  }
  munmap(shared_, sizeof(Shared));
  close(disk_file_);
  close(memfd_);
}

void HostSide::start(unsigned process) const { sem_post(&shared_->channels[process].go); }

void HostSide::wait_answer(unsigned process) const {
  timespec limit;
  clock_gettime(CLOCK_REALTIME, &limit);
  limit.tv_sec += 20;
  while (sem_timedwait(&shared_->channels[process].done, &limit) != 0) {
    if (errno != EINTR) throw std::runtime_error(fmt::format("process {} of the host does not answer", process));
  }
}

// Until its memory is gone: a process can be waited for after that.
void HostSide::wait_end(unsigned process) {
  const int handle = static_cast<int>(syscall(SYS_pidfd_open, pids_[process], 0));
  if (handle >= 0) {
    pollfd ended{.fd = handle, .events = POLLIN, .revents = 0};
    poll(&ended, 1, 20'000);
    close(handle);
  }
  waitpid(pids_[process], nullptr, WNOHANG);
  pids_[process] = 0;
}

Answer HostSide::run(const Op& op) {
  Channel& channel = shared_->channels[op.process];
  channel.op = op;
  start(op.process);
  if (op.call == Call::kExit) {
    wait_end(op.process);
    return {};
  }
  wait_answer(op.process);
  if (op.call == Call::kFork && channel.answer.error == 0) {
    pids_[op.child] = channel.child;
    wait_answer(op.child);
  }
  return channel.answer;
}

std::string HostSide::arena(unsigned process) {
  const Channel& channel = shared_->channels[process];
  return arena_of({channel.smaps.data(), channel.smaps_bytes});
}

}  // namespace quire::differential
