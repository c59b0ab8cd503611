#include "quire/trace/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace quire::trace {

std::expected<std::unique_ptr<Output>, std::string> Output::open(const std::string& path, int fd) {
  std::unique_ptr<Output> out(new Output);
  out->path_ = path;
  if (path.empty()) {
    out->fd_ = fd;
    return out;
  }
  struct stat there{};
  const bool direct = ::stat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode);
  out->temporary_ = direct ? "" : path + kPartialSuffix;
  const std::string& name = direct ? path : out->temporary_;
  out->fd_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (out->fd_ < 0) return std::unexpected(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
  out->owned_ = Owned::kYes;
  return out;
}

Output::~Output() {
  if (owned_ == Owned::kNo) return;
  ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

std::expected<void, std::string> Output::keep() {
  if (owned_ == Owned::kNo) return {};
  owned_ = Owned::kNo;
  const bool closed = ::close(fd_) == 0;
  if (closed && (temporary_.empty() || ::rename(temporary_.c_str(), path_.c_str()) == 0)) return {};
  const std::string why = std::strerror(errno);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  return std::unexpected(fmt::format("cannot write {}: {}", path_, why));
}

}  // namespace quire::trace
