// What a swap area lies on. A device stores and returns single pages by their offset in the area (in pages, offset 0 is the
// area's header). Two kinds stand: Zram (in the machine's own memory, compressed, synchronous) and DiskSwap (a simulated
// disk, asynchronous).
//
// A synchronous device has finished when write_page or read_page returns and does not touch `io`. An asynchronous one
// returns at once and calls io.end_swap_write / io.end_swap_read from an event, never before it has returned.
//
// Unlike Linux there is no bio between the page and the device: one page is one request.
#pragma once

#include <cstdint>
#include <string_view>

#include "quire/base/flags.h"
#include "quire/base/result.h"
#include "quire/phys/folio.h"

namespace quire::swap {

enum class SwapDeviceFlags : std::uint8_t {
  kNone = 0,
  kSynchronous = 1u << 0,   // SWP_SYNCHRONOUS_IO: done on return; a fault on a slot with one user skips the swap cache
  kSolidState = 1u << 1,    // SWP_SOLIDSTATE: no seeks; slots are given out by clusters per CPU
  kStableWrites = 1u << 2,  // SWP_STABLE_WRITES: a page under writeback must not be changed
};

// Who is told when an asynchronous transfer has ended (end_swap_bio_write, end_swap_bio_read). SwapSystem implements it.
class SwapIo {
 public:
  virtual ~SwapIo() = default;
  virtual void end_swap_write(phys::Folio& folio, Status status) = 0;
  virtual void end_swap_read(phys::Folio& folio, Status status) = 0;
};

class SwapDevice {
 public:
  virtual ~SwapDevice() = default;

  [[nodiscard]] virtual std::string_view name() const = 0;  // "/dev/zram0"
  [[nodiscard]] virtual std::uint64_t pages() const = 0;    // size of the area with its header page
  [[nodiscard]] virtual SwapDeviceFlags flags() const = 0;

  // Starts (or, when synchronous, does) the transfer of one page. An error returned here means that nothing was started.
  [[nodiscard]] virtual Status write_page(std::uint64_t offset, phys::Folio& folio, SwapIo& io) = 0;
  [[nodiscard]] virtual Status read_page(std::uint64_t offset, phys::Folio& folio, SwapIo& io) = 0;
  // The slot holds nothing that anybody wants any more (swap_slot_free_notify).
  virtual void free_slot(std::uint64_t offset) = 0;

  virtual void validate() const = 0;
};

}  // namespace quire::swap

template <>
inline constexpr bool quire::kIsFlags<quire::swap::SwapDeviceFlags> = true;
