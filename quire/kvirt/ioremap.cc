#include "quire/kvirt/ioremap.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace quire::kvirt {

Ioremap::Ioremap(phys::PhysMem& phys, slab::SlabSystem& slab, InitMm& init_mm, Vmalloc& vmalloc, KernelLog& log)
    : phys_(phys), init_mm_(init_mm), vmalloc_(vmalloc), log_(log), memtype_(slab, log) {}

// RAM that is the kernel's to use: of the iomem's "System RAM", frames that were not reserved at boot.
bool Ioremap::is_ram(Range<PhysAddr> range) const {
  if (phys_.iomem().busy_bytes(range, "System RAM") == 0) return false;
  for (PhysAddr pa = range.begin; pa < range.end; pa += kPageSize) {
    const Pfn pfn = phys_to_pfn(pa);
    if (!phys_.pfn_valid(pfn) || phys_.iomem().busy_bytes({pa, pa + kPageSize}, "System RAM") == 0) continue;
    if (!phys_.page_initialised(pfn) || !phys_.pfn_to_page(pfn).test(phys::PageFlag::kReserved)) return true;
  }
  return false;
}

IoMem Ioremap::remap(PhysAddr pa, std::uint64_t size, CacheMode wanted, const char* caller) {
  const std::uint64_t last = pa.value() + size - 1;
  if (size == 0 || last < pa.value()) return IoMem();
  if (last >> init_mm_.layout().geometry.physical_bits != 0) {
    log_.warn(fmt::format("ioremap: invalid physical address {:x}", pa.value()));
    return IoMem();
  }
  const Range<PhysAddr> pages{align_down(pa, kPageSize), align_up(PhysAddr(last) + 1, kPageSize)};
  if (is_ram(pages)) {
    log_.warn(fmt::format("ioremap on RAM at {:#018x} - {:#018x}", pa.value(), last));
    return IoMem();
  }
  const auto mode = memtype_.reserve(pages, wanted, caller);
  if (!mode) return IoMem();
  const auto undo = [&] {
    static_cast<void>(memtype_.free(pages));
    return IoMem();
  };
  if (*mode != wanted && !Memtype::is_new_memtype_allowed(wanted, *mode)) {
    log_.warn(fmt::format("ioremap error for 0x{:x}-0x{:x}, requested 0x{:x}, got 0x{:x}", pages.begin.value(),
                          pages.end.value(), static_cast<unsigned>(wanted), static_cast<unsigned>(*mode)));
    return undo();
  }
  VmStruct* area = vmalloc_.get_vm_area(pages.size(), VmArea::kIoremap, caller);
  if (area == nullptr) return undo();
  area->phys_addr = pages.begin;
  const arch::Pgprot prot{arch::kPageKernel.bits | cachemode2protval(*mode)};
  if (!ioremap_page_range(area->range(), pages.begin, prot)) {
    vmalloc_.free_vm_area(*area);
    return undo();
  }
  return IoMem(area->addr + (pa - pages.begin));
}

// The largest leaf that both addresses and the rest of the range allow; Linux has none for i386 without PAE.
Status Ioremap::ioremap_page_range(Range<VirtAddr> at, PhysAddr pa, arch::Pgprot prot) {
  const arch::Geometry& g = init_mm_.layout().geometry;
  const unsigned most = g.entry_bytes == 8 ? g.max_leaf_level : arch::kPteLevel;
  for (VirtAddr va = at.begin; va < at.end;) {
    unsigned level = most;
    const auto fits = [&](std::uint64_t span) {
      return va.value() % span == 0 && pa.value() % span == 0 && at.end - va >= span;
    };
    while (level > arch::kPteLevel && !fits(g.entry_span(level))) --level;
    Status mapped = init_mm_.map(va, pa, prot, level);
    // A table there that is in use: smaller leaves go into it.
    while (!mapped && mapped.error() == Errno::kExist && level > arch::kPteLevel) mapped = init_mm_.map(va, pa, prot, --level);
    if (!mapped) return mapped;
    phys_.scheduler().charge(phys_.scheduler().costs().pte_copy);
    va += g.entry_span(level);
    pa += g.entry_span(level);
  }
  return {};
}

void Ioremap::iounmap(IoMem at) {
  if (!at) return;
  VmStruct* area = vmalloc_.is_vmalloc_addr(at.va()) ? vmalloc_.find_vm_area(at.va()) : nullptr;
  if (area == nullptr || !any(area->flags, VmArea::kIoremap) || area->addr != align_down(at.va(), kPageSize)) {
    log_.warn(fmt::format("iounmap: bad address {:#x}", at.va().value()));
    return;
  }
  static_cast<void>(memtype_.free({area->phys_addr, area->phys_addr + area->usable()}));
  vmalloc_.free_vm_area(*area);
}

// --- access -------------------------------------------------------------------------------------------------------------

void Ioremap::report(std::string_view what, IoMem at, unsigned width, std::string_view why) {
  log_.warn(fmt::format("{} of {} bytes at {:#x}: {}", what, width, at.va().value(), why));
}

std::optional<Ioremap::Place> Ioremap::place(IoMem at, unsigned width, std::string_view what) {
  const auto refuse = [&](std::string_view why) -> std::optional<Place> {
    report(what, at, width, why);
    return std::nullopt;
  };
  if (at.va().value() % width != 0) return refuse("not aligned to its width");
  const auto found = init_mm_.translate(at.va());
  if (!found) return refuse("nothing is mapped there (never ioremapped, unmapped again, or beyond the end)");
  const MmioBus::Target target = bus_.find(found->pa);
  if (target.device == nullptr) return refuse(fmt::format("no device answers at physical address {:#x}", found->pa.value()));
  arch::PteBits bits = found->bits;
  if (found->level > arch::kPteLevel) {
    bits &= ~arch::PteBits::kPat;  // there it says "huge"
    if (any(bits, arch::PteBits::kPatLarge)) bits |= arch::PteBits::kPat;
  }
  return Place{.target = target, .pa = found->pa, .mode = pgprot2cachemode({bits})};
}

std::uint64_t Ioremap::read(IoMem at, unsigned width) {
  const std::uint64_t ones = ~std::uint64_t{0} >> (64 - 8 * width);
  const auto where = place(at, width, "read");
  if (!where) return ones;
  phys_.scheduler().charge(where->target.device->read_cost());
  const auto value = where->target.device->read(where->pa - where->target.range.begin, width);
  if (!value) {
    report("read", at, width, fmt::format("the {} has no such register", where->target.device->name()));
    return ones;
  }
  return *value & ones;
}

void Ioremap::write(IoMem at, unsigned width, std::uint64_t value) {
  const auto where = place(at, width, "write");
  if (!where) return;
  // Over a mapping that gathers writes, a cache line goes out at once.
  const bool gathers = where->mode == CacheMode::kWc || where->mode == CacheMode::kWb;
  const sim::Nanos cost = where->target.device->write_cost();
  phys_.scheduler().charge(gathers ? (cost * width + 63) / 64 : cost);
  if (!where->target.device->write(where->pa - where->target.range.begin, width, value)) {
    report("write", at, width, fmt::format("the {} has no such register", where->target.device->name()));
  }
}

namespace {

// How wide the next access of a copy is.
unsigned copy_width(IoMem at, std::uint64_t rest) { return at.va().value() % 8 == 0 && rest >= 8 ? 8 : 1; }

}  // namespace

void Ioremap::memcpy_fromio(std::span<std::byte> to, IoMem from) {
  for (std::uint64_t done = 0; done < to.size();) {
    const unsigned width = copy_width(from + done, to.size() - done);
    const std::uint64_t value = read(from + done, width);
    std::memcpy(to.data() + done, &value, width);
    done += width;
  }
}

void Ioremap::memcpy_toio(IoMem to, std::span<const std::byte> from) {
  for (std::uint64_t done = 0; done < from.size();) {
    const unsigned width = copy_width(to + done, from.size() - done);
    std::uint64_t value = 0;
    std::memcpy(&value, from.data() + done, width);
    write(to + done, width, value);
    done += width;
  }
}

void Ioremap::memset_io(IoMem at, std::byte value, std::uint64_t bytes) {
  const std::uint64_t word = std::to_integer<std::uint64_t>(value) * 0x0101'0101'0101'0101;
  for (std::uint64_t done = 0; done < bytes;) {
    const unsigned width = copy_width(at + done, bytes - done);
    write(at + done, width, word);
    done += width;
  }
}

std::byte* Ioremap::native(IoMem at) {
  const auto found = init_mm_.translate(at.va());
  if (!found) return nullptr;
  const MmioBus::Target target = bus_.find(found->pa);
  std::byte* memory = target.device == nullptr ? nullptr : target.device->memory();
  return memory == nullptr ? nullptr : memory + (found->pa - target.range.begin);
}

}  // namespace quire::kvirt
