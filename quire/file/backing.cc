#include "quire/file/backing.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <new>

#include <fcntl.h>
#include <sys/mman.h>
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

Backing::~Backing() { drop_pages(0, ~std::uint64_t{0}); }

Backing::Chunk* Backing::chunk_from(std::uint64_t index) {
  return overlay_.partition_point([&](const Chunk& chunk) { return chunk.index < index / Chunk::kPages; });
}

std::byte* Backing::overlay_page(std::uint64_t index) {
  Chunk* chunk = chunk_from(index);
  if (chunk == nullptr || chunk->index != index / Chunk::kPages || !chunk->written().test(index % Chunk::kPages)) {
    return nullptr;
  }
  return chunk->page(index % Chunk::kPages);
}

Backing::Chunk& Backing::make_chunk(std::uint64_t index) {
  void* bytes = ::mmap(nullptr, Chunk::kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  QUIRE_BUG_ON(bytes == MAP_FAILED);  // the host has no address space left
  Chunk& chunk = *new (bytes) Chunk;
  chunk.index = index;
  overlay_.insert(chunk);
  return chunk;
}

// Pages [first, end) of the overlay go, and the host gets their memory back.
void Backing::drop_pages(std::uint64_t first, std::uint64_t end) {
  for (Chunk* chunk = chunk_from(first); chunk != nullptr;) {
    const std::uint64_t base = chunk->index * Chunk::kPages;
    if (base >= end) return;
    const std::uint64_t from = first > base ? first - base : 0;
    const std::uint64_t pages = std::min(end - base, Chunk::kPages) - from;
    Chunk* next = overlay_.next(*chunk);
    const std::uint64_t dropped = chunk->written().count(from, pages);
    chunk->count -= dropped;
    overlay_pages_ -= dropped;
    if (chunk->count == 0) {
      overlay_.erase(*chunk);
      ::munmap(chunk, Chunk::kBytes);
    } else if (dropped != 0) {
      chunk->written().clear_range(from, pages);
      ::madvise(chunk->page(from), pages * kPageSize, MADV_DONTNEED);
    }
    chunk = next;
  }
}

bool Backing::in_hole(std::uint64_t index) const {
  const auto after = holes_.upper_bound(index);
  return after != holes_.begin() && std::prev(after)->second > index;
}

Status Backing::read_page(Pgoff index, std::span<std::byte> to) {
  QUIRE_BUG_ON(to.size() != kPageSize);
  if (const std::byte* written = overlay_page(index.value())) {
    std::memcpy(to.data(), written, kPageSize);
    return {};
  }
  const std::uint64_t start = pages_to_bytes(index.value());
  const bool shows = start < source_valid_ && !in_hole(index.value());
  const std::uint64_t covered = shows ? std::min(source_valid_ - start, kPageSize) : 0;
  zero(to.subspan(covered));
  return covered == 0 ? Status{} : source_->read(start, to.first(covered));
}

void Backing::write_page(Pgoff index, std::span<const std::byte> from) {
  QUIRE_BUG_ON(from.size() != kPageSize);
  const std::uint64_t number = index.value() / Chunk::kPages;
  Chunk* found = chunk_from(index.value());
  Chunk& chunk = found != nullptr && found->index == number ? *found : make_chunk(number);
  const std::uint64_t slot = index.value() % Chunk::kPages;
  if (!chunk.written().test_and_set(slot)) {
    ++chunk.count;
    ++overlay_pages_;
  }
  std::memcpy(chunk.page(slot), from.data(), kPageSize);
}

void Backing::truncate(std::uint64_t size) {
  source_valid_ = std::min(source_valid_, size);
  drop_pages(bytes_to_pages_up(size), ~std::uint64_t{0});
  holes_.erase(holes_.lower_bound(bytes_to_pages_up(source_valid_)), holes_.end());
  const std::uint64_t tail = size % kPageSize;
  if (tail == 0) return;
  if (std::byte* last = overlay_page(size >> kPageShift)) zero(std::span(last, kPageSize).subspan(tail));
}

void Backing::punch_hole(Pgoff first, Pgoff last) {
  drop_pages(first.value(), last.value());
  std::uint64_t begin = first.value();
  std::uint64_t end = std::min(last.value(), bytes_to_pages_up(source_valid_));
  if (begin >= end) return;
  // One with the holes that it touches.
  auto it = holes_.upper_bound(begin);
  if (it != holes_.begin() && std::prev(it)->second >= begin) --it;
  while (it != holes_.end() && it->first <= end) {
    begin = std::min(begin, it->first);
    end = std::max(end, it->second);
    it = holes_.erase(it);
  }
  holes_.emplace(begin, end);
}

}  // namespace quire::file
