#include "quire/file/backing.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quire/base/bug.h"

namespace quire::file {

namespace {

void zero(std::span<std::byte> bytes) { std::memset(bytes.data(), 0, bytes.size()); }

std::uint64_t mix(std::uint64_t z) {  // splitmix64's finaliser
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

Status ZeroBacking::read(std::uint64_t /*offset*/, std::span<std::byte> to) {
  zero(to);
  return {};
}

std::byte GeneratedBacking::byte_at(std::uint64_t offset) const {
  return static_cast<std::byte>(mix(seed_ + (offset / 8 + 1) * 0x9e3779b97f4a7c15) >> (offset % 8 * 8));
}

Status GeneratedBacking::read(std::uint64_t offset, std::span<std::byte> to) {
  for (std::uint64_t i = 0; i < to.size(); ++i) to[i] = byte_at(offset + i);
  return {};
}

Result<std::unique_ptr<HostFileBacking>> HostFileBacking::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail(static_cast<Errno>(errno));
  struct stat st{};
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    const Errno error = S_ISDIR(st.st_mode) ? Errno::kIsDir : Errno::kInval;
    ::close(fd);
    return fail(error);
  }
  return std::unique_ptr<HostFileBacking>(new HostFileBacking(fd, static_cast<std::uint64_t>(st.st_size)));
}

HostFileBacking::~HostFileBacking() { ::close(fd_); }

Status HostFileBacking::read(std::uint64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t n = ::pread(fd_, to.data(), to.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(Errno::kIo);
    if (n == 0) break;  // the host file has shrunk
    to = to.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  zero(to);
  return {};
}

Backing::Backing(std::unique_ptr<BackingSource> source)
    : source_(std::move(source)), source_valid_(source_ == nullptr ? 0 : source_->size()) {}

Status Backing::read_page(Pgoff index, std::span<std::byte> to) {
  QUIRE_BUG_ON(to.size() != kPageSize);
  if (const auto it = overlay_.find(index.value()); it != overlay_.end()) {
    if (it->second == nullptr) {
      zero(to);
    } else {
      std::memcpy(to.data(), it->second->data(), kPageSize);
    }
    return {};
  }
  const std::uint64_t start = pages_to_bytes(index.value());
  const std::uint64_t covered = start < source_valid_ ? std::min(source_valid_ - start, kPageSize) : 0;
  zero(to.subspan(covered));
  return covered == 0 ? Status{} : source_->read(start, to.first(covered));
}

void Backing::write_page(Pgoff index, std::span<const std::byte> from) {
  QUIRE_BUG_ON(from.size() != kPageSize);
  std::unique_ptr<PageBytes>& page = overlay_[index.value()];
  if (page == nullptr) page = std::make_unique<PageBytes>();
  std::memcpy(page->data(), from.data(), kPageSize);
}

void Backing::truncate(std::uint64_t size) {
  source_valid_ = std::min(source_valid_, size);
  overlay_.erase(overlay_.lower_bound(bytes_to_pages_up(size)), overlay_.end());
  const std::uint64_t tail = size % kPageSize;
  if (tail == 0) return;
  const auto it = overlay_.find(size >> kPageShift);
  if (it != overlay_.end() && it->second != nullptr) zero(std::span(*it->second).subspan(tail));
}

void Backing::punch_hole(Pgoff first, Pgoff last) {
  overlay_.erase(overlay_.lower_bound(first.value()), overlay_.lower_bound(last.value()));
  const Pgoff covered = std::min(last, Pgoff(bytes_to_pages_up(source_valid_)));
  for (Pgoff i = first; i < covered; ++i) overlay_[i.value()] = nullptr;
}

}  // namespace quire::file
