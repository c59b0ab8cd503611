// mmap(2).
#include <algorithm>

#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"

namespace quire::vm {

namespace {

// Flags that MAP_SHARED_VALIDATE knows (LEGACY_MAP_MASK); others are EOPNOTSUPP there and ignored elsewhere.
constexpr MapFlags kLegacyMapMask =
    MapFlags::kShared | MapFlags::kPrivate | MapFlags::kFixed | MapFlags::kAnonymous | MapFlags::kDenyWrite |
    MapFlags::kExecutable | MapFlags::kUninitialized | MapFlags::kGrowsDown | MapFlags::kLocked | MapFlags::kNoReserve |
    MapFlags::kPopulate | MapFlags::kNonBlock | MapFlags::kStack | MapFlags::kHugeTlb | MapFlags::k32Bit | MapFlags::kAbove4G;

VmFlags calc_vm_prot_bits(Prot prot) {
  return static_cast<VmFlags>(static_cast<std::uint64_t>(prot) & static_cast<std::uint64_t>(VmFlags::kAccessFlags));
}

VmFlags calc_vm_flag_bits(MapFlags flags) {
  VmFlags result = VmFlags::kNone;
  if (any(flags, MapFlags::kGrowsDown)) result |= VmFlags::kGrowsDown;
  if (any(flags, MapFlags::kLocked)) result |= VmFlags::kLocked;
  if (any(flags, MapFlags::kSync)) result |= VmFlags::kSync;
  return result;
}

constexpr VmFlags kGrows = VmFlags::kGrowsDown;

// A file sealed against writing is mapped shared for reading only, and stays so. (6.1 refuses that, too.)
Status memfd_check_seals_mmap(const file::File& file, VmFlags& vm_flags) {
  const Result<file::Seals> seals = file::memfd_get_seals(file);
  if (!seals || !any(*seals, file::Seals::kWrite | file::Seals::kFutureWrite)) return {};
  if (!any(vm_flags, VmFlags::kShared)) return {};
  if (any(vm_flags, VmFlags::kWrite)) return fail(Errno::kPerm);
  vm_flags &= ~VmFlags::kMayWrite;
  return {};
}

// While a file is being mapped shared and for writing, from before its seals are looked at until the area is counted.
class WritableMapping {
 public:
  WritableMapping() = default;
  WritableMapping(const WritableMapping&) = delete;
  WritableMapping& operator=(const WritableMapping&) = delete;
  ~WritableMapping() {
    if (mapping_ != nullptr) mapping_->mapping_unmap_writable();
  }
  Status begin(file::AddressSpace& mapping) {
    const Status allowed = mapping.mapping_map_writable();
    if (allowed) mapping_ = &mapping;
    return allowed;
  }

 private:
  file::AddressSpace* mapping_ = nullptr;
};

// What mapping this file this way allows; adds its flags.
Status check_file_mapping(const file::File& file, Prot prot, MapFlags flags, std::uint64_t pages, std::uint64_t pgoff,
                          VmFlags& vm_flags) {
  constexpr std::uint64_t kMaxPages = file::kMaxLfsFilesize >> kPageShift;
  if (pages > kMaxPages || pgoff > kMaxPages - pages) return fail(Errno::kOverflow);
  const MapFlags type = flags & MapFlags::kTypeMask;
  // Disk file systems know MAP_SYNC and say later that this file is not on DAX.
  const MapFlags known = kLegacyMapMask | (file.sb().can_writeback() ? MapFlags::kSync : MapFlags::kNone);
  if (type == MapFlags::kSharedValidate && any(flags, ~known)) return fail(Errno::kOpNotSupp);
  if (type == MapFlags::kShared || type == MapFlags::kSharedValidate) {
    if (any(prot, Prot::kWrite) && !any(file.f_mode, file::FileMode::kWrite)) return fail(Errno::kAcces);
    vm_flags |= VmFlags::kShared | VmFlags::kMayShare;
    if (!any(file.f_mode, file::FileMode::kWrite)) vm_flags &= ~(VmFlags::kMayWrite | VmFlags::kShared);
  } else if (type != MapFlags::kPrivate) {
    return fail(Errno::kInval);
  }
  if (!any(file.f_mode, file::FileMode::kRead)) return fail(Errno::kAcces);
  if (any(vm_flags, kGrows)) return fail(Errno::kInval);
  if (Status allowed = memfd_check_seals_mmap(file, vm_flags); !allowed) return allowed;
  return {};
}

// MAP_DROPPABLE: private memory that may vanish, so it is neither promised, locked, dumped nor inherited.
Status check_droppable_mapping(MapFlags flags, VmFlags& vm_flags) {
  if (any(flags, MapFlags::kLocked | MapFlags::kHugeTlb) || any(vm_flags, kGrows)) return fail(Errno::kInval);
  vm_flags |= VmFlags::kDroppable | VmFlags::kNoReserve | VmFlags::kWipeOnFork | VmFlags::kDontDump;
  return {};
}

}  // namespace

bool Vm::mlock_future_check(const Mm& mm, VmFlags flags, std::uint64_t bytes) const {
  if (!any(flags, VmFlags::kLocked) || mm.ipc_lock == CapIpcLock::kYes) return true;
  return mm.locked_vm + (bytes >> kPageShift) <= mm.rlimits.memlock >> kPageShift;
}

Result<VirtAddr> Vm::mmap(Mm& mm, VirtAddr hint, std::uint64_t length, Prot prot, MapFlags flags, file::File* file,
                          std::uint64_t offset) {
  if ((offset & (kPageSize - 1)) != 0) return fail(Errno::kInval);
  if (any(flags, MapFlags::kAnonymous)) {
    file = nullptr;
    if (any(flags, MapFlags::kHugeTlb)) return fail(Errno::kNoMem);  // no pool of huge pages
  } else {
    if (file == nullptr) return fail(Errno::kBadF);
    if (any(flags, MapFlags::kHugeTlb)) return fail(Errno::kInval);
  }
  Range<VirtAddr> populate{};
  Result<VirtAddr> mapped = fail(Errno::kNoMem);
  {
    sim::WriteGuard guard(mm.mmap_lock);
    mapped = do_mmap(mm, hint, length, prot, flags, file, Pgoff(offset >> kPageShift), &populate);
  }
  if (mapped && !populate.empty()) static_cast<void>(mm_populate(mm, populate));
  return mapped;
}

Result<VirtAddr> Vm::do_mmap(Mm& mm, VirtAddr hint, std::uint64_t length, Prot prot, MapFlags flags, file::File* file,
                             Pgoff pgoff, Range<VirtAddr>* populate) {
  if (length == 0) return fail(Errno::kInval);
  if (any(flags, MapFlags::kFixedNoReplace)) flags |= MapFlags::kFixed;
  if (!any(flags, MapFlags::kFixed)) {
    hint = align_down(hint, kPageSize);
    if (hint.value() != 0 && hint < tunables_.mmap_min_addr) hint = align_up(tunables_.mmap_min_addr, kPageSize);
  }
  length = align_up(length, kPageSize);
  if (length == 0) return fail(Errno::kNoMem);
  const std::uint64_t pages = length >> kPageShift;
  if (pgoff + pages < pgoff) return fail(Errno::kOverflow);
  if (mm.map_count > tunables_.max_map_count) return fail(Errno::kNoMem);

  const Result<VirtAddr> area = get_unmapped_area(mm, hint, length, flags, file, pgoff);
  if (!area) return area;
  const Range<VirtAddr> range{*area, *area + length};
  if (any(flags, MapFlags::kFixedNoReplace) && mm.mm_vmas.find_intersection(range) != nullptr) {
    return fail(Errno::kExist);
  }

  VmFlags vm_flags = calc_vm_prot_bits(prot) | calc_vm_flag_bits(flags) | mm.def_flags | VmFlags::kMayFlags;
  if (any(flags, MapFlags::kLocked) && !can_do_mlock(mm)) return fail(Errno::kPerm);
  if (!mlock_future_check(mm, vm_flags, length)) return fail(Errno::kAgain);

  if (file != nullptr) {
    if (Status checked = check_file_mapping(*file, prot, flags, pages, pgoff.value(), vm_flags); !checked) {
      return fail(checked.error());
    }
  } else {
    switch (flags & MapFlags::kTypeMask) {
      case MapFlags::kShared:
        if (any(vm_flags, kGrows)) return fail(Errno::kInval);
        pgoff = Pgoff(0);
        vm_flags |= VmFlags::kShared | VmFlags::kMayShare;
        break;
      case MapFlags::kDroppable:
        if (Status checked = check_droppable_mapping(flags, vm_flags); !checked) return fail(checked.error());
        [[fallthrough]];
      case MapFlags::kPrivate: pgoff = Pgoff(range.begin.value() >> kPageShift); break;
      default: return fail(Errno::kInval);
    }
  }
  if (any(flags, MapFlags::kNoReserve) && tunables_.overcommit_memory != OvercommitMode::kNever) {
    vm_flags |= VmFlags::kNoReserve;
  }

  const Result<VirtAddr> mapped = mmap_region(mm, range, vm_flags, file, pgoff);
  if (!mapped) return mapped;
  const bool wants_pages = (flags & (MapFlags::kPopulate | MapFlags::kNonBlock)) == MapFlags::kPopulate;
  if (any(vm_flags, VmFlags::kLocked) || wants_pages) *populate = range;
  return mapped;
}

Result<VirtAddr> Vm::mmap_region(Mm& mm, Range<VirtAddr> range, VmFlags flags, file::File* file, Pgoff pgoff) {
  const std::uint64_t pages = range.size() >> kPageShift;
  if (!may_expand_vm(mm, flags, pages) && !may_expand_vm(mm, flags, pages - count_vma_pages_range(mm, range))) {
    // A seal in the way counts before the limit (as in 6.18; 6.1 has none).
    for (const Vma* vma = mm.mm_vmas.find(range.begin); vma != nullptr && vma->vm_start < range.end;
         vma = VmaTree::next(*vma)) {
      if (vma->has(VmFlags::kSealed)) return fail(do_munmap(mm, range).error());
    }
    return fail(Errno::kNoMem);
  }
  WritableMapping writable;
  if (file != nullptr && all(flags, VmFlags::kShared | VmFlags::kMayWrite)) {
    if (Status allowed = writable.begin(file->mapping()); !allowed) return fail(allowed.error());
  }
  if (mm.mm_vmas.find_intersection(range) != nullptr) {
    if (Status unmapped = do_munmap(mm, range); !unmapped) return fail(unmapped.error());
  }

  if (any(flags, VmFlags::kDroppable)) flags &= ~VmFlags::kLockedMask;  // also when the process locks what it maps
  std::uint64_t charged = 0;
  if (accountable_mapping(flags)) {
    charged = pages;
    if (!commit_.vm_enough_memory(mm, charged)) return fail(Errno::kNoMem);
    flags |= VmFlags::kAccount;
  }

  // What is written must be durable at once: only DAX can do that. Files of memory do not look at it. (The file system says
  // so, who is asked when what lay there is gone already.)
  if (file != nullptr && any(flags, VmFlags::kSync) && file->sb().can_writeback()) {
    commit_.vm_unacct_memory(charged);
    return fail(Errno::kOpNotSupp);
  }
  file::File* shm = nullptr;
  if (file == nullptr && any(flags, VmFlags::kShared)) {
    const auto account = any(flags, VmFlags::kNoReserve) ? file::ShmemAccount::kPerPage : file::ShmemAccount::kWhole;
    const Result<file::File*> made = parts_.vfs.shmem_file_setup(range.size(), account);
    if (!made) return fail(made.error());  // shared memory is charged to its file
    shm = file = *made;
  }
  const MergeRequest request{
      .prev = mm.mm_vmas.find_prev(range.begin), .range = range, .flags = flags, .file = file, .pgoff = pgoff};
  if (vma_merge(mm, request) == nullptr) {
    const Result<Vma*> vma = vm_area_map(mm, range, flags, pgoff, file);
    if (!vma) {
      if (shm != nullptr) parts_.vfs.fput(*shm);
      commit_.vm_unacct_memory(charged);
      return fail(vma.error());
    }
    vma_link(**vma);
  }
  if (shm != nullptr) parts_.vfs.fput(*shm);  // the area has its own reference
  vm_stat_account(mm, flags, static_cast<std::int64_t>(pages));
  mm.update_hiwater_vm();
  if (any(flags, VmFlags::kLocked)) mm.locked_vm += pages;
  return range.begin;
}

std::uint64_t Vm::count_vma_pages_range(const Mm& mm, Range<VirtAddr> range) const {
  std::uint64_t pages = 0;
  for (const Vma* vma = mm.mm_vmas.find_intersection(range); vma != nullptr && vma->vm_start < range.end;
       vma = VmaTree::next(*vma)) {
    pages += vma->range().intersect(range).size() >> kPageShift;
  }
  return pages;
}

}  // namespace quire::vm
