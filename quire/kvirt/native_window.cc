#include "quire/kvirt/native_window.h"

#include <sys/mman.h>

#include <algorithm>

namespace quire::kvirt {

namespace {

constexpr std::uint64_t kLeastReach = kGiB;
constexpr std::uint64_t kMostReach = 64 * kGiB;
// Large pages of the host line up with those of the machine.
constexpr std::uint64_t kWindowAlign = 2 * kMiB;
constexpr std::uint64_t kBallastPages = 4;

std::byte* map_nothing(std::byte* at, std::uint64_t bytes, int fixed) {
  void* p = ::mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<std::byte*>(p);
}

}  // namespace

NativeWindow::NativeWindow(phys::PhysMem& phys, Range<VirtAddr> area) : phys_(phys), reach_(area) {
  const std::uint64_t wanted = align_up(2 * pages_to_bytes(phys.totalram_pages()), kWindowAlign);
  const std::uint64_t bytes = std::min(std::clamp(wanted, kLeastReach, kMostReach), area.size());
  reach_.end = reach_.begin + bytes;
}

NativeWindow::~NativeWindow() {
  drop_ballast();
  if (base_ != nullptr) ::munmap(base_, reach_.size());
}

// Pages of different rights side by side: a mapping each. Without it we do as long as nothing goes wrong.
void NativeWindow::take_ballast() {
  if (ballast_ != nullptr) return;
  ballast_ = map_nothing(nullptr, kBallastPages * kPageSize, 0);
  for (std::uint64_t i = 0; i < kBallastPages && ballast_ != nullptr; i += 2) {
    if (::mprotect(ballast_ + i * kPageSize, kPageSize, PROT_READ) != 0) return drop_ballast();
  }
}

void NativeWindow::drop_ballast() {
  if (ballast_ != nullptr) ::munmap(ballast_, kBallastPages * kPageSize);
  ballast_ = nullptr;
}

Status NativeWindow::reserve() {
  if (base_ != nullptr) return {};
  // More than needed, then the ends cut off, so that base and begin are equal modulo kWindowAlign.
  const std::uint64_t slack = reach_.size() + kWindowAlign;
  std::byte* raw = map_nothing(nullptr, slack, 0);
  if (raw == nullptr) return fail(Errno::kNoMem);
  const auto address = reinterpret_cast<std::uintptr_t>(raw);
  const std::uint64_t skip = (reach_.begin.value() - address) % kWindowAlign;
  if (skip != 0) ::munmap(raw, skip);
  ::munmap(raw + skip + reach_.size(), slack - skip - reach_.size());
  base_ = raw + skip;
  take_ballast();
  return {};
}

Status NativeWindow::show(VirtAddr va, std::span<phys::Page* const> pages, phys::Arena::ViewAccess access) {
  if (Status s = reserve(); !s) return s;
  QUIRE_BUG_ON(!reach_.contains(Range<VirtAddr>{va, va + pages_to_bytes(pages.size())}));
  for (std::size_t first = 0; first < pages.size();) {
    std::size_t end = first + 1;
    while (end < pages.size() && pages[end] == pages[end - 1] + 1) ++end;
    const PhysAddr pa = phys_.page_to_phys(*pages[first]);
    ++mappings_;
    if (!phys_.arena().map_view(native(va + pages_to_bytes(first)), {pa, pa + pages_to_bytes(end - first)}, access)) {
      hide({va, va + pages_to_bytes(end)});
      return fail(Errno::kNoMem);
    }
    first = end;
  }
  return {};
}

void NativeWindow::hide(Range<VirtAddr> range) {
  if (base_ == nullptr || range.empty()) return;
  std::byte* at = native(range.begin);
  if (map_nothing(at, range.size(), MAP_FIXED) == nullptr) {
    drop_ballast();
    // Should that not do, the rights go at least; the next area there replaces the mapping.
    if (map_nothing(at, range.size(), MAP_FIXED) == nullptr) QUIRE_BUG_ON(::mprotect(at, range.size(), PROT_NONE) != 0);
  }
  take_ballast();
}

}  // namespace quire::kvirt
