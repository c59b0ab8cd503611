#include "quire/trace/collector.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "quire/trace/process_state.h"
#include "quire/trace/wire.h"

namespace quire::trace {

using protocol::MessageHeader;
using protocol::MessageType;
using protocol::SharedTask;

// A task whose exit has not been told yet, and its buffer.
struct Collector::LiveTask {
  TaskId id;
  std::int64_t last_sequence = -1;  // of the chunks received
  void* memory = MAP_FAILED;
  std::size_t size = 0;

  LiveTask() = default;
  LiveTask(const LiveTask&) = delete;
  LiveTask& operator=(const LiveTask&) = delete;
  ~LiveTask() {
    if (memory != MAP_FAILED) ::munmap(memory, size);
  }
};

struct Collector::Connection {
  int fd = -1;
  pid_t host = 0;
  std::uint32_t number = 0;
  enum class State : std::uint8_t { kRunning, kExecuting } state = State::kRunning;
  Tasks tasks;
};

Collector::Collector(TraceWriter& writer) : writer_(writer), message_(sizeof(MessageHeader) + protocol::kBufferBytes) {}

Collector::~Collector() {
  for (auto& [fd, connection] : connections_) ::close(fd);
  if (listen_fd_ >= 0) ::close(listen_fd_);
  if (epoll_fd_ >= 0) ::close(epoll_fd_);
}

void Collector::keep(Outcome outcome) {
  if (!outcome && failure_) failure_ = std::move(outcome);
}

Outcome Collector::listen() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  socket_name_ = fmt::format("quire-{}-{:x}", ::getpid(), now.tv_nsec);
  listen_fd_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, socket_name_.data(), socket_name_.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + socket_name_.size());
  epoll_fd_ = ::epoll_create1(EPOLL_CLOEXEC);
  if (listen_fd_ < 0 || epoll_fd_ < 0 || ::bind(listen_fd_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listen_fd_, 1024) != 0) {
    return std::unexpected(fmt::format("cannot open a socket for the recorded program to report to: {}", std::strerror(errno)));
  }
  epoll_event event{EPOLLIN, {.fd = listen_fd_}};
  ::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, listen_fd_, &event);
  return {};
}

void Collector::accept_connection() {
  const int fd = ::accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) return;
  auto connection = std::make_unique<Connection>();
  connection->fd = fd;
  connections_.emplace(fd, std::move(connection));
  epoll_event event{EPOLLIN, {.fd = fd}};
  ::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event);
}

Collector::Received Collector::receive(Connection& c) {
  iovec part{message_.data(), message_.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n;
  do n = ::recvmsg(c.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0) return errno == EAGAIN ? Received::kNothing : Received::kEnd;
  if (n == 0) return Received::kEnd;
  int passed_fd = -1;
  const cmsghdr* const c_header = CMSG_FIRSTHDR(&message);
  if (c_header != nullptr && c_header->cmsg_type == SCM_RIGHTS) std::memcpy(&passed_fd, CMSG_DATA(c_header), sizeof passed_fd);
  MessageHeader header{};
  if (static_cast<std::size_t>(n) >= sizeof header) std::memcpy(&header, message_.data(), sizeof header);
  const bool sound = header.magic == protocol::kMagic && sizeof header + header.bytes == static_cast<std::size_t>(n);
  if (sound) handle(c, header, passed_fd);
  if (passed_fd >= 0) ::close(passed_fd);
  return sound ? Received::kMessage : Received::kEnd;
}

void Collector::receive_all(Connection& c) {
  for (;;) {
    const Received received = receive(c);
    if (received == Received::kNothing) return;
    if (received == Received::kEnd) {
      close_connection(c);
      return;
    }
  }
}

void Collector::handle(Connection& c, const MessageHeader& header, int passed_fd) {
  switch (header.type) {
    case MessageType::kHello: hello(c, header); break;
    case MessageType::kNumber: reply(c, number_of(header.host, header.flags)); break;
    case MessageType::kTask: add_task(c, header, passed_fd); break;
    case MessageType::kChunk: add_chunk(c, header); break;
    case MessageType::kThreadGone: bearers_[header.host].gone = true; break;
    case MessageType::kExecuting: c.state = Connection::State::kExecuting; break;
    case MessageType::kNotExecuted: c.state = Connection::State::kRunning; break;
  }
}

void Collector::hello(Connection& c, const MessageHeader& header) {
  c.host = static_cast<pid_t>(header.host);
  // What the same process said before, on another connection, comes first.
  std::vector<Connection*> before;
  for (auto& [fd, other] : connections_) {
    if (other.get() != &c && other->host == c.host) before.push_back(other.get());
  }
  for (Connection* other : before) {
    while (receive(*other) == Received::kMessage) {}
    close_connection(*other);
  }
  if (const auto parked = parked_.find(c.host); parked != parked_.end()) {
    if ((header.flags & protocol::kSameImage) != 0) c.tasks = std::move(parked->second);
    parked_.erase(parked);
  }
  c.number = number_of(header.host, protocol::kAskedByItself);
  expected_.erase(header.host);
  reply(c, c.number);
}

void Collector::reply(Connection& c, std::uint32_t number) {
  const protocol::Reply reply{protocol::kMagic, number};
  static_cast<void>(::send(c.fd, &reply, sizeof reply, MSG_NOSIGNAL));
}

std::uint32_t Collector::number_of(std::uint32_t host, std::uint32_t asked_by) {
  Bearer& bearer = bearers_[host];
  const bool itself = asked_by == protocol::kAskedByItself, parent = asked_by == protocol::kAskedByParent;
  if (bearer.gone && ((itself && bearer.asked_itself) || (parent && bearer.asked_parent))) bearer = Bearer{};
  if (bearer.number == 0) {
    bearer.number = next_number_++;
    if (parent) expected_.insert(host);
  }
  bearer.asked_itself |= itself;
  bearer.asked_parent |= parent;
  return bearer.number;
}

void Collector::add_task(Connection& c, const MessageHeader& header, int memfd) {
  auto task = std::make_unique<LiveTask>();
  task->id = {header.pid, header.tid};
  struct stat file{};
  if (memfd >= 0 && ::fstat(memfd, &file) == 0 && static_cast<std::size_t>(file.st_size) > sizeof(SharedTask)) {
    task->size = static_cast<std::size_t>(file.st_size);
    task->memory = ::mmap(nullptr, task->size, PROT_READ, MAP_SHARED, memfd, 0);
  }
  c.tasks[task->id] = std::move(task);
  expected_.erase(header.host);
}

void Collector::add_chunk(Connection& c, const MessageHeader& header) {
  const TaskId id{header.pid, header.tid};
  const bool last = (header.flags & wire::kLastOfTask) != 0;
  keep(
      writer_.add_chunk(id, {message_.data() + sizeof header, header.bytes}, last ? ChunkFlag::kLastOfTask : ChunkFlag::kNone));
  const auto task = c.tasks.find(id);
  if (task == c.tasks.end()) return;
  task->second->last_sequence = header.sequence;
  if (last) c.tasks.erase(task);
}

void Collector::close_connection(Connection& c) {
  if (c.host != 0) {
    if (c.state == Connection::State::kExecuting) {
      parked_[c.host] = std::move(c.tasks);
    } else {
      bury(c.host, c.tasks);
    }
  }
  const int fd = c.fd;
  ::close(fd);
  connections_.erase(fd);
}

// Writes what the tasks of a process that has ended could not send, and their ends.
void Collector::bury(pid_t host, Tasks& tasks) {
  bearers_[static_cast<std::uint32_t>(host)].gone = true;
  if (tasks.empty()) return;
  const HowItEnded ended = how_it_ended(host);
  for (auto& [id, task] : tasks) {
    Record exit;
    exit.kind = RecordKind::kExit;
    exit.flags = kExitGroup | kExitLost;
    exit.status = ended.status;
    exit.signal = ended.signal;
    if (task->memory != MAP_FAILED) {
      const auto* const shared = static_cast<const SharedTask*>(task->memory);
      const std::uint64_t written = shared->written.load(std::memory_order_acquire);
      const auto* const data = static_cast<const std::uint8_t*>(task->memory) + shared->data_offset;
      const std::uint64_t used = written & 0xffff'ffff;
      const auto sequence = static_cast<std::int64_t>(written >> 32);
      if (used != 0 && sequence > task->last_sequence && shared->data_offset + used <= task->size) {
        keep(writer_.add_chunk(id, {data, used}, ChunkFlag::kNone));
      }
      if (shared->instructions > shared->last_record) exit.instructions = shared->instructions - shared->last_record;
    }
    std::uint8_t buffer[kMaxRecordBytes];
    const std::uint8_t* const end = Encoder().record(buffer, exit);
    keep(writer_.add_chunk(id, {buffer, static_cast<std::size_t>(end - buffer)}, ChunkFlag::kLastOfTask));
  }
  tasks.clear();
}

// A child that its parent has named but that has not reported yet, and still lives.
bool Collector::expects_more() {
  for (const std::uint32_t host : expected_) {
    if (is_running(static_cast<pid_t>(host))) return true;
  }
  return false;
}

// To the program, unless it has ended (0), and to every process it left.
void Collector::signal_everything(pid_t program, int signal) {
  if (program != 0) ::kill(program, signal);
  for (const auto& [fd, connection] : connections_) {
    if (connection->host != 0 && connection->host != program) ::kill(connection->host, signal);
  }
}

// The terminal's Ctrl-C reaches the program, too; whoever does not mind it is asked once more, then ended.
void Collector::enforce_stop(pid_t program, int signal) {
  ++patience_;
  if (patience_ == 1 && signal != SIGINT && program != 0) ::kill(program, signal);
  if (patience_ == 10) signal_everything(program, SIGTERM);
  if (patience_ >= 30) signal_everything(program, SIGKILL);
}

std::expected<Collector::Ending, std::string> Collector::run(pid_t program, const std::atomic<int>* stop_signal) {
  Ending ending;
  bool ended = false;
  std::int64_t last_enforced = 0;
  for (;;) {
    epoll_event events[64];
    const int n = ::epoll_wait(epoll_fd_, events, 64, ended ? 10 : 50);
    for (int i = 0; i < n; ++i) {
      if (events[i].data.fd == listen_fd_) {
        accept_connection();
      } else if (const auto found = connections_.find(events[i].data.fd); found != connections_.end()) {
        receive_all(*found->second);
      }
    }
    if (!ended && connections_.empty() && ::waitpid(program, &ending.wait_status, WNOHANG) == program) ended = true;
    if (ended && n <= 0 && connections_.empty() && !expects_more()) break;
    if (!failure_) {
      signal_everything(ended ? 0 : program, SIGKILL);
      if (!ended) ::waitpid(program, &ending.wait_status, 0);
      return std::unexpected(failure_.error());
    }
    if (stop_signal != nullptr && stop_signal->load() != 0) {
      ending.stopped_by = stop_signal->load();
      timespec now{};
      ::clock_gettime(CLOCK_MONOTONIC, &now);
      const std::int64_t tenths = now.tv_sec * 10 + now.tv_nsec / 100'000'000;
      if (tenths != last_enforced) enforce_stop(ended ? 0 : program, ending.stopped_by);
      last_enforced = tenths;
    }
  }
  for (auto& [host, tasks] : parked_) bury(host, tasks);
  if (!failure_) return std::unexpected(failure_.error());
  return ending;
}

}  // namespace quire::trace
