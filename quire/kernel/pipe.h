// A pipe: a ring of page buffers between tasks. A reader waits for bytes, a writer for room; a page is allocated when
// bytes enter that do not fit behind those of the newest page, and freed when its bytes have left, as in Linux (16 buffers
// of a page, pipe(7)). The pipe and its ring come from kmalloc (pipe_inode_info and its array of pipe_buffers).
//
// Bytes are counted, not kept: what a program reads is in its trace. Ends are counted so that a reader of an empty pipe
// without writers sees the end, and a writer without readers EPIPE.
//
// Lock: Linux's pipe->mutex; here the fields change only between sync points.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "quire/base/result.h"
#include "quire/phys/phys_mem.h"
#include "quire/phys/task_flags.h"
#include "quire/sim/wait_queue.h"
#include "quire/slab/slab_system.h"

namespace quire::kernel {

class Pipe {
 public:
  static constexpr unsigned kBuffers = 16;  // PIPE_DEF_BUFFERS

  // alloc_pipe_info: a pipe without readers and writers; nullptr when there is no memory. May sleep.
  [[nodiscard]] static Pipe* alloc_pipe_info(phys::PhysMem& phys, slab::SlabSystem& slab);
  // Gives it back with the pages that are still in it. Nobody waits at it.
  static void free_pipe_info(Pipe& pipe);
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
  struct Buffer {  // pipe_buffer
    phys::Page* page = nullptr;
    std::uint32_t offset = 0;               // first byte not read yet
    std::uint32_t length = 0;               // bytes from there
    std::array<std::byte, 24> unused = {};  // where Linux has ops, flags and private
  };
  static_assert(sizeof(Buffer) == 40);

  Pipe(phys::PhysMem& phys, slab::SlabSystem& slab, Buffer* ring);
  ~Pipe();

  [[nodiscard]] std::uint64_t merge(std::uint64_t len);
  // A SIGKILL waits for the running task.
  [[nodiscard]] bool fatal_signal_pending() const { return phys::task_test(phys_.scheduler(), phys::TaskFlag::kOomVictim); }
  [[nodiscard]] Buffer& newest() { return ring_[(head_ + used_ - 1) % kBuffers]; }

  phys::PhysMem& phys_;
  slab::SlabSystem& slab_;
  Buffer* ring_;
  unsigned head_ = 0;  // oldest buffer
  unsigned used_ = 0;  // buffers with bytes
  unsigned readers_ = 0;
  unsigned writers_ = 0;
  sim::WaitQueue read_wait_;
  sim::WaitQueue write_wait_;
};

}  // namespace quire::kernel
