// A long array of small plain values in frames of the machine's memory: what Linux takes from vzalloc for swap_map,
// cluster_info and zram's table. The frames are really allocated, so what a swap area costs is really gone from the
// machine. Element access is a table lookup and an addition; the table of frames is host memory, fixed at creation.
//
// Locked by its owner. Until kvirt stands this is the stand-in for a virtually contiguous allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "quire/base/bug.h"
#include "quire/base/result.h"
#include "quire/phys/phys_mem.h"

namespace quire::swap {

// The untyped frames behind a PagedArray; zeroed when made.
class ArenaFrames {
 public:
  ArenaFrames() = default;
  ~ArenaFrames();
  ArenaFrames(ArenaFrames&& other) noexcept;
  ArenaFrames& operator=(ArenaFrames&& other) noexcept;

  // kNoMem when the machine has not that much; what was taken is given back.
  [[nodiscard]] static Result<ArenaFrames> create(phys::PhysMem& phys, std::uint64_t pages);

  [[nodiscard]] std::byte* frame(std::uint64_t index) const { return frames_[index]; }
  [[nodiscard]] std::uint64_t pages() const { return frames_.size(); }

 private:
  void release();

  phys::PhysMem* phys_ = nullptr;
  std::vector<std::byte*> frames_;
};

template <class T>
class PagedArray {
  static_assert(std::is_trivially_copyable_v<T> && kPageSize % sizeof(T) == 0);

 public:
  static constexpr std::uint64_t kPerPage = kPageSize / sizeof(T);

  PagedArray() = default;

  [[nodiscard]] static Result<PagedArray> create(phys::PhysMem& phys, std::uint64_t count) {
    Result<ArenaFrames> frames = ArenaFrames::create(phys, (count + kPerPage - 1) / kPerPage);
    if (!frames) return fail(frames.error());
    PagedArray array;
    array.frames_ = std::move(*frames);
    array.count_ = count;
    return array;
  }

  [[nodiscard]] T& operator[](std::uint64_t i) {
    QUIRE_DCHECK(i < count_);
    return reinterpret_cast<T*>(frames_.frame(i / kPerPage))[i % kPerPage];
  }
  [[nodiscard]] const T& operator[](std::uint64_t i) const {
    QUIRE_DCHECK(i < count_);
    return reinterpret_cast<const T*>(frames_.frame(i / kPerPage))[i % kPerPage];
  }
  [[nodiscard]] std::uint64_t size() const { return count_; }
  [[nodiscard]] std::uint64_t pages() const { return frames_.pages(); }

 private:
  ArenaFrames frames_;
  std::uint64_t count_ = 0;
};

}  // namespace quire::swap
