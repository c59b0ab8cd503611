// A little RAM with page tables in it, for tests of arch: frames are handed out from the bottom and never taken back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "quire/arch/page_tables.h"

namespace quire::arch {

class TableArena {
 public:
  explicit TableArena(const Geometry& geometry = Geometry::x86_64_4level(), std::size_t frames = 256)
      : words_(frames * kPageSize / 8), tables_(reinterpret_cast<std::byte*>(words_.data()), geometry) {
    next_ = PhysAddr(kPageSize);  // frame 0 stays unused, so that 0 is no table
    root_ = new_table();
  }

  [[nodiscard]] const PageTables& tables() const { return tables_; }
  [[nodiscard]] PhysAddr root() const { return root_; }
  PhysAddr new_table() {
    const PhysAddr table = next_;
    next_ += kPageSize;
    if (next_.value() > words_.size() * 8) std::abort();
    return table;
  }

  // The entry of `level` for va; tables above it are made as needed.
  std::uint64_t& entry(VirtAddr va, unsigned level = kPteLevel) {
    PhysAddr table = root_;
    for (unsigned l = tables_.geometry().levels; l > level; --l) {
      auto* at = tables_.table<Pte>(table) + tables_.geometry().index(va, l);
      if (at->none()) entry_populate(at, new_table());
      table = at->phys();
    }
    return tables_.table<std::uint64_t>(table)[tables_.geometry().index(va, level)];
  }
  void map(VirtAddr va, Pfn pfn, Pgprot prot, unsigned level = kPteLevel) {
    entry(va, level) = mk_pte(pfn, prot).value() | (level > kPteLevel ? static_cast<std::uint64_t>(PteBits::kPse) : 0);
  }

 private:
  std::vector<std::uint64_t> words_;
  PageTables tables_;
  PhysAddr next_{};
  PhysAddr root_{};
};

}  // namespace quire::arch
