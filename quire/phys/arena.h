// The machine's RAM: one host mapping (a memfd) in which physical address `pa` lives at base() + pa. That addition is the
// direct map (__va and __pa). Host memory is taken only for frames that are touched; addresses with no RAM behind them
// are not accessible at all.
//
//   base()                                                     base() + end
//   |  RAM  | hole (PROT_NONE) |      RAM      | hole |   RAM   |
//
// The vmemmap is a second view: struct Page of frame `pfn` stands at vmemmap() + pfn, backed by the frames that memblock
// gave for the memmap (which are therefore really gone from the machine).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "quire/base/types.h"
#include "quire/phys/boot_error.h"
#include "quire/phys/page.h"

namespace quire::phys {

class Arena {
 public:
  // Address space up to `end`, nothing accessible yet. Fails with the host's reason.
  static BootResult<Arena> create(PhysAddr end);
  Arena(Arena&& other) noexcept { swap(other); }
  Arena& operator=(Arena&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Arena();

  // Makes [range) RAM. The range is page aligned; a range that is RAM already keeps its bytes.
  BootStatus map_ram(Range<PhysAddr> range);
  // Takes RAM away again; its bytes are lost.
  void unmap_hole(Range<PhysAddr> range);

  // Backs the struct Pages of [pfns) with the frames from `memory` on (page aligned; the first Page starts the frame).
  BootStatus map_memmap(Range<Pfn> pfns, PhysAddr memory);
  void unmap_memmap(Range<Pfn> pfns);

  // Shows the RAM of [range) a second time at `at`, in place of what is mapped there. False: the host has no more mappings
  // to give (vm.max_map_count); what was mapped at `at` is as it was, or no longer mapped.
  // kReadWriteNow: meant to be touched at once, so the host fills its own tables in the same call.
  enum class ViewAccess : std::uint8_t { kRead, kReadWrite, kReadWriteNow };
  [[nodiscard]] bool map_view(std::byte* at, Range<PhysAddr> range, ViewAccess access) const;

  [[nodiscard]] std::byte* base() const { return base_; }
  [[nodiscard]] PhysAddr end() const { return end_; }
  [[nodiscard]] std::byte* to_virt(PhysAddr pa) const { return base_ + pa.value(); }
  [[nodiscard]] PhysAddr to_phys(const void* p) const {
    return PhysAddr(static_cast<std::uint64_t>(static_cast<const std::byte*>(p) - base_));
  }
  [[nodiscard]] bool contains(const void* p) const { return p >= base_ && p < base_ + end_.value(); }
  [[nodiscard]] Page* vmemmap() const { return vmemmap_; }

  // Gives the host memory under [range) back; it reads as zeros afterwards.
  void discard(Range<PhysAddr> range);

 private:
  Arena() = default;
  void swap(Arena& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(base_, other.base_);
    std::swap(end_, other.end_);
    std::swap(vmemmap_, other.vmemmap_);
    std::swap(vmemmap_bytes_, other.vmemmap_bytes_);
  }

  int fd_ = -1;
  std::byte* base_ = nullptr;
  PhysAddr end_{};
  Page* vmemmap_ = nullptr;
  std::uint64_t vmemmap_bytes_ = 0;
};

}  // namespace quire::phys
