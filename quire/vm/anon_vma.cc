// AnonVma families: prepare, clone, fork, unlink (Linux's mm/rmap.c, first half).
#include "quire/vm/anon_vma.h"

#include "quire/vm/rmap.h"
#include "quire/vm/vm.h"

namespace quire::vm {

AnonVma* Rmap::anon_vma_alloc() {
  return vm_.anon_vma_cache_.alloc(phys::Gfp::kKernel, vm_.parts_.scheduler, vm_.anon_vma_lock_class_);
}

void Rmap::put_anon_vma(AnonVma& anon_vma) {
  QUIRE_BUG_ON(anon_vma.refcount <= 0);
  if (--anon_vma.refcount != 0) return;
  QUIRE_BUG_ON(!anon_vma.rb_root.empty());
  AnonVma* root = anon_vma.root;
  const bool is_root = root == &anon_vma;
  vm_.anon_vma_cache_.free(&anon_vma);
  if (!is_root) put_anon_vma(*root);
}

// Root rwsem held for writing.
void Rmap::anon_vma_chain_link(Vma& vma, AnonVmaChain& avc, AnonVma& anon_vma) {
  avc.vma = &vma;
  avc.anon_vma = &anon_vma;
  vma.anon_vma_chain.push_front(avc);
  anon_vma.rb_root.insert(avc, vma.vm_pgoff.value(), vma.vm_pgoff.value() + vma.pages() - 1);
}

namespace {

// Could `a` and the area right behind it be one, but for rights? Then they may share an AnonVma.
bool anon_vma_compatible(const Vma& a, const Vma& b) {
  constexpr VmFlags kIgnored = VmFlags::kAccessFlags | VmFlags::kSoftDirty;
  return a.vm_end == b.vm_start && a.vm_file == b.vm_file && (a.vm_flags & ~kIgnored) == (b.vm_flags & ~kIgnored) &&
         b.vm_pgoff == a.vm_pgoff + a.pages();
}

// A neighbour's AnonVma, unless its chain comes from a fork.
AnonVma* reusable_anon_vma(const Vma& old) {
  auto at = old.anon_vma_chain.begin();
  if (old.anon_vma == nullptr || at == old.anon_vma_chain.end() || ++at != old.anon_vma_chain.end()) return nullptr;
  return old.anon_vma;
}

AnonVma* find_mergeable_anon_vma(const Vma& vma) {
  const Vma* next = VmaTree::next(vma);
  if (next != nullptr && anon_vma_compatible(vma, *next)) {
    if (AnonVma* found = reusable_anon_vma(*next)) return found;
  }
  const Vma* prev = VmaTree::prev(vma);
  if (prev != nullptr && anon_vma_compatible(*prev, vma)) return reusable_anon_vma(*prev);
  return nullptr;
}

}  // namespace

Status Rmap::anon_vma_prepare_slow(Vma& vma) {
  AnonVmaChain* avc = vm_.anon_vma_chain_cache_.alloc(phys::Gfp::kKernel);
  if (avc == nullptr) return fail(Errno::kNoMem);
  AnonVma* anon_vma = find_mergeable_anon_vma(vma);
  AnonVma* fresh = nullptr;
  if (anon_vma == nullptr) {
    anon_vma = fresh = anon_vma_alloc();
    if (anon_vma == nullptr) {
      vm_.anon_vma_chain_cache_.free(avc);
      return fail(Errno::kNoMem);
    }
    anon_vma->num_children = 1;  // a root is its own child, so that it is never reused
  }
  {
    sim::WriteGuard guard(anon_vma->root->rwsem);
    if (vma.anon_vma == nullptr) {
      anon_vma_chain_link(vma, *avc, *anon_vma);
      ++anon_vma->num_active_vmas;
      vma.anon_vma = anon_vma;
      return {};
    }
  }
  // Another task was quicker.
  vm_.anon_vma_chain_cache_.free(avc);
  if (fresh != nullptr) put_anon_vma(*fresh);
  return {};
}

Status Rmap::anon_vma_clone(Vma& dst, const Vma& src) {
  auto& chain = const_cast<Vma&>(src).anon_vma_chain;
  for (AnonVmaChain* pavc = chain.back_or_null(); pavc != nullptr; pavc = chain.prev_or_null(*pavc)) {
    AnonVmaChain* avc = vm_.anon_vma_chain_cache_.alloc(phys::Gfp::kKernel);
    if (avc == nullptr) {
      // dst.anon_vma counts dst only when the clone is complete.
      dst.anon_vma = nullptr;
      unlink_anon_vmas(dst);
      return fail(Errno::kNoMem);
    }
    AnonVma& anon_vma = *pavc->anon_vma;
    sim::WriteGuard guard(anon_vma.root->rwsem);
    anon_vma_chain_link(dst, *avc, anon_vma);
    // An ancestor's that lost its own areas serves again, so that endless forking needs no endless chain.
    if (dst.anon_vma == nullptr && src.anon_vma != nullptr && anon_vma.num_children < 2 && anon_vma.num_active_vmas == 0) {
      dst.anon_vma = &anon_vma;
    }
  }
  if (dst.anon_vma != nullptr) ++dst.anon_vma->num_active_vmas;
  return {};
}

Status Rmap::anon_vma_fork(Vma& vma, const Vma& parent) {
  vma.anon_vma = nullptr;
  if (parent.anon_vma == nullptr) return {};
  if (Status cloned = anon_vma_clone(vma, parent); !cloned) return cloned;
  if (vma.anon_vma != nullptr) return {};  // reused one
  AnonVma* anon_vma = anon_vma_alloc();
  AnonVmaChain* avc = anon_vma != nullptr ? vm_.anon_vma_chain_cache_.alloc(phys::Gfp::kKernel) : nullptr;
  if (avc == nullptr) {
    if (anon_vma != nullptr) put_anon_vma(*anon_vma);
    unlink_anon_vmas(vma);
    return fail(Errno::kNoMem);
  }
  anon_vma->num_active_vmas = 1;
  anon_vma->root = parent.anon_vma->root;
  anon_vma->parent = parent.anon_vma;
  ++anon_vma->root->refcount;
  vma.anon_vma = anon_vma;
  sim::WriteGuard guard(anon_vma->root->rwsem);
  anon_vma_chain_link(vma, *avc, *anon_vma);
  ++anon_vma->parent->num_children;
  return {};
}

void Rmap::unlink_anon_vmas(Vma& vma) QUIRE_NO_THREAD_SAFETY_ANALYSIS {
  if (vma.anon_vma_chain.empty()) {
    QUIRE_BUG_ON(vma.anon_vma != nullptr);
    return;
  }
  AnonVma* root = vma.anon_vma_chain.front().anon_vma->root;
  List<AnonVmaChain, &AnonVmaChain::same_vma> empty;  // links to AnonVmas that lost their last area
  root->rwsem.down_write();
  while (AnonVmaChain* avc = vma.anon_vma_chain.pop_back()) {
    AnonVma& anon_vma = *avc->anon_vma;
    QUIRE_BUG_ON(anon_vma.root != root);
    anon_vma.rb_root.erase(*avc);
    if (anon_vma.rb_root.empty()) {
      --anon_vma.parent->num_children;
      empty.push_front(*avc);
    } else {
      vm_.anon_vma_chain_cache_.free(avc);
    }
  }
  if (vma.anon_vma != nullptr) --vma.anon_vma->num_active_vmas;
  vma.anon_vma = nullptr;
  root->rwsem.up_write();
  // Only now, since the last put frees the lock itself.
  while (AnonVmaChain* avc = empty.pop_front()) {
    AnonVma& anon_vma = *avc->anon_vma;
    QUIRE_BUG_ON(anon_vma.num_children != 0 || anon_vma.num_active_vmas != 0);
    vm_.anon_vma_chain_cache_.free(avc);
    put_anon_vma(anon_vma);
  }
}

void Rmap::anon_vma_interval_tree_pre_update(Vma& vma) {
  for (AnonVmaChain& avc : vma.anon_vma_chain) avc.anon_vma->rb_root.erase(avc);
}

void Rmap::anon_vma_interval_tree_post_update(Vma& vma) {
  for (AnonVmaChain& avc : vma.anon_vma_chain) {
    avc.anon_vma->rb_root.insert(avc, vma.vm_pgoff.value(), vma.vm_pgoff.value() + vma.pages() - 1);
  }
}

}  // namespace quire::vm
