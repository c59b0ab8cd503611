#include "quire/file/address_space.h"

#include "quire/base/bug.h"
#include "quire/file/inode.h"

namespace quire::file {

using phys::Folio;

AddressSpace::AddressSpace(Inode& host, const AddressSpaceInit& init)
    : host_(host),
      a_ops_(&init.a_ops),
      i_pages_(init.nodes, *this),
      i_pages_lock_(init.scheduler, init.i_pages_lock),
      i_mmap_rwsem_(init.scheduler, init.i_mmap_rwsem),
      invalidate_lock_(init.scheduler, init.invalidate_lock) {
  i_pages_.set_observer(init.shadow_nodes);
}

AddressSpace::~AddressSpace() {
  QUIRE_BUG_ON(nrpages_ != 0);
  QUIRE_BUG_ON(!i_mmap_.empty());
}

AddressSpace* AddressSpace::of(const Folio& folio) {
  if ((folio.mapping & phys::kMappingFlags) != 0) return nullptr;
  return reinterpret_cast<AddressSpace*>(folio.mapping);
}

void AddressSpace::i_mmap_insert(MappingNode& node, Pgoff first, std::uint64_t pages) {
  i_mmap_rwsem_.assert_held_write();
  i_mmap_.insert(node, first.value(), first.value() + pages - 1);
}

void AddressSpace::i_mmap_remove(MappingNode& node) {
  i_mmap_rwsem_.assert_held_write();
  i_mmap_.erase(node);
}

Status AddressSpace::mapping_map_writable() {
  if (i_mmap_writable_ < 0) return fail(Errno::kPerm);
  ++i_mmap_writable_;
  return {};
}

Status AddressSpace::mapping_deny_writable() {
  if (i_mmap_writable_ > 0) return fail(Errno::kBusy);
  --i_mmap_writable_;
  return {};
}

void AddressSpace::mapping_allow_writable() { ++i_mmap_writable_; }

void AddressSpace::mapping_unmap_writable() {
  QUIRE_BUG_ON(i_mmap_writable_ <= 0);
  --i_mmap_writable_;
}

void AddressSpace::mapping_set_error(Errno error) {
  flags_ |= error == Errno::kNoSpc ? AddressSpaceFlag::kEnospc : AddressSpaceFlag::kEio;
}

Status AddressSpace::filemap_check_errors() {
  const AddressSpaceFlag seen = flags_ & (AddressSpaceFlag::kEio | AddressSpaceFlag::kEnospc);
  flags_ = flags_ & ~seen;
  if (any(seen, AddressSpaceFlag::kEio)) return fail(Errno::kIo);
  if (any(seen, AddressSpaceFlag::kEnospc)) return fail(Errno::kNoSpc);
  return {};
}

void AddressSpace::abandon() {
  i_pages_.clear();
  nrpages_ = 0;
  while (IntervalNode* node = i_mmap_.iter_first(0, ~std::uint64_t{0})) i_mmap_.erase(*node);
}

void AddressSpace::validate() const {
  i_pages_.validate();
  i_mmap_.validate();
  std::uint64_t folios = 0;
  i_pages_.for_each([&](std::uint64_t index, XaEntry entry) {
    if (entry.is_value()) {
      QUIRE_BUG_ON(i_pages_.get_mark(index, kTagDirty) || i_pages_.get_mark(index, kTagWriteback));
      return;
    }
    const Folio& folio = *entry.pointer<Folio>();
    ++folios;
    QUIRE_BUG_ON(of(folio) != this);
    QUIRE_BUG_ON(folio.index != index);
    QUIRE_BUG_ON(folio.refcount < 1);
    // While a folio is locked its bits and marks may be on their way.
    if (phys::folio_test_locked(folio)) return;
    // Shared memory that fallocate made is dirty before it is zeroed.
    QUIRE_BUG_ON(phys::folio_test_dirty(folio) && !phys::folio_test_uptodate(folio) && !phys::folio_test_swapbacked(folio));
    QUIRE_BUG_ON(phys::folio_test_writeback(folio) != i_pages_.get_mark(index, kTagWriteback));
  });
  QUIRE_BUG_ON(folios != nrpages_);
}

void iput(Inode& inode) {
  QUIRE_BUG_ON(inode.i_count == 0);
  if (--inode.i_count > 0 || inode.i_nlink > 0) return;
  if (any(inode.i_state, InodeState::kFreeing)) return;
  inode.i_state |= InodeState::kFreeing;
  inode.sb.evict_inode(inode);
}

}  // namespace quire::file
