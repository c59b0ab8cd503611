#include "quire/swap/paged_array.h"

#include <cstring>
#include <utility>

namespace quire::swap {

ArenaFrames::~ArenaFrames() { release(); }

ArenaFrames::ArenaFrames(ArenaFrames&& other) noexcept
    : phys_(std::exchange(other.phys_, nullptr)), frames_(std::move(other.frames_)) {}

ArenaFrames& ArenaFrames::operator=(ArenaFrames&& other) noexcept {
  if (this == &other) return *this;
  release();
  phys_ = std::exchange(other.phys_, nullptr);
  frames_ = std::move(other.frames_);
  return *this;
}

Result<ArenaFrames> ArenaFrames::create(phys::PhysMem& phys, std::uint64_t pages) {
  ArenaFrames frames;
  frames.phys_ = &phys;
  frames.frames_.reserve(pages);
  for (std::uint64_t i = 0; i < pages; ++i) {
    phys::Page* page = phys.alloc_pages(phys::Gfp::kKernel | phys::Gfp::kNoWarn, Order(0));
    if (page == nullptr) return fail(Errno::kNoMem);
    std::byte* bytes = phys.page_address(*page);
    std::memset(bytes, 0, kPageSize);
    frames.frames_.push_back(bytes);
  }
  return frames;
}

void ArenaFrames::release() {
  if (phys_ == nullptr) return;
  for (std::byte* frame : frames_) phys_->free_page(phys_->virt_to_page(frame));
  frames_.clear();
}

}  // namespace quire::swap
