// Page-table entries of x86-64: 64-bit values, a distinct type for each level, and Linux's helpers on them.
//
//    63  62..59   58     57..52  51 ........ 12  11      10      9        8      7    6  5   4    3    2     1   0
//    NX  pkey   devmap     -     frame number    soft-   uffd-  special  global  PSE  D  A  PCD  PWT  user  rw  present
//                                                dirty   wp
//
// An entry that is not hardware-present is none (0), PROT_NONE (bit 8 set, a frame with no rights, "present" to software) or
// a swap entry (swap_entry.h). `present` below is software's view, `hw_present` the walker's.
//
// Entries in tables are plain 64-bit words of the arena. A machine is confined to one host thread, so ptep_* are plain loads
// and stores; they are atomic to simulated CPUs because a task is preempted only at synchronisation points.
//
// Differs from Linux: a PROT_NONE entry keeps its frame number as it is (no L1TF inversion; nothing speculates here).
#pragma once

#include <compare>
#include <cstdint>

#include "quire/base/flags.h"
#include "quire/base/types.h"

namespace quire::arch {

enum class PteBits : std::uint64_t {
  kNone = 0,
  kPresent = 1ull << 0,
  kRw = 1ull << 1,
  kUser = 1ull << 2,
  kPwt = 1ull << 3,
  kPcd = 1ull << 4,
  kAccessed = 1ull << 5,
  kDirty = 1ull << 6,
  kPse = 1ull << 7,        // levels 2 and 3: a huge leaf
  kPat = 1ull << 7,        // level 1: the third bit of the memory type's number (kPwt and kPcd are the lower two)
  kPatLarge = 1ull << 12,  // the same in a huge leaf
  kGlobal = 1ull << 8,
  kProtNone = 1ull << 8,  // when kPresent is clear
  kSpecial = 1ull << 9,
  kUffdWp = 1ull << 10,
  kSoftDirty = 1ull << 11,
  kDevmap = 1ull << 58,
  kNx = 1ull << 63,
};

}  // namespace quire::arch

template <>
inline constexpr bool quire::kIsFlags<quire::arch::PteBits> = true;

namespace quire::arch {

inline constexpr std::uint64_t kPteFrameMask = 0x000f'ffff'ffff'f000;
// What a non-leaf entry carries (Linux: _PAGE_TABLE).
inline constexpr PteBits kTableBits = PteBits::kPresent | PteBits::kRw | PteBits::kUser | PteBits::kAccessed | PteBits::kDirty;

// One entry. `Level` only tells the types apart; the bits are the same on every level.
template <class Level>
class TableEntry {
 public:
  constexpr TableEntry() = default;
  constexpr explicit TableEntry(std::uint64_t value) : value_(value) {}
  constexpr TableEntry(Pfn pfn, PteBits bits) : value_((pfn.value() << kPageShift) | static_cast<std::uint64_t>(bits)) {}

  [[nodiscard]] constexpr std::uint64_t value() const { return value_; }
  constexpr bool operator==(const TableEntry&) const = default;

  [[nodiscard]] constexpr PteBits flags() const { return static_cast<PteBits>(value_ & ~kPteFrameMask); }
  [[nodiscard]] constexpr bool has(PteBits mask) const { return (value_ & static_cast<std::uint64_t>(mask)) != 0; }
  [[nodiscard]] constexpr TableEntry with(PteBits mask) const { return TableEntry(value_ | static_cast<std::uint64_t>(mask)); }
  [[nodiscard]] constexpr TableEntry without(PteBits mask) const {
    return TableEntry(value_ & ~static_cast<std::uint64_t>(mask));
  }

  [[nodiscard]] constexpr bool none() const { return value_ == 0; }
  [[nodiscard]] constexpr bool hw_present() const { return has(PteBits::kPresent); }
  [[nodiscard]] constexpr bool present() const { return has(PteBits::kPresent | PteBits::kProtNone); }
  [[nodiscard]] constexpr bool protnone() const { return !hw_present() && has(PteBits::kProtNone); }
  // A huge mapping on level 2 or 3 (Linux: pmd_leaf, pud_leaf).
  [[nodiscard]] constexpr bool leaf() const { return present() && has(PteBits::kPse); }
  // Frame of the page or of the next table. Only for present entries.
  [[nodiscard]] constexpr Pfn pfn() const { return Pfn((value_ & kPteFrameMask) >> kPageShift); }
  [[nodiscard]] constexpr PhysAddr phys() const { return PhysAddr(value_ & kPteFrameMask); }

 private:
  std::uint64_t value_ = 0;
};

using Pgd = TableEntry<struct PgdLevel>;
using P4d = TableEntry<struct P4dLevel>;
using Pud = TableEntry<struct PudLevel>;
using Pmd = TableEntry<struct PmdLevel>;
using Pte = TableEntry<struct PteLevel>;
static_assert(sizeof(Pte) == 8);

// Protection bits of a mapping (Linux: pgprot_t and the PAGE_* constants of x86).
struct Pgprot {
  PteBits bits = PteBits::kNone;
  constexpr bool operator==(const Pgprot&) const = default;
};
inline constexpr Pgprot kPageNone{PteBits::kProtNone | PteBits::kAccessed};
inline constexpr Pgprot kPageReadonly{PteBits::kPresent | PteBits::kUser | PteBits::kAccessed | PteBits::kNx};
inline constexpr Pgprot kPageReadonlyExec{PteBits::kPresent | PteBits::kUser | PteBits::kAccessed};
inline constexpr Pgprot kPageCopy = kPageReadonly;
inline constexpr Pgprot kPageCopyExec = kPageReadonlyExec;
inline constexpr Pgprot kPageShared{kPageReadonly.bits | PteBits::kRw};
inline constexpr Pgprot kPageSharedExec{kPageReadonlyExec.bits | PteBits::kRw};
// Of the kernel's own mappings.
inline constexpr Pgprot kPageKernel{PteBits::kPresent | PteBits::kRw | PteBits::kAccessed | PteBits::kDirty | PteBits::kGlobal |
                                    PteBits::kNx};
inline constexpr Pgprot kPageKernelRo{kPageKernel.bits & ~(PteBits::kRw | PteBits::kDirty)};
// Kept by pte_modify (Linux: _PAGE_CHG_MASK, without the cache bits).
inline constexpr PteBits kPteChangeKeeps = PteBits::kAccessed | PteBits::kDirty | PteBits::kSpecial | PteBits::kSoftDirty |
                                           PteBits::kDevmap | PteBits::kUffdWp | PteBits::kPse;

// --- pte_*: tests -------------------------------------------------------------------------------------------------------
[[nodiscard]] constexpr bool pte_none(Pte pte) { return pte.none(); }
[[nodiscard]] constexpr bool pte_present(Pte pte) { return pte.present(); }
[[nodiscard]] constexpr bool pte_protnone(Pte pte) { return pte.protnone(); }
[[nodiscard]] constexpr bool pte_write(Pte pte) { return pte.has(PteBits::kRw); }
[[nodiscard]] constexpr bool pte_dirty(Pte pte) { return pte.has(PteBits::kDirty); }
[[nodiscard]] constexpr bool pte_young(Pte pte) { return pte.has(PteBits::kAccessed); }
[[nodiscard]] constexpr bool pte_exec(Pte pte) { return !pte.has(PteBits::kNx); }
[[nodiscard]] constexpr bool pte_user(Pte pte) { return pte.has(PteBits::kUser); }
[[nodiscard]] constexpr bool pte_special(Pte pte) { return pte.has(PteBits::kSpecial); }
[[nodiscard]] constexpr bool pte_devmap(Pte pte) { return pte.has(PteBits::kDevmap); }
[[nodiscard]] constexpr bool pte_soft_dirty(Pte pte) { return pte.has(PteBits::kSoftDirty); }
[[nodiscard]] constexpr bool pte_uffd_wp(Pte pte) { return pte.has(PteBits::kUffdWp); }
[[nodiscard]] constexpr bool pte_same(Pte a, Pte b) { return a == b; }
[[nodiscard]] constexpr Pfn pte_pfn(Pte pte) { return pte.pfn(); }
[[nodiscard]] constexpr Pgprot pte_pgprot(Pte pte) { return Pgprot{pte.flags()}; }

// --- pte_*: new values ------------------------------------------------------------------------------------------------
// Linux: pfn_pte / mk_pte.
[[nodiscard]] constexpr Pte mk_pte(Pfn pfn, Pgprot prot) { return Pte(pfn, prot.bits); }
[[nodiscard]] constexpr Pte pte_mkwrite(Pte pte) { return pte.with(PteBits::kRw); }
[[nodiscard]] constexpr Pte pte_wrprotect(Pte pte) { return pte.without(PteBits::kRw); }
[[nodiscard]] constexpr Pte pte_mkdirty(Pte pte) { return pte.with(PteBits::kDirty | PteBits::kSoftDirty); }
[[nodiscard]] constexpr Pte pte_mkclean(Pte pte) { return pte.without(PteBits::kDirty); }
[[nodiscard]] constexpr Pte pte_mkyoung(Pte pte) { return pte.with(PteBits::kAccessed); }
[[nodiscard]] constexpr Pte pte_mkold(Pte pte) { return pte.without(PteBits::kAccessed); }
[[nodiscard]] constexpr Pte pte_mkexec(Pte pte) { return pte.without(PteBits::kNx); }
[[nodiscard]] constexpr Pte pte_mkspecial(Pte pte) { return pte.with(PteBits::kSpecial); }
[[nodiscard]] constexpr Pte pte_mkdevmap(Pte pte) { return pte.with(PteBits::kSpecial | PteBits::kDevmap); }
[[nodiscard]] constexpr Pte pte_mksoft_dirty(Pte pte) { return pte.with(PteBits::kSoftDirty); }
[[nodiscard]] constexpr Pte pte_clear_soft_dirty(Pte pte) { return pte.without(PteBits::kSoftDirty); }
[[nodiscard]] constexpr Pte pte_mkuffd_wp(Pte pte) { return pte_wrprotect(pte.with(PteBits::kUffdWp)); }
[[nodiscard]] constexpr Pte pte_clear_uffd_wp(Pte pte) { return pte.without(PteBits::kUffdWp); }
// New protection, same frame, accessed and dirty kept.
[[nodiscard]] constexpr Pte pte_modify(Pte pte, Pgprot prot) {
  const auto keep = kPteFrameMask | static_cast<std::uint64_t>(kPteChangeKeeps);
  return Pte((pte.value() & keep) | (static_cast<std::uint64_t>(prot.bits) & ~keep) |
             static_cast<std::uint64_t>(prot.bits & PteBits::kPse));
}

// Must a CPU that remembers `old` be told when the entry becomes `now`? Not of what only adds D or takes A away: the hardware
// walks again for the one, and the other only makes the page look older.
[[nodiscard]] constexpr bool pte_needs_flush(Pte old, Pte now) {
  if (!old.hw_present()) return false;
  if (!now.hw_present() || old.pfn() != now.pfn()) return true;
  if (pte_dirty(old) && !pte_dirty(now)) return true;
  constexpr PteBits kNoMatter =
      PteBits::kAccessed | PteBits::kDirty | PteBits::kSpecial | PteBits::kSoftDirty | PteBits::kDevmap | PteBits::kUffdWp;
  return (old.flags() & ~kNoMatter) != (now.flags() & ~kNoMatter);
}

// --- pte_*: entries in a table ------------------------------------------------------------------------------------------
[[nodiscard]] inline Pte ptep_get(const Pte* ptep) { return *ptep; }
inline void set_pte(Pte* ptep, Pte pte) { *ptep = pte; }
inline void pte_clear(Pte* ptep) { *ptep = Pte(); }
inline Pte ptep_get_and_clear(Pte* ptep) {
  const Pte old = *ptep;
  *ptep = Pte();
  return old;
}
// True when the entry was young. The TLB is not flushed (as on x86: a stale A only costs accuracy).
inline bool ptep_test_and_clear_young(Pte* ptep) {
  const bool young = pte_young(*ptep);
  *ptep = pte_mkold(*ptep);
  return young;
}
inline void ptep_set_wrprotect(Pte* ptep) { *ptep = pte_wrprotect(*ptep); }

// --- pmd_*, pud_*, p4d_*, pgd_* ---------------------------------------------------------------------------------------
// (pgd_none and pgd_present depend on whether the level is folded: see PageTables.)
[[nodiscard]] constexpr bool pmd_none(Pmd pmd) { return pmd.none(); }
[[nodiscard]] constexpr bool pmd_present(Pmd pmd) { return pmd.present(); }
[[nodiscard]] constexpr bool pmd_leaf(Pmd pmd) { return pmd.leaf(); }
[[nodiscard]] constexpr bool pmd_trans_huge(Pmd pmd) { return pmd.leaf() && !pmd.has(PteBits::kDevmap); }
// Neither none nor a table nor a leaf that hardware knows: a swap or migration entry of a huge page.
[[nodiscard]] constexpr bool is_swap_pmd(Pmd pmd) { return !pmd.none() && !pmd.present(); }
[[nodiscard]] constexpr bool pud_none(Pud pud) { return pud.none(); }
[[nodiscard]] constexpr bool pud_present(Pud pud) { return pud.present(); }
[[nodiscard]] constexpr bool pud_leaf(Pud pud) { return pud.leaf(); }
[[nodiscard]] constexpr bool p4d_none(P4d p4d) { return p4d.none(); }
[[nodiscard]] constexpr bool p4d_present(P4d p4d) { return p4d.present(); }

// Hooks a table of the level below into an entry (Linux: pmd_populate, pud_populate, p4d_populate).
template <class Level>
inline void entry_populate(TableEntry<Level>* entry, PhysAddr table) {
  *entry = TableEntry<Level>(phys_to_pfn(table), kTableBits);
}
inline void pmd_populate(Pmd* pmd, PhysAddr pte_table) { entry_populate(pmd, pte_table); }
inline void pud_populate(Pud* pud, PhysAddr pmd_table) { entry_populate(pud, pmd_table); }
inline void p4d_populate(P4d* p4d, PhysAddr pud_table) { entry_populate(p4d, pud_table); }
inline void pgd_populate(Pgd* pgd, PhysAddr p4d_table) { entry_populate(pgd, p4d_table); }
template <class Level>
inline void entry_clear(TableEntry<Level>* entry) {
  *entry = TableEntry<Level>();
}

}  // namespace quire::arch
