// /proc/vmallocinfo as Linux 6.1 prints it, and the check of the areas against the page tables.
#include <fmt/format.h>

#include <map>

#include "quire/kvirt/vmalloc.h"

namespace quire::kvirt {

namespace {

std::string range_text(VirtAddr begin, VirtAddr end) {
  // A pointer takes 16 digits on a 64-bit machine and 8 on another.
  const int digits = begin.value() >> 32 == 0 ? 8 : 16;
  return fmt::format("0x{:0{}x}-0x{:0{}x} {:7}", begin.value(), digits, end.value(), digits, end - begin);
}

}  // namespace

// How many of the area's pages lie on each node; nothing while they are still being allocated.
std::string Vmalloc::numa_info(const VmStruct& area) const {
  if (any(area.flags, VmArea::kUninitialized)) return {};
  std::map<int, std::uint64_t> pages;
  for (const phys::Page* page : pages_of(area)) ++pages[page->nid().value()];
  std::string text;
  for (const auto& [nid, count] : pages) text += fmt::format(" N{}={}", nid, count);
  return text;
}

std::string Vmalloc::line(const VmStruct& area) const {
  std::string text = range_text(area.addr, area.addr + area.size);
  if (area.caller != nullptr) text += fmt::format(" {}", area.caller);
  if (area.nr_pages != 0) text += fmt::format(" pages={}", area.nr_pages);
  // phys_addr_t is as wide as the kernel was built for.
  const int digits = phys_.arch() == phys::Arch::kI386 ? 8 : 16;
  if (area.phys_addr != PhysAddr(0)) text += fmt::format(" phys=0x{:0{}x}", area.phys_addr.value(), digits);
  const auto word = [&](VmArea flag, std::string_view name) {
    if (any(area.flags, flag)) text += fmt::format(" {}", name);
  };
  word(VmArea::kIoremap, "ioremap");
  word(VmArea::kAlloc, "vmalloc");
  word(VmArea::kMap, "vmap");
  word(VmArea::kUserMap, "user");
  word(VmArea::kDmaCoherent, "dma-coherent");
  if (is_vmalloc_addr(area.pages)) text += " vpages";
  return text + numa_info(area);
}

std::string Vmalloc::vmallocinfo() const {
  std::string text;
  areas_.for_each_busy([&](const VmapArea& va) {
    text += va.vm == nullptr ? range_text(va.va_start, va.va_end) + " vm_map_ram" : line(*va.vm);
    text += '\n';
  });
  areas_.for_each_unpurged([&](const VmapArea& va) { text += range_text(va.va_start, va.va_end) + " unpurged vm_area\n"; });
  return text;
}

// --- checking -----------------------------------------------------------------------------------------------------------

void Vmalloc::check_area(const VmapArea& va, std::uint64_t& mapped, std::uint64_t& owned) const {
  if (va.vm == nullptr) return;  // between the range and its description
  const VmStruct& area = *va.vm;
  QUIRE_BUG_ON(area.addr != va.va_start || area.addr + area.size != va.va_end);
  std::uint64_t here = 0;
  init_mm_.for_each_leaf({va.va_start, va.va_end}, [&](VirtAddr at, const InitMm::Translation& leaf) {
    const std::uint64_t pages = init_mm_.layout().geometry.entry_span(leaf.level) >> kPageShift;
    QUIRE_BUG_ON(!area.range().contains({at, at + pages_to_bytes(pages)}));  // the guard page stays empty
    for (std::uint64_t i = 0; i < pages && area.nr_pages != 0; ++i) {
      const std::uint64_t index = ((at - area.addr) >> kPageShift) + i;
      QUIRE_BUG_ON(index >= area.nr_pages);
      QUIRE_BUG_ON(phys_.page_to_phys(*area.pages[index]) != leaf.pa + pages_to_bytes(i));
    }
    here += pages;
  });
  mapped += here;
  if (any(area.flags, VmArea::kUninitialized)) {
    owned += area.nr_pages;
    return;
  }
  QUIRE_BUG_ON(here != area.usable() >> kPageShift);
  if (!any(area.flags, VmArea::kAlloc)) return;
  QUIRE_BUG_ON(area.nr_pages != here);
  owned += area.nr_pages;
  for (const phys::Page* page : pages_of(area)) QUIRE_BUG_ON(page->refcount < 1);
}

void Vmalloc::validate() const {
  areas_.validate();
  std::uint64_t mapped = 0;
  std::uint64_t owned = 0;
  areas_.for_each_busy([&](const VmapArea& va) { check_area(va, mapped, owned); });
  std::uint64_t in_tables = 0;
  init_mm_.for_each_leaf(areas_.space(), [&](VirtAddr, const InitMm::Translation& leaf) {
    in_tables += init_mm_.layout().geometry.entry_span(leaf.level) >> kPageShift;
  });
  QUIRE_BUG_ON(in_tables != mapped);
  QUIRE_BUG_ON(owned != nr_vmalloc_pages_);
}

}  // namespace quire::kvirt
