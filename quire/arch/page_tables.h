// Page tables in the arena: the hardware's walk, and the steps of a software walk under Linux's names.
//
//   root ── pgd ──► [p4d] ──► pud ──► pmd ──► pte ──► frame
//                              │       └ 2 MiB leaf
//                              └ 1 GiB leaf
//
// A table is one frame of 512 entries (i386: 1024 of 4 bytes; PAE's top one has 4); `root` is the physical address of the top
// table (CR3). PageTables owns nothing and keeps nothing: it is the direct map's base and a Geometry, one for a machine. It
// allocates no tables; vm does, and hooks them in with p?d_populate.
//
// walk() is what the MMU does on a TLB miss: it checks rights on every level, computes the error code of #PF, and on success
// sets Accessed in each entry used and Dirty in the leaf of a write. A walk that faults leaves the tables as they were (real
// processors may set A on the way; software may not rely on either).
//
// lookup() and the *_offset steps are software's: no rights, no A or D. Locking: the page-table lock is the caller's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/arch/access.h"
#include "quire/arch/geometry.h"
#include "quire/arch/pte.h"
#include "quire/base/flags.h"
#include "quire/base/types.h"

namespace quire::arch {

// What a translation allows: the rights of all levels together; whether the leaf is already dirty, and whether it holds in
// every address space.
enum class Rights : std::uint8_t { kNone = 0, kUser = 1, kWrite = 2, kExec = 4, kDirty = 8, kGlobal = 16 };

}  // namespace quire::arch

template <>
inline constexpr bool quire::kIsFlags<quire::arch::Rights> = true;

namespace quire::arch {

// True when a translation with `rights` serves the access as it is. A write needs kDirty too: without it the walker has to
// run again to set the leaf's D bit.
[[nodiscard]] constexpr bool permits(Rights rights, Access access, Privilege privilege) {
  struct Test {
    Rights mask, value;
  };
  constexpr Rights kDirtyWrite = Rights::kWrite | Rights::kDirty;
  constexpr Rights kUserExec = Rights::kUser | Rights::kExec;
  // By privilege and access: a table, since which access comes next cannot be predicted. The kernel may not execute user
  // pages (SMEP).
  constexpr Test kTests[2][3] = {
      {{Rights::kUser, Rights::kUser}, {kDirtyWrite | Rights::kUser, kDirtyWrite | Rights::kUser}, {kUserExec, kUserExec}},
      {{Rights::kNone, Rights::kNone}, {kDirtyWrite, kDirtyWrite}, {kUserExec, Rights::kExec}}};
  const Test& test = kTests[static_cast<unsigned>(privilege)][static_cast<unsigned>(access)];
  return (rights & test.mask) == test.value;
}

enum class WalkOutcome : std::uint8_t {
  kTranslated,
  kPageFault,          // #PF with `code`
  kGeneralProtection,  // #GP: the address is not canonical
};

struct WalkResult {
  WalkOutcome outcome = WalkOutcome::kPageFault;
  std::uint8_t level = 0;             // of the leaf, or of the entry where the walk ended
  Rights rights = Rights::kNone;      // when translated
  FaultCode code = FaultCode::kNone;  // when kPageFault
  PhysAddr pa{};                      // of the very byte, when translated
  std::uint64_t* entry = nullptr;     // the leaf entry, or the one that faulted; null for #GP and for entries of 4 bytes

  [[nodiscard]] explicit operator bool() const { return outcome == WalkOutcome::kTranslated; }
};

class PageTables {
 public:
  // `direct_map` is the host address of physical address 0 (Arena::base()).
  PageTables(std::byte* direct_map, const Geometry& geometry);

  [[nodiscard]] const Geometry& geometry() const { return geometry_; }
  [[nodiscard]] bool pgtable_l5_enabled() const { return geometry_.levels == 5; }
  [[nodiscard]] std::byte* to_virt(PhysAddr pa) const { return direct_map_ + pa.value(); }

  // The hardware's walk. Precondition: every table reachable from root lies in the arena.
  WalkResult walk(PhysAddr root, VirtAddr va, Access access, Privilege privilege) const;
  // The same translation without side effects and without an access: rights are those the tables give now. For checkers.
  [[nodiscard]] WalkResult probe(PhysAddr root, VirtAddr va) const;

  // One entry of a table of any shape; what is written to a 4-byte entry must fit.
  [[nodiscard]] std::uint64_t read_entry(PhysAddr table_at, unsigned index) const {
    if (geometry_.entry_bytes == 4) return table<std::uint32_t>(table_at)[index];
    return table<std::uint64_t>(table_at)[index];
  }
  void write_entry(PhysAddr table_at, unsigned index, std::uint64_t value) const {
    if (geometry_.entry_bytes == 4) {
      table<std::uint32_t>(table_at)[index] = static_cast<std::uint32_t>(value);
    } else {
      table<std::uint64_t>(table_at)[index] = value;
    }
  }

  // Shapes of 8-byte entries. The entry of table level `level` that covers va, or nullptr when a table above it is missing or
  // a huge leaf stands there.
  [[nodiscard]] std::uint64_t* lookup_entry(PhysAddr root, VirtAddr va, unsigned level) const;
  [[nodiscard]] Pte* lookup(PhysAddr root, VirtAddr va) const {
    return reinterpret_cast<Pte*>(lookup_entry(root, va, kPteLevel));
  }
  [[nodiscard]] Pmd* lookup_pmd(PhysAddr root, VirtAddr va) const {
    return reinterpret_cast<Pmd*>(lookup_entry(root, va, kPmdLevel));
  }

  // --- Linux's five-step walk. With four levels the p4d is folded: p4d_offset returns the pgd entry itself. -------------
  [[nodiscard]] Pgd* pgd_offset(PhysAddr root, VirtAddr va) const {
    return table<Pgd>(root) + geometry_.index(va, geometry_.levels);
  }
  [[nodiscard]] P4d* p4d_offset(Pgd* pgd, VirtAddr va) const {
    if (!pgtable_l5_enabled()) return reinterpret_cast<P4d*>(pgd);
    return table<P4d>(pgd->phys()) + geometry_.index(va, kPudLevel + 1);
  }
  [[nodiscard]] Pud* pud_offset(P4d* p4d, VirtAddr va) const { return table<Pud>(p4d->phys()) + pud_index(va); }
  [[nodiscard]] Pmd* pmd_offset(Pud* pud, VirtAddr va) const { return table<Pmd>(pud->phys()) + pmd_index(va); }
  [[nodiscard]] Pte* pte_offset(Pmd* pmd, VirtAddr va) const { return table<Pte>(pmd->phys()) + pte_index(va); }
  [[nodiscard]] bool pgd_none(Pgd pgd) const { return pgtable_l5_enabled() && pgd.none(); }
  [[nodiscard]] bool pgd_present(Pgd pgd) const { return !pgtable_l5_enabled() || pgd.present(); }

  [[nodiscard]] VirtAddr pgd_addr_end(VirtAddr va, VirtAddr end) const { return geometry_.addr_end(va, end, geometry_.levels); }
  // With a folded p4d there is one p4d "entry" for the whole range, as in Linux.
  [[nodiscard]] VirtAddr p4d_addr_end(VirtAddr va, VirtAddr end) const {
    return pgtable_l5_enabled() ? geometry_.addr_end(va, end, kPudLevel + 1) : end;
  }
  [[nodiscard]] VirtAddr pud_addr_end(VirtAddr va, VirtAddr end) const { return geometry_.addr_end(va, end, kPudLevel); }
  [[nodiscard]] VirtAddr pmd_addr_end(VirtAddr va, VirtAddr end) const { return geometry_.addr_end(va, end, kPmdLevel); }

  // A whole table as typed entries.
  template <class Entry>
  [[nodiscard]] Entry* table(PhysAddr pa) const {
    return reinterpret_cast<Entry*>(to_virt(pa));
  }

 private:
  template <unsigned kLevels>
  WalkResult walk_levels(PhysAddr root, VirtAddr va, Access access, Privilege privilege) const;

  // Any shape, slower; i386's.
  WalkResult walk_any(PhysAddr root, VirtAddr va, Access access, Privilege privilege) const;

  // For tables of 512 entries.
  [[nodiscard]] std::uint64_t* entry_at(PhysAddr table_at, VirtAddr va, unsigned level) const {
    return table<std::uint64_t>(table_at) + ((va.value() >> (3 + 9 * level)) & 511);
  }
  void set_accessed(PhysAddr root, VirtAddr va, unsigned levels, unsigned leaf) const;
  [[nodiscard]] bool has_reserved_bits(std::uint64_t entry, unsigned level) const;

  std::byte* direct_map_;
  Geometry geometry_;
  // By level: bits that must be zero in a present entry that points to a table, and in a leaf.
  std::uint64_t reserved_[kMaxLevels + 1]{};
  std::uint64_t reserved_in_leaf_[kMaxLevels + 1]{};
};

}  // namespace quire::arch
