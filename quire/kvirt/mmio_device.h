// A device of the simulation, as the kernel sees it: registers or memory at physical addresses, with side effects of their own;
// and the bus that knows which device answers where.
//
// Reads and writes come from Ioremap's accessors, with the offset from the start of the device's range. Locking: none; a
// device is one object of the machine's and is called between two sync points.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/sim/time.h"

namespace quire::kvirt {

class MmioDevice {
 public:
  virtual ~MmioDevice() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  // How many bytes it answers for.
  [[nodiscard]] virtual std::uint64_t bytes() const = 0;
  // `width` is 1, 2, 4 or 8 bytes, `offset` a multiple of it, and all of it lies in the device. Nothing: the device does not
  // answer (no such register, or not in this width), which the accessor reports.
  [[nodiscard]] virtual std::optional<std::uint64_t> read(std::uint64_t offset, unsigned width) = 0;
  // False: as above.
  [[nodiscard]] virtual bool write(std::uint64_t offset, unsigned width, std::uint64_t value) = 0;
  // Memory of the device that the host may reach without asking it, as long as its range; nullptr: it has none.
  [[nodiscard]] virtual std::byte* memory() { return nullptr; }
  // What one access costs over an uncached mapping: a read waits for the answer, a write is posted.
  [[nodiscard]] virtual sim::Nanos read_cost() const { return 800; }
  [[nodiscard]] virtual sim::Nanos write_cost() const { return 120; }
};

class MmioBus {
 public:
  struct Target {
    MmioDevice* device = nullptr;
    Range<PhysAddr> range{};
  };

  // The device answers for the range from now on; it must outlive its registration. A range shorter than the device shows its
  // beginning. kInval: an empty range, one that is not made of 8-byte words, or one longer than the device; kBusy: another
  // device is there.
  [[nodiscard]] Status add(Range<PhysAddr> range, MmioDevice& device);
  // kNoEnt: it is not there.
  Status remove(MmioDevice& device);
  // Who answers at pa; no device: nobody.
  [[nodiscard]] Target find(PhysAddr pa) const;

 private:
  std::vector<Target> targets_;  // by address
};

}  // namespace quire::kvirt
