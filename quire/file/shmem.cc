// Pages of shmem files: where they are (memory, swap, nowhere) and how they move.
#include "quire/file/shmem.h"

#include <algorithm>

#include "quire/base/bug.h"
#include "quire/file/writeback.h"
#include "quire/phys/page_wait.h"

namespace quire::file {

using phys::Folio;
using phys::Gfp;
using swap::SwapEntry;

namespace {

XaEntry swp_to_radix_entry(SwapEntry entry) { return XaValue(entry.value()); }
SwapEntry radix_to_swp_entry(XaEntry entry) { return SwapEntry::from_value(entry.value().value()); }

}  // namespace

Shmem::Shmem(Filemap& filemap, DentryCache& dentries, const ShmemConfig& config)
    : SuperBlock(config.dev, "tmpfs"),
      filemap_(filemap),
      services_(filemap.services()),
      config_(config),
      dentries_(dentries),
      inode_cache_(services_.slab, "shmem_inode_cache") {}

Shmem::~Shmem() {
  while (Inode* inode = s_inodes_.pop_front()) {
    inode->mapping.abandon();
    free_inode(shmem_inode(*inode));
  }
}

// --- what a file is charged for ---------------------------------------------------------------------------------------

Status Shmem::shmem_acct_size(ShmemInode& inode, std::uint64_t size) {
  if (inode.account == ShmemAccount::kPerPage || commit_ == nullptr) return {};
  const std::uint64_t pages = bytes_to_pages_up(size);
  if (pages > inode.committed) {
    if (Status enough = commit_->security_vm_enough_memory(pages - inode.committed); !enough) return enough;
  } else {
    commit_->vm_unacct_memory(inode.committed - pages);
  }
  inode.committed = pages;
  return {};
}

Status Shmem::shmem_inode_acct_block(ShmemInode& inode) {
  shmem_recalc_inode(inode);
  if (config_.max_blocks != 0 && used_blocks_ >= config_.max_blocks) return fail(Errno::kNoSpc);
  if (inode.account == ShmemAccount::kPerPage && commit_ != nullptr && !commit_->security_vm_enough_memory(1)) {
    return fail(Errno::kNoSpc);
  }
  ++used_blocks_;
  ++inode.alloced;
  return {};
}

void Shmem::shmem_inode_unacct_blocks(ShmemInode& inode, std::uint64_t pages) {
  QUIRE_BUG_ON(inode.alloced < pages || used_blocks_ < pages);
  inode.alloced -= pages;
  used_blocks_ -= pages;
  if (inode.account == ShmemAccount::kPerPage && commit_ != nullptr) commit_->vm_unacct_memory(pages);
}

// Pages that reclaim dropped clean, or that truncation just took, are given back.
void Shmem::shmem_recalc_inode(ShmemInode& inode) {
  const std::uint64_t held = inode.mapping.nrpages_ + inode.swapped + inode.in_flight;
  if (inode.alloced > held) shmem_inode_unacct_blocks(inode, inode.alloced - held);
}

// --- between page cache and swap cache --------------------------------------------------------------------------------

Status Shmem::shmem_add_to_page_cache(Folio& folio, AddressSpace& mapping, Pgoff index, XaEntry expected) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio) || !phys::folio_test_swapbacked(folio));
  folio_get(folio);
  folio.mapping = reinterpret_cast<std::uint64_t>(&mapping);
  folio.index = index.value();
  const Status added = filemap_.xa_add_folio(mapping, folio, index, Gfp::kHighUser, Filemap::XaReplace::kExpected, &expected);
  if (!added) {
    folio.mapping = 0;
    filemap_.folio_put(folio);
  }
  return added;
}

void Shmem::shmem_delete_from_page_cache(ShmemInode& inode, Folio& folio, SwapEntry entry) {
  AddressSpace& mapping = *AddressSpace::of(folio);
  {
    const sim::SpinGuard guard(mapping.i_pages_lock_);
    filemap_.filemap_remove_folio_locked(mapping, folio, swp_to_radix_entry(entry));
    ++inode.swapped;
  }
  filemap_.folio_put(folio);
}

Result<WritepageOutcome> Shmem::shmem_writepage(Folio& folio) {
  QUIRE_BUG_ON(!phys::folio_test_locked(folio) || folio_mapped(folio) || phys::folio_test_swapcache(folio));
  ShmemInode& inode = shmem_inode(AddressSpace::of(folio)->host());
  if (inode.locked == ShmemInode::Locked::kYes) {
    filemap_.folio_mark_dirty(folio);
    return WritepageOutcome::kActivate;
  }
  if (!phys::folio_test_uptodate(folio)) shmem_clear_folio(folio);  // of fallocate
  services_.scheduler.charge(services_.scheduler.costs().swap_slot);
  const Result<SwapEntry> entry = services_.swap.get_swap_page();
  if (!entry || !services_.swap.add_to_swap_cache(folio, *entry)) {
    if (entry) services_.swap.put_swap_folio(*entry);
    filemap_.folio_mark_dirty(folio);
    return WritepageOutcome::kActivate;
  }
  // The file's hold on the slot comes before its entry can be seen.
  QUIRE_BUG_ON(!services_.swap.swap_duplicate(*entry));
  shmem_delete_from_page_cache(inode, folio, *entry);
  // The folio is dirty as long as it is not written. An error makes it dirty again; the slot stays its place.
  static_cast<void>(services_.swap.swap_writepage(folio));
  return WritepageOutcome::kStarted;
}

// kExist: the entry is not there any more, look again.
Result<ShmemGet> Shmem::shmem_swapin_folio(ShmemInode& inode, Pgoff index, SwapEntry entry) {
  ShmemGet got{.folio = services_.swap.lookup_swap_cache(entry)};
  const auto still_there = [&] { return inode.mapping.i_pages().load(index.value()) == swp_to_radix_entry(entry); };
  if (got.folio == nullptr) {
    got.cost = FaultCost::kMajor;
    services_.phys.vmstat().count_vm_event(phys::VmEvent::kPgmajfault);
    got.folio = services_.swap.swapin_readahead(entry, Gfp::kHighUserMovable);
    if (got.folio == nullptr) return fail(still_there() ? Errno::kNoMem : Errno::kExist);
  }
  Folio& folio = *got.folio;
  phys::folio_lock(services_.phys, folio);
  Status status;
  if (!phys::folio_test_swapcache(folio) || swap::SwapSystem::folio_swap_entry(folio) != entry || !still_there()) {
    status = fail(Errno::kExist);
  } else if (!phys::folio_test_uptodate(folio)) {
    status = fail(Errno::kIo);
  } else {
    phys::folio_wait_writeback(services_.phys, folio);
    status = shmem_add_to_page_cache(folio, inode.mapping, index, swp_to_radix_entry(entry));
  }
  if (!status) {
    phys::folio_unlock(services_.phys, folio);
    filemap_.folio_put(folio);
    return fail(status.error());
  }
  QUIRE_BUG_ON(inode.swapped == 0);
  --inode.swapped;
  services_.swap.delete_from_swap_cache(folio);
  filemap_.folio_mark_dirty(folio);
  services_.swap.swap_free(entry);
  return got;
}

Result<ShmemGet> Shmem::shmem_alloc_and_add(ShmemInode& inode, Pgoff index) {
  if (Status room = shmem_inode_acct_block(inode); !room) return fail(room.error());
  ++inode.in_flight;
  Folio* folio = services_.phys.folio_alloc(Gfp::kHighUserMovable);
  Status status;
  if (folio == nullptr) {
    status = fail(Errno::kNoMem);
  } else {
    phys::folio_set_locked(*folio);
    phys::folio_set_swapbacked(*folio);
    status = shmem_add_to_page_cache(*folio, inode.mapping, index, XaEntry());
  }
  --inode.in_flight;
  if (!status) {
    shmem_inode_unacct_blocks(inode, 1);
    if (folio != nullptr) {
      phys::folio_unlock(services_.phys, *folio);
      filemap_.folio_put(*folio);
    }
    return fail(status.error());
  }
  services_.lru.folio_add_lru(*folio);
  return ShmemGet{.folio = folio};
}

void Shmem::shmem_clear_folio(Folio& folio) {
  services_.phys.clear_page(folio);
  phys::folio_set_uptodate(folio);
}

// A folio that is in the page cache; kExist when it is not any more.
Result<ShmemGet> Shmem::shmem_get_cached(ShmemInode& inode, Pgoff index, SgpType sgp) {
  ShmemGet got{.folio = filemap_.filemap_lock_folio(inode.mapping, index)};
  if (got.folio == nullptr) return fail(Errno::kExist);  // swapped out while we waited for its lock
  if (sgp == SgpType::kWrite) services_.lru.mark_folio_accessed(*got.folio);
  if (phys::folio_test_uptodate(*got.folio)) return got;
  // Promised once, and now again: if the second promise fails, the first must stand.
  if (sgp == SgpType::kFalloc) shmem_clear_folio(*got.folio);
  if (sgp != SgpType::kRead) return got;
  phys::folio_unlock(services_.phys, *got.folio);
  filemap_.folio_put(*got.folio);
  return ShmemGet{};
}

Result<ShmemGet> Shmem::shmem_get_folio(ShmemInode& inode, Pgoff index, SgpType sgp) {
  AddressSpace& mapping = inode.mapping;
  const bool fills = sgp == SgpType::kWrite || sgp == SgpType::kFalloc;
  const auto beyond_end = [&] { return !fills && index.value() >= inode.size_pages(); };
  if (index.value() > kMaxLfsFilesize >> kPageShift) return fail(Errno::kFBig);
  for (;;) {
    if (beyond_end()) return fail(Errno::kInval);
    const XaEntry entry = mapping.i_pages_.load(index.value());
    services_.scheduler.charge(services_.scheduler.costs().page_cache_lookup);
    Result<ShmemGet> got = ShmemGet{};
    if (entry.is_pointer()) {
      got = shmem_get_cached(inode, index, sgp);
    } else if (entry.is_value()) {
      got = shmem_swapin_folio(inode, index, radix_to_swp_entry(entry));
    } else if (sgp == SgpType::kRead) {
      return got;
    } else {
      got = shmem_alloc_and_add(inode, index);
    }
    if (!got && got.error() == Errno::kExist) continue;
    if (!got || got->folio == nullptr) return got;
    if (!fills && !phys::folio_test_uptodate(*got->folio)) shmem_clear_folio(*got->folio);
    if (!beyond_end()) return got;
    // Truncated while we slept, and the truncation has passed here already.
    Folio& folio = *got->folio;
    filemap_.truncate_folio(mapping, folio);
    phys::folio_unlock(services_.phys, folio);
    filemap_.folio_put(folio);
    shmem_recalc_inode(inode);
    return fail(Errno::kInval);
  }
}

// --- truncation -------------------------------------------------------------------------------------------------------

void Shmem::shmem_free_swap(ShmemInode& inode, std::uint64_t index, XaEntry entry) {
  {
    const sim::SpinGuard guard(inode.mapping.i_pages_lock_);
    if (inode.mapping.i_pages_.load(index) != entry) return;  // swapped in meanwhile
    inode.mapping.i_pages_.erase(index);
    QUIRE_BUG_ON(inode.swapped == 0);
    --inode.swapped;
  }
  services_.swap.free_swap_and_cache(radix_to_swp_entry(entry));
}

void Shmem::shmem_undo_entry(ShmemInode& inode, std::uint64_t index, XaEntry entry) {
  if (entry.is_value()) return shmem_free_swap(inode, index, entry);
  filemap_.truncate_entry(inode.mapping, index, entry);
}

void Shmem::shmem_zero_partial(ShmemInode& inode, Pgoff index, std::uint64_t from, std::uint64_t to) {
  if (from >= to) return;
  // Beyond the (new) end or a hole: there is nothing to zero. A failed swap-in leaves the page where it is.
  const Result<ShmemGet> got = shmem_get_folio(inode, index, SgpType::kRead);
  if (!got || got->folio == nullptr) return;
  filemap_.zero_folio_range(*got->folio, from, to);
  filemap_.folio_mark_dirty(*got->folio);
  phys::folio_unlock(services_.phys, *got->folio);
  filemap_.folio_put(*got->folio);
}

void Shmem::shmem_truncate_range(ShmemInode& inode, std::uint64_t start, std::uint64_t end) {
  const std::uint64_t first = bytes_to_pages_up(start);
  const std::uint64_t stop = end == kToTheEnd ? kToTheEnd : (end + 1) >> kPageShift;  // pages, not included
  const Pgoff start_page(start >> kPageShift);
  if (first > stop) {
    shmem_zero_partial(inode, start_page, start % kPageSize, (end + 1) % kPageSize);
  } else {
    if (start % kPageSize != 0) shmem_zero_partial(inode, start_page, start % kPageSize, kPageSize);
    if (end != kToTheEnd) shmem_zero_partial(inode, Pgoff(stop), 0, (end + 1) % kPageSize);
  }
  AddressSpace& mapping = inode.mapping;
  // A page can move between memory and swap behind the scan's back: scan until nothing is left.
  while (stop > first) {
    bool any_found = false;
    for (auto found = mapping.i_pages_.find(first, stop - 1); found; found = mapping.i_pages_.next(found->index, stop - 1)) {
      any_found = true;
      shmem_undo_entry(inode, found->index, found->entry);
    }
    filemap_.preload().trim();
    if (!any_found) break;
  }
  shmem_recalc_inode(inode);
}

std::uint64_t Shmem::shmem_swap_usage(ShmemInode& inode, Pgoff first, Pgoff last) const {
  std::uint64_t pages = 0;
  inode.mapping.i_pages().for_range(first.value(), last.value(),
                                    [&](std::uint64_t, XaEntry entry) { pages += entry.is_value() ? 1 : 0; });
  return pages;
}

std::uint64_t Shmem::committed() const {
  std::uint64_t pages = 0;
  for (const Inode& inode : s_inodes_) {
    const auto& file = static_cast<const ShmemInode&>(inode);
    pages += file.account == ShmemAccount::kWhole ? file.committed : file.alloced;
  }
  return pages;
}

void Shmem::validate() const {
  std::uint64_t blocks = 0;
  for (const Inode& inode : s_inodes_) {
    const auto& file = static_cast<const ShmemInode&>(inode);
    file.mapping.validate();
    std::uint64_t swapped = 0;
    file.mapping.i_pages().for_each([&](std::uint64_t, XaEntry entry) {
      if (entry.is_value()) {
        ++swapped;
        QUIRE_BUG_ON(services_.swap.swap_count(radix_to_swp_entry(entry)) == 0);
      } else {
        QUIRE_BUG_ON(!phys::folio_test_swapbacked(*entry.pointer<Folio>()));
      }
    });
    QUIRE_BUG_ON(swapped != file.swapped || file.alloced < swapped + file.mapping.nrpages());
    blocks += file.alloced;
  }
  QUIRE_BUG_ON(blocks != used_blocks_);
}

}  // namespace quire::file
