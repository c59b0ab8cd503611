// ioremap: device memory in the kernel's address space, with the caching that the device wants.
//
//   request_mem_region   who may use the range (iomem)
//   ioremap_*            an area (VM_IOREMAP), leaves with the type's bits, the type written down (Memtype)
//   readl, writel, …     walk init_mm to the physical address; the device there answers (MmioBus), and time passes
//
// An IoMem is a kernel address; the host cannot touch it, but for a device that is memory native() tells where the host has it.
//
// Refused, with nullptr and a line in the log where Linux has one: size 0, a range that wraps around, an address beyond the
// machine's physical bits, RAM that the kernel uses, a type that contradicts another mapping of the range.
// A bad access (nothing mapped, a device that does not answer, an address that is no multiple of the width) is told in the log
// and reads as all ones, as a PCI bus answers for nobody.
//
// Locking: Vmalloc's and Memtype's. ioremap and iounmap may sleep; accesses may not.
// Differs from Linux: MTRRs do not exist, so PAT alone decides; early_ioremap and the ISA hole's shortcut neither.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "quire/kvirt/memtype.h"
#include "quire/kvirt/mmio_device.h"
#include "quire/kvirt/vmalloc.h"

namespace quire::kvirt {

// void __iomem *.
class IoMem {
 public:
  constexpr IoMem() = default;
  constexpr explicit IoMem(VirtAddr va) : va_(va) {}
  [[nodiscard]] constexpr VirtAddr va() const { return va_; }
  [[nodiscard]] constexpr explicit operator bool() const { return va_ != VirtAddr(0); }
  friend constexpr IoMem operator+(IoMem at, std::uint64_t bytes) { return IoMem(at.va_ + bytes); }
  constexpr bool operator==(const IoMem&) const = default;

 private:
  VirtAddr va_{};
};

class Ioremap {
 public:
  Ioremap(phys::PhysMem& phys, slab::SlabSystem& slab, InitMm& init_mm, Vmalloc& vmalloc, KernelLog& log);

  // --- mapping --------------------------------------------------------------------------------------------------------
  // Uncached (weakly: a write-combining mapping that is there already is taken over), strictly uncached, and the others.
  [[nodiscard]] IoMem ioremap(PhysAddr pa, std::uint64_t size, const char* caller = __builtin_FUNCTION()) {
    return remap(pa, size, CacheMode::kUcMinus, caller);
  }
  [[nodiscard]] IoMem ioremap_uc(PhysAddr pa, std::uint64_t size, const char* caller = __builtin_FUNCTION()) {
    return remap(pa, size, CacheMode::kUc, caller);
  }
  [[nodiscard]] IoMem ioremap_wc(PhysAddr pa, std::uint64_t size, const char* caller = __builtin_FUNCTION()) {
    return remap(pa, size, CacheMode::kWc, caller);
  }
  [[nodiscard]] IoMem ioremap_wt(PhysAddr pa, std::uint64_t size, const char* caller = __builtin_FUNCTION()) {
    return remap(pa, size, CacheMode::kWt, caller);
  }
  [[nodiscard]] IoMem ioremap_cache(PhysAddr pa, std::uint64_t size, const char* caller = __builtin_FUNCTION()) {
    return remap(pa, size, CacheMode::kWb, caller);
  }
  // With the type that the bits choose.
  [[nodiscard]] IoMem ioremap_prot(PhysAddr pa, std::uint64_t size, arch::Pgprot prot,
                                   const char* caller = __builtin_FUNCTION()) {
    return remap(pa, size, pgprot2cachemode(prot), caller);
  }
  void iounmap(IoMem at);

  // Claims a range of physical addresses in iomem. kBusy: somebody has it; kInval: it is empty.
  [[nodiscard]] Status request_mem_region(Range<PhysAddr> range, std::string name) {
    return phys_.iomem().request(range, std::move(name));
  }
  // kNoEnt: there is no such claim.
  Status release_mem_region(Range<PhysAddr> range, std::string_view name) { return phys_.iomem().release(range, name); }

  // --- access ---------------------------------------------------------------------------------------------------------
  [[nodiscard]] std::uint8_t readb(IoMem at) { return static_cast<std::uint8_t>(read(at, 1)); }
  [[nodiscard]] std::uint16_t readw(IoMem at) { return static_cast<std::uint16_t>(read(at, 2)); }
  [[nodiscard]] std::uint32_t readl(IoMem at) { return static_cast<std::uint32_t>(read(at, 4)); }
  [[nodiscard]] std::uint64_t readq(IoMem at) { return read(at, 8); }
  void writeb(std::uint8_t value, IoMem at) { write(at, 1, value); }
  void writew(std::uint16_t value, IoMem at) { write(at, 2, value); }
  void writel(std::uint32_t value, IoMem at) { write(at, 4, value); }
  void writeq(std::uint64_t value, IoMem at) { write(at, 8, value); }
  // In words of eight bytes where both the address and the rest allow it, else byte by byte.
  void memcpy_fromio(std::span<std::byte> to, IoMem from);
  void memcpy_toio(IoMem to, std::span<const std::byte> from);
  void memset_io(IoMem at, std::byte value, std::uint64_t bytes);
  // Where the host has the memory of the device that is mapped at `at`; nullptr: no device, or none that is memory.
  [[nodiscard]] std::byte* native(IoMem at);

  [[nodiscard]] MmioBus& bus() { return bus_; }
  [[nodiscard]] const Memtype& memtype() const { return memtype_; }
  void validate() const { memtype_.validate(); }

 private:
  struct Place {
    MmioBus::Target target;
    PhysAddr pa{};
    CacheMode mode = CacheMode::kUc;
  };
  [[nodiscard]] IoMem remap(PhysAddr pa, std::uint64_t size, CacheMode wanted, const char* caller);
  [[nodiscard]] bool is_ram(Range<PhysAddr> range) const;
  [[nodiscard]] Status ioremap_page_range(Range<VirtAddr> at, PhysAddr pa, arch::Pgprot prot);
  [[nodiscard]] std::optional<Place> place(IoMem at, unsigned width, std::string_view what);
  [[nodiscard]] std::uint64_t read(IoMem at, unsigned width);
  void write(IoMem at, unsigned width, std::uint64_t value);
  void report(std::string_view what, IoMem at, unsigned width, std::string_view why);

  phys::PhysMem& phys_;
  InitMm& init_mm_;
  Vmalloc& vmalloc_;
  KernelLog& log_;
  Memtype memtype_;
  MmioBus bus_;
};

}  // namespace quire::kvirt
