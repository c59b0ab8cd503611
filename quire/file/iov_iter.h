// Where the bytes of a read go, or the bytes of a write come from (Linux's iov_iter): user memory, a kernel buffer, or
// nothing at all.
//
// The page cache calls `copy_*` with the offset from the start of the request, so an iterator keeps no position and a
// chunk may be tried again. A span whose data() is null stands for contents that are not kept (a dataless machine): user
// memory is touched all the same, no byte moves.
//
// A write takes two steps, as in Linux: `fault_in_readable` may sleep in a page fault and is called with no folio locked;
// `copy_from_iter` is called with the folio locked and must not fault: it stops short at a page that is not there, and
// the write tries again after another fault_in_readable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace quire::file {

class IovIter {
 public:
  virtual ~IovIter() = default;

  // Bytes of [offset, offset + length) that can be read without a fault now; 0 is EFAULT.
  virtual std::uint64_t fault_in_readable(std::uint64_t /*offset*/, std::uint64_t length) { return length; }
  // Fills `to` with the write's bytes from `offset` on; returns how many, fewer when a page is not there.
  virtual std::uint64_t copy_from_iter(std::uint64_t offset, std::span<std::byte> to) = 0;
  // Takes the bytes read at `offset`; may sleep in a page fault; returns how many, fewer means EFAULT.
  virtual std::uint64_t copy_to_iter(std::uint64_t offset, std::span<const std::byte> from) = 0;
};

// Kernel memory as both ends.
class KernelBuffer final : public IovIter {
 public:
  explicit KernelBuffer(std::span<std::byte> bytes) : bytes_(bytes) {}

  std::uint64_t copy_from_iter(std::uint64_t offset, std::span<std::byte> to) override {
    if (to.data() != nullptr) std::memcpy(to.data(), bytes_.data() + offset, to.size());
    return to.size();
  }
  std::uint64_t copy_to_iter(std::uint64_t offset, std::span<const std::byte> from) override {
    if (from.data() != nullptr) std::memcpy(bytes_.data() + offset, from.data(), from.size());
    return from.size();
  }

 private:
  std::span<std::byte> bytes_;
};

// No memory at either end: the cache does all its work and the bytes go nowhere (zeroes when written).
class NullIter final : public IovIter {
 public:
  std::uint64_t copy_from_iter(std::uint64_t, std::span<std::byte> to) override {
    if (to.data() != nullptr) std::memset(to.data(), 0, to.size());
    return to.size();
  }
  std::uint64_t copy_to_iter(std::uint64_t, std::span<const std::byte> from) override { return from.size(); }
};

}  // namespace quire::file
