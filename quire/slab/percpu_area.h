// Per-CPU storage for the slab layer (Linux: the percpu allocator): for each request one block with a piece for every
// CPU, pieces 2^shift bytes apart. Blocks are cut from single pages by size class; larger blocks are pages of their own.
// Freed blocks are used again for the same size class; pages go back when the area ends.
// Lock: SlabSystem's slab_mutex.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "quire/base/intrusive_list.h"
#include "quire/phys/phys_mem.h"

namespace quire::slab {

class PercpuArea {
 public:
  struct Block {
    std::byte* base = nullptr;
    std::uint32_t shift = 0;  // distance of two CPUs' pieces: 2^shift bytes
  };

  PercpuArea(phys::PhysMem& phys, unsigned cpus) : phys_(phys), cpus_(cpus) {}
  ~PercpuArea();
  PercpuArea(const PercpuArea&) = delete;
  PercpuArea& operator=(const PercpuArea&) = delete;

  // Zeroed; base == nullptr when there is no memory.
  [[nodiscard]] Block alloc(std::size_t bytes_per_cpu, phys::Gfp gfp);
  void free(const Block& block);

  [[nodiscard]] std::uint64_t pages() const { return pages_; }

 private:
  static constexpr unsigned kMinShift = 6;
  struct FreeBlock {
    FreeBlock* next;
  };
  // log2 of a block's bytes.
  [[nodiscard]] unsigned block_shift(std::uint32_t piece_shift) const;
  [[nodiscard]] std::byte* take_small(unsigned shift, phys::Gfp gfp);

  phys::PhysMem& phys_;
  unsigned cpus_;
  std::array<FreeBlock*, kPageShift> free_blocks_{};  // by log2 of the block's bytes, below a page
  phys::PageList small_pages_;                        // pages that are cut up
  std::uint64_t pages_ = 0;
};

}  // namespace quire::slab
