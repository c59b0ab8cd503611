// Which memory type (caching) each physical range is mapped with, so that no range has two at once (x86's PAT tracking,
// arch/x86/mm/pat/memtype.c). Each reservation is an entry; entries may overlap when they are of one type.
//
// Locking: memtype_lock. Entries are kmalloc's.
#pragma once

#include <cstdint>
#include <string_view>

#include "quire/arch/pte.h"
#include "quire/base/interval_tree.h"
#include "quire/base/result.h"
#include "quire/kvirt/kernel_log.h"
#include "quire/sim/lock_guards.h"
#include "quire/slab/slab_system.h"

namespace quire::kvirt {

// _PAGE_CACHE_MODE_*, in Linux's numbers.
enum class CacheMode : std::uint8_t { kWb = 0, kWc = 1, kUcMinus = 2, kUc = 3, kWt = 4, kWp = 5 };

// "write-back", "write-combining", "uncached-minus", "uncached", "write-through", "write-protected".
[[nodiscard]] std::string_view cattr_name(CacheMode mode);
// The bits that choose the type in a leaf, with the table that Linux loads: 0 WB, 1 WC, 2 UC-, 3 UC, 5 WP, 7 WT
// (cachemode2protval). kPat as in a 4 KiB leaf.
[[nodiscard]] arch::PteBits cachemode2protval(CacheMode mode);
[[nodiscard]] CacheMode pgprot2cachemode(arch::Pgprot prot);

class Memtype {
 public:
  Memtype(slab::SlabSystem& slab, KernelLog& log);
  ~Memtype();
  Memtype(const Memtype&) = delete;
  Memtype& operator=(const Memtype&) = delete;

  // Takes a range, as `wanted` if nobody has part of it, else as what all of them have it. kBusy: they differ among themselves;
  // kNoMem.
  [[nodiscard]] Result<CacheMode> reserve(Range<PhysAddr> range, CacheMode wanted, std::string_view who);
  // Gives one such reservation back. kInval: there is none of exactly this range.
  Status free(Range<PhysAddr> range);
  // What the byte at pa is mapped with; kUcMinus where nobody has reserved it.
  [[nodiscard]] CacheMode lookup(PhysAddr pa) const;
  // Whether who asked for `wanted` may have `got` instead (is_new_memtype_allowed).
  [[nodiscard]] static bool is_new_memtype_allowed(CacheMode wanted, CacheMode got);

  [[nodiscard]] std::size_t count() const { return tree_.count(); }
  void validate() const;

 private:
  struct Entry {
    IntervalNode node;
    CacheMode mode = CacheMode::kWb;
  };
  slab::SlabSystem& slab_;
  KernelLog& log_;
  sim::SpinLock memtype_lock_;
  IntervalTreeOf<Entry, &Entry::node> tree_;
};

}  // namespace quire::kvirt
