// Small questions about pages and entries that every path of vm asks.
#pragma once

#include "quire/arch/swap_entry.h"
#include "quire/phys/folio.h"
#include "quire/swap/swap_entry.h"
#include "quire/vm/mm.h"

namespace quire::vm {

// The counter a present page belongs to (mm_counter).
[[nodiscard]] inline Rss mm_counter(const phys::Folio& folio) {
  if (phys::folio_test_anon(folio)) return Rss::kAnonPages;
  return phys::folio_test_swapbacked(folio) ? Rss::kShmemPages : Rss::kFilePages;
}

[[nodiscard]] inline arch::Pte maybe_mkwrite(arch::Pte pte, const Vma& vma) {
  return vma.has(VmFlags::kWrite) ? arch::pte_mkwrite(pte) : pte;
}

// A mapping in the area counts as a lock of its folio. While mlock(2) itself goes over an area's folios, the area is marked
// kIo, so that none is counted twice.
[[nodiscard]] inline bool vma_mlocks_folios(const Vma& vma) {
  return (vma.vm_flags & (VmFlags::kLocked | VmFlags::kSpecial)) == VmFlags::kLocked;
}

// Private and writable: what may ever be written costs memory of its own (accountable_mapping).
[[nodiscard]] inline bool accountable_mapping(VmFlags flags) {
  return (flags & (VmFlags::kNoReserve | VmFlags::kShared | VmFlags::kWrite)) == VmFlags::kWrite;
}

}  // namespace quire::vm
