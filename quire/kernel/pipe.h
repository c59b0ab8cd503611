// A pipe: a ring of page buffers between tasks. A reader waits for bytes, a writer for room; a page is allocated when
// bytes enter that do not fit behind those of the newest page, and freed when its bytes have left, as in Linux (16 buffers
// of a page, pipe(7)).
//
// Bytes are counted, not kept: what a program reads is in its trace. Ends are counted so that a reader of an empty pipe
// without writers sees the end, and a writer without readers EPIPE.
//
// Lock: Linux's pipe->mutex; here the fields change only between sync points.
#pragma once

#include <array>
#include <cstdint>

#include "quire/base/result.h"
#include "quire/phys/phys_mem.h"
#include "quire/phys/task_flags.h"
#include "quire/sim/wait_queue.h"

namespace quire::kernel {

class Pipe {
 public:
  static constexpr unsigned kBuffers = 16;  // PIPE_DEF_BUFFERS

  explicit Pipe(phys::PhysMem& phys);
  ~Pipe();
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  // Takes up to `len` bytes, waiting for the first of them; 0 when no writer is left; kIntr when killed. May sleep.
  [[nodiscard]] Result<std::uint64_t> read(std::uint64_t len);
  // Puts all of `len` bytes in, waiting for room; kPipe when no reader is left; kNoMem; kIntr when killed. What went in
  // before counts instead of the error. May sleep.
  [[nodiscard]] Result<std::uint64_t> write(std::uint64_t len);

  void open_reader() { ++readers_; }
  void open_writer() { ++writers_; }
  void close_reader();
  void close_writer();

  [[nodiscard]] std::uint64_t bytes() const;

 private:
  struct Buffer {
    phys::Page* page = nullptr;
    std::uint32_t offset = 0;  // first byte not read yet
    std::uint32_t length = 0;  // bytes from there
  };
  [[nodiscard]] std::uint64_t merge(std::uint64_t len);
  // A SIGKILL waits for the running task.
  [[nodiscard]] bool fatal_signal_pending() const { return phys::task_test(phys_.scheduler(), phys::TaskFlag::kOomVictim); }
  [[nodiscard]] Buffer& newest() { return ring_[(head_ + used_ - 1) % kBuffers]; }

  phys::PhysMem& phys_;
  std::array<Buffer, kBuffers> ring_{};
  unsigned head_ = 0;  // oldest buffer
  unsigned used_ = 0;  // buffers with bytes
  unsigned readers_ = 0;
  unsigned writers_ = 0;
  sim::WaitQueue read_wait_;
  sim::WaitQueue write_wait_;
};

}  // namespace quire::kernel
