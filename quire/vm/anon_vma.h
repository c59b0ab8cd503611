// Reverse mapping of anonymous pages: from a folio to the areas that may map it.
//
// A folio's mapping points to an AnonVma; the AnonVma's interval tree holds the areas that may map folios which belong to
// it. The link between an area and an AnonVma is an AnonVmaChain, which stands in both:
//
//     Vma parent ──chain──┐            (parent.anon_vma = A)
//        avc ─────────────┴─▶ AnonVma A (root)  ◀─ folios faulted in by the parent
//     Vma child  ──chain──┐        ▲
//        avc ─────────────┼────────┘            the child may still map A's folios
//        avc ─────────────┴─▶ AnonVma B         ◀─ folios that the child copied or faulted in itself
//
// On fork the child joins every AnonVma of the parent and gets one of its own, or reuses an ancestor's that has no area
// and only one child, so that long fork chains stay flat. One lock, the root's, guards the whole family.
//
// Invariants: an area is in the tree of each AnonVma of its chain exactly once; num_active_vmas counts the areas whose
// anon_vma is this one; num_children the AnonVmas whose parent is this one (a root counts itself); an AnonVma is freed
// with its last reference (one per link list that is not empty, one per explicit pin).
#pragma once

#include <cstdint>

#include "quire/base/interval_tree.h"
#include "quire/base/intrusive_list.h"
#include "quire/base/types.h"
#include "quire/sim/lock_guards.h"

namespace quire::vm {

struct Vma;
struct AnonVma;

struct AnonVmaChain {
  Vma* vma = nullptr;
  AnonVma* anon_vma = nullptr;
  ListNode same_vma;  // in Vma::anon_vma_chain; guarded by mmap_lock held for writing
  IntervalNode rb;    // in AnonVma::rb_root, keyed by the area's page offsets; guarded by the root's rwsem
};

struct AnonVma {
  AnonVma(sim::Scheduler& scheduler, sim::LockClass& lock_class) : rwsem(scheduler, lock_class) {}

  AnonVma* root = this;
  AnonVma* parent = this;
  sim::RwSemaphore rwsem;  // used on the root only: guards the trees of all AnonVmas below it
  std::int32_t refcount = 1;
  std::uint32_t num_children = 0;
  std::uint32_t num_active_vmas = 0;
  IntervalTreeOf<AnonVmaChain, &AnonVmaChain::rb> rb_root;  // areas that may map folios of this AnonVma
};

}  // namespace quire::vm
