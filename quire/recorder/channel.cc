// The connection to the collector. Its descriptor stands high, closes on exec, and moves away when the guest uses its
// number, so that a program that closes or counts its descriptors sees what it would see natively.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "quire/recorder/process.h"

namespace quire::recorder {
namespace {

using trace::protocol::kMagic;
using trace::protocol::MessageHeader;
using trace::protocol::MessageType;
using trace::protocol::Reply;

int high_descriptor(int fd) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const rlim_t top = limit.rlim_cur < 1024 ? limit.rlim_cur : 1024;
  for (const rlim_t margin : {rlim_t{24}, rlim_t{100}, top}) {
    if (margin > top) continue;
    const int high = fcntl(fd, F_DUPFD_CLOEXEC, static_cast<int>(top - margin));
    if (high >= 0) {
      close(fd);
      return high;
    }
  }
  return fd;
}

// With process().lock held.
bool send_locked(const MessageHeader& header, const std::uint8_t* payload, int passed_fd) {
  Process& p = process();
  if (p.silent) return false;
  iovec parts[2] = {{const_cast<MessageHeader*>(&header), sizeof header}, {const_cast<std::uint8_t*>(payload), header.bytes}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = header.bytes != 0 ? 2 : 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (passed_fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* const c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(c), &passed_fd, sizeof passed_fd);
  }
  ssize_t n;
  do n = sendmsg(p.fd, &message, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  if (n < 0) p.silent = true;
  return n >= 0;
}

}  // namespace

void connect_collector() {
  Process& p = process();
  Lock hold(p.lock);
  if (p.silent) return;
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::size_t size =
      p.socket_name.size() < sizeof address.sun_path - 1 ? p.socket_name.size() : sizeof address.sun_path - 1;
  std::memcpy(address.sun_path + 1, p.socket_name.data(), size);
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + size);
  int done;
  do done = connect(fd, reinterpret_cast<sockaddr*>(&address), bytes);
  while (done < 0 && errno == EINTR);
  if (done != 0) {
    p.silent = true;
    if (fd >= 0) close(fd);
    return;
  }
  p.fd = high_descriptor(fd);
}

void move_connection_away_from(int fd) {
  Process& p = process();
  Lock hold(p.lock);
  if (p.fd != fd || fd < 0) return;
  const int other = fcntl(fd, F_DUPFD_CLOEXEC, fd + 1);
  const int moved = other >= 0 ? other : fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (moved < 0) return;
  close(fd);
  p.fd = moved;
}

void send_chunk(Vcpu& vcpu, const std::uint8_t* data, std::uint32_t bytes, std::uint32_t sequence, std::uint32_t flags) {
  Lock hold(process().lock);
  send_locked({kMagic, MessageType::kChunk, vcpu.id.pid, vcpu.id.tid, vcpu.host_tid, sequence, flags, bytes}, data, -1);
}

void send_task(const Vcpu& vcpu, int memfd) {
  Lock hold(process().lock);
  send_locked({kMagic, MessageType::kTask, vcpu.id.pid, vcpu.id.tid, vcpu.host_tid, 0, 0, 0}, nullptr, memfd);
}

void send_note(MessageType type, std::uint32_t host, std::uint32_t flags) {
  Lock hold(process().lock);
  send_locked({kMagic, type, process().number, 0, host, 0, flags, 0}, nullptr, -1);
}

std::uint32_t ask_number(MessageType type, std::uint32_t host, std::uint32_t flags) {
  Process& p = process();
  Lock hold(p.lock);
  if (!send_locked({kMagic, type, p.number, 0, host, 0, flags, 0}, nullptr, -1)) return host;
  Reply reply{};
  ssize_t n;
  do n = recv(p.fd, &reply, sizeof reply, 0);
  while (n < 0 && errno == EINTR);
  if (n != sizeof reply || reply.magic != kMagic) {
    p.silent = true;
    return host;
  }
  return reply.number;
}

}  // namespace quire::recorder
