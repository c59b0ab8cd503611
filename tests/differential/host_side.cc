#include "host_side.h"

#include "host_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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

HostSide::HostSide(const std::string& disk_bytes) {
  disk_file_ = open_disk_file(disk_bytes);
  memfd_ = memfd_create("memfd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
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
    serve(*shared_, disk_file_, memfd_);
  }
  pids_[0] = child;
  wait_answer(0);
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

Beginning HostSide::beginning() const { return shared_->beginning; }

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
