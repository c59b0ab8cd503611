#include "quire/kernel/pipe.h"

#include <algorithm>
#include <memory>
#include <new>

namespace quire::kernel {

Pipe* Pipe::alloc_pipe_info(phys::PhysMem& phys, slab::SlabSystem& slab) {
  void* room = slab.kmalloc(sizeof(Pipe), phys::Gfp::kKernelAccount);
  if (room == nullptr) return nullptr;
  void* ring = slab.kmalloc(kBuffers * sizeof(Buffer), phys::Gfp::kKernelAccount);
  if (ring == nullptr) {
    slab.kfree(room);
    return nullptr;
  }
  auto* buffers = static_cast<Buffer*>(ring);
  std::uninitialized_default_construct_n(buffers, kBuffers);
  return ::new (room) Pipe(phys, slab, buffers);
}

void Pipe::free_pipe_info(Pipe& pipe) {
  slab::SlabSystem& slab = pipe.slab_;
  pipe.~Pipe();
  slab.kfree(&pipe);
}

Pipe::Pipe(phys::PhysMem& phys, slab::SlabSystem& slab, Buffer* ring)
    : phys_(phys),
      slab_(slab),
      ring_(ring),
      read_wait_(phys.scheduler(), "pipe_read", sim::Sleep::kInterruptible),
      write_wait_(phys.scheduler(), "pipe_write", sim::Sleep::kInterruptible) {}

Pipe::~Pipe() {
  for (; used_ > 0; --used_) phys_.free_page(*newest().page);
  slab_.kfree(ring_);
}

std::uint64_t Pipe::bytes() const {
  std::uint64_t sum = 0;
  for (unsigned i = 0; i < used_; ++i) sum += ring_[(head_ + i) % kBuffers].length;
  return sum;
}

Result<std::uint64_t> Pipe::read(std::uint64_t len) {
  sim::Scheduler& scheduler = phys_.scheduler();
  scheduler.sync_point();
  if (len == 0) return 0;
  read_wait_.wait_until([this] { return used_ > 0 || writers_ == 0 || fatal_signal_pending(); });
  if (used_ == 0 && writers_ > 0) return fail(Errno::kIntr);
  std::uint64_t done = 0;
  while (done < len && used_ > 0) {
    Buffer& oldest = ring_[head_];
    const auto part = static_cast<std::uint32_t>(std::min<std::uint64_t>(len - done, oldest.length));
    oldest.offset += part;
    oldest.length -= part;
    done += part;
    if (oldest.length > 0) break;
    phys_.free_page(*oldest.page);
    oldest = Buffer{};
    head_ = (head_ + 1) % kBuffers;
    --used_;
  }
  scheduler.charge(scheduler.costs().memcpy_bytes(done));
  if (done > 0) write_wait_.wake_all();
  return done;
}

Result<std::uint64_t> Pipe::write(std::uint64_t len) {
  sim::Scheduler& scheduler = phys_.scheduler();
  if (len == 0) return 0;
  scheduler.sync_point();
  std::uint64_t done = merge(len);
  while (done < len) {
    scheduler.sync_point();
    write_wait_.wait_until([this] { return used_ < kBuffers || readers_ == 0 || fatal_signal_pending(); });
    if (readers_ == 0) return done > 0 ? Result<std::uint64_t>(done) : fail(Errno::kPipe);
    if (used_ == kBuffers) return done > 0 ? Result<std::uint64_t>(done) : fail(Errno::kIntr);
    // The page may take time to come; others may fill the ring meanwhile.
    phys::Page* page = phys_.alloc_page(phys::Gfp::kHighUser);
    if (page == nullptr) return done > 0 ? Result<std::uint64_t>(done) : fail(Errno::kNoMem);
    if (used_ == kBuffers) {
      phys_.free_page(*page);
      continue;
    }
    ++used_;
    const std::uint64_t part = std::min(len - done, kPageSize);
    newest() = Buffer{page, 0, static_cast<std::uint32_t>(part)};
    done += part;
    scheduler.charge(scheduler.costs().memcpy_bytes(part));
    read_wait_.wake_all();
  }
  return done;
}

// PIPE_BUF_FLAG_CAN_MERGE: what a write has beyond whole pages goes behind the newest bytes, if all of it fits into their
// page. Bytes taken.
std::uint64_t Pipe::merge(std::uint64_t len) {
  const std::uint64_t part = len % kPageSize;
  if (part == 0 || used_ == 0 || readers_ == 0) return 0;
  Buffer& last = newest();
  if (last.offset + last.length + part > kPageSize) return 0;
  last.length += static_cast<std::uint32_t>(part);
  phys_.scheduler().charge(phys_.scheduler().costs().memcpy_bytes(part));
  read_wait_.wake_all();
  return part;
}

void Pipe::close_reader() {
  QUIRE_BUG_ON(readers_ == 0);
  if (--readers_ == 0) write_wait_.wake_all();
}

void Pipe::close_writer() {
  QUIRE_BUG_ON(writers_ == 0);
  if (--writers_ == 0) read_wait_.wake_all();
}

}  // namespace quire::kernel
