#include "quire/slab/percpu_area.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace quire::slab {

PercpuArea::~PercpuArea() {
  while (phys::Page* page = small_pages_.pop_front()) phys_.free_page(*page);
}

unsigned PercpuArea::block_shift(std::uint32_t piece_shift) const {
  return piece_shift + static_cast<unsigned>(std::bit_width(std::bit_ceil(cpus_) - 1));
}

PercpuArea::Block PercpuArea::alloc(std::size_t bytes_per_cpu, phys::Gfp gfp) {
  Block block;
  block.shift = std::max(kMinShift, static_cast<unsigned>(std::bit_width(bytes_per_cpu - 1)));
  const unsigned shift = block_shift(block.shift);
  if (shift < kPageShift) {
    block.base = take_small(shift, gfp);
  } else {
    const Order order(shift - kPageShift);
    if (order > phys::kMaxOrder) return {};
    phys::Page* page = phys_.alloc_pages(gfp, order);
    if (page == nullptr) return {};
    pages_ += order.pages();
    block.base = phys_.page_address(*page);
  }
  if (block.base != nullptr) std::memset(block.base, 0, std::size_t{1} << shift);
  return block;
}

std::byte* PercpuArea::take_small(unsigned shift, phys::Gfp gfp) {
  for (unsigned s = shift; s < kPageShift; ++s) {
    FreeBlock* found = free_blocks_[s];
    if (found == nullptr) continue;
    free_blocks_[s] = found->next;
    auto* base = reinterpret_cast<std::byte*>(found);
    // Halve down to the size wanted, each upper half becoming free.
    while (s > shift) {
      --s;
      free_blocks_[s] = ::new (base + (std::size_t{1} << s)) FreeBlock{free_blocks_[s]};
    }
    return base;
  }
  phys::Page* page = phys_.alloc_page(gfp);
  if (page == nullptr) return nullptr;
  ++pages_;
  small_pages_.push_back(*page);
  std::byte* base = phys_.page_address(*page);
  for (unsigned s = kPageShift; s > shift;) {
    --s;
    free_blocks_[s] = ::new (base + (std::size_t{1} << s)) FreeBlock{free_blocks_[s]};
  }
  return base;
}

void PercpuArea::free(const Block& block) {
  if (block.base == nullptr) return;
  const unsigned shift = block_shift(block.shift);
  if (shift < kPageShift) {
    free_blocks_[shift] = ::new (block.base) FreeBlock{free_blocks_[shift]};
    return;
  }
  const Order order(shift - kPageShift);
  pages_ -= order.pages();
  phys_.free_pages(phys_.virt_to_page(block.base), order);
}

}  // namespace quire::slab
