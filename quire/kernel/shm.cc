#include "quire/kernel/shm.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <new>
#include <string_view>

#include "quire/kernel/process.h"

namespace quire::kernel {

using file::File;
using file::FileMode;

namespace {

constexpr std::uint32_t kIndices = 32768;                    // IPCMNI
constexpr std::uint32_t kMinCycle = 64;                      // ipc_min_cycle: the least number of indices that are gone round
constexpr std::uint32_t kSequences = 0x7fffffff / kIndices;  // ipcid_seq_max()
constexpr std::uint64_t kNanosPerSecond = 1'000'000'000;

// What the areas of an address space show of a segment at an address: a piece of it, mapped as shmat at `address` would.
bool piece_of(const vm::Vma& vma, VirtAddr address, const file::AreaOps& ops) {
  return vma.vm_file != nullptr && vma.vm_file->area_ops == &ops && vma.vm_start >= address &&
         (vma.vm_start - address) >> kPageShift == vma.vm_pgoff.value();
}

void set_locked(ShmSegment& segment, file::ShmemInode::Locked locked) {
  static_cast<file::ShmemInode&>(segment.shm_file->inode()).locked = locked;
}

}  // namespace

Shm::Shm(slab::SlabSystem& slab, file::Vfs& vfs, vm::Vm& vm) : slab_(slab), vfs_(vfs), vm_(vm) {}

std::uint64_t Shm::now() const { return vm_.parts().scheduler.now() / kNanosPerSecond; }

int Shm::current_tgid() const {
  const sim::Task* task = vm_.parts().scheduler.current();
  return task == nullptr || task->local == nullptr ? 0 : static_cast<const Thread*>(task->local)->process->pid;
}

// --- which segment ----------------------------------------------------------------------------------------------------

ShmSegment* Shm::find_index(std::uint32_t index) const {
  ShmSegment* found = segments_.partition_point([index](const ShmSegment& at) { return at.index < index; });
  return found != nullptr && found->index == index ? found : nullptr;
}

ShmSegment* Shm::find_id(std::int32_t id) const {
  if (id < 0) return nullptr;
  ShmSegment* found = find_index(static_cast<std::uint32_t>(id) % kIndices);
  return found != nullptr && found->stat.id == id ? found : nullptr;
}

ShmSegment* Shm::find_key(std::int32_t key) const {
  for (ShmSegment* at = segments_.first(); at != nullptr; at = segments_.next(*at)) {
    if (at->stat.key == key) return at;
  }
  return nullptr;
}

ShmSegment& Shm::segment_of(const File& file) const {
  ShmSegment* segment = find_id(static_cast<std::int32_t>(file.inode().ino));
  QUIRE_BUG_ON(segment == nullptr);
  return *segment;
}

// --- shmget -----------------------------------------------------------------------------------------------------------

// An index that nobody has, the next in turn; the sequence moves on where the turn begins again.
Result<std::uint32_t> Shm::ipc_addid() {
  if (in_use_ >= std::min<std::uint64_t>(limits_.shmmni, kIndices)) return fail(Errno::kNoSpc);
  const auto cycle = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(in_use_ * 3 / 2, kMinCycle, kIndices));
  const std::uint32_t first = next_index_ < cycle ? next_index_ : 0;
  for (std::uint32_t step = 0; step < cycle; ++step) {
    const std::uint32_t index = (first + step) % cycle;
    if (find_index(index) != nullptr) continue;
    if (static_cast<std::int64_t>(index) <= last_index_) seq_ = (seq_ + 1) % kSequences;
    last_index_ = index;
    next_index_ = index + 1;
    return index;
  }
  return fail(Errno::kNoSpc);
}

Status Shm::check_limits(std::uint64_t size) const {
  if (size < limits_.shmmin || size > limits_.shmmax) return fail(Errno::kInval);
  const std::uint64_t pages = bytes_to_pages_up(size);
  if (pages << kPageShift < size) return fail(Errno::kNoSpc);
  if (shm_tot_ + pages < shm_tot_ || shm_tot_ + pages > limits_.shmall) return fail(Errno::kNoSpc);
  return {};
}

// The segment that has the key already, for who asks for it so; nullptr: there is none. kExist, kInval.
Result<const ShmSegment*> Shm::known_segment(std::int32_t key, std::uint64_t size, ShmGet flags) const {
  const ShmSegment* known = key == kIpcPrivate ? nullptr : find_key(key);
  if (known == nullptr) return known;
  if (all(flags, ShmGet::kCreat | ShmGet::kExcl)) return fail(Errno::kExist);
  if (known->stat.segsz < size) return fail(Errno::kInval);
  return known;
}

Result<File*> Shm::segment_file(std::int32_t key, std::uint64_t size, ShmGet flags) {
  const bool later = any(flags, ShmGet::kNoReserve) && vm_.tunables().overcommit_memory != vm::OvercommitMode::kNever;
  std::array<char, 16> name{};
  const auto end = fmt::format_to_n(name.data(), name.size(), "SYSV{:08x}", static_cast<std::uint32_t>(key)).out;
  return vfs_.shmem_file_setup(size, later ? file::ShmemAccount::kPerPage : file::ShmemAccount::kWhole,
                               std::string_view(name.data(), end));
}

Result<const ShmSegment*> Shm::add_segment(const Process& process, std::int32_t key, std::uint64_t size, ShmGet flags,
                                           void* room, File& file) {
  const auto known = known_segment(key, size, flags);
  if (!known || *known != nullptr) return known;
  if (Status may = check_limits(size); !may) return fail(may.error());
  const auto index = ipc_addid();
  if (!index) return fail(index.error());
  auto* segment = ::new (room) ShmSegment;
  segment->index = *index;
  segment->shm_file = &file;
  segment->stat = {.id = static_cast<std::int32_t>(seq_ * kIndices + *index),
                   .key = key,
                   .mode = static_cast<std::uint32_t>(flags & ShmGet::kPermissions),
                   .segsz = size,
                   .ctime = now(),
                   .cpid = process.pid};
  if (process.cred != nullptr) {
    segment->stat.uid = segment->stat.cuid = process.cred->ids[2];
    segment->stat.gid = segment->stat.cgid = process.cred->ids[6];
  }
  file.inode().ino = static_cast<std::uint64_t>(segment->stat.id);
  segments_.insert(*segment);
  ++in_use_;
  shm_tot_ += bytes_to_pages_up(size);
  return segment;
}

Result<std::int32_t> Shm::newseg(const Process& process, std::int32_t key, std::uint64_t size, ShmGet flags) {
  if (Status may = check_limits(size); !may) return fail(may.error());
  if (any(flags, ShmGet::kHugeTlb)) return fail(Errno::kNoMem);
  void* room = slab_.kmalloc(sizeof(ShmSegment), phys::Gfp::kKernelAccount);
  if (room == nullptr) return fail(Errno::kNoMem);
  const auto file = segment_file(key, size, flags);
  // Others ran while memory was found: another may have made a segment of that key, or reached a limit.
  const auto segment =
      file ? add_segment(process, key, size, flags, room, **file) : Result<const ShmSegment*>(fail(file.error()));
  const auto id = segment ? Result<std::int32_t>((*segment)->stat.id) : fail(segment.error());
  if (!segment || (*segment)->shm_file != *file) {
    if (file) vfs_.fput(**file);
    slab_.kfree(room);
  }
  return id;
}

Result<std::int32_t> Shm::shmget(const Process& process, std::int32_t key, std::uint64_t size, ShmGet flags) {
  const auto known = known_segment(key, size, flags);
  if (!known) return fail(known.error());
  if (*known != nullptr) return (*known)->stat.id;
  if (key != kIpcPrivate && !any(flags, ShmGet::kCreat)) return fail(Errno::kNoEnt);
  return newseg(process, key, size, flags);
}

// --- shmat, shmdt -----------------------------------------------------------------------------------------------------

Result<VirtAddr> Shm::shmat(Process& process, std::int32_t id, VirtAddr address, ShmAt flags) {
  if (id < 0) return fail(Errno::kInval);
  vm::MapFlags map = vm::MapFlags::kShared;
  if (address.value() != 0) {
    if (page_offset(address) != 0) {
      if (!any(flags, ShmAt::kRound)) return fail(Errno::kInval);
      address = align_down(address, kPageSize);
      if (address.value() == 0 && any(flags, ShmAt::kRemap)) return fail(Errno::kInval);
    }
    map |= vm::MapFlags::kFixed;
  } else if (any(flags, ShmAt::kRemap)) {
    return fail(Errno::kInval);
  }
  vm::Prot prot = vm::Prot::kRead;
  FileMode mode = FileMode::kRead;
  if (!any(flags, ShmAt::kReadOnly)) {
    prot |= vm::Prot::kWrite;
    mode |= FileMode::kWrite;
  }
  if (any(flags, ShmAt::kExec)) prot |= vm::Prot::kExec;
  ShmSegment* segment = find_id(id);
  if (segment == nullptr) return fail(Errno::kInval);

  // Held meanwhile: it may be marked and left by others.
  ++segment->stat.nattch;
  Result<VirtAddr> mapped = fail(Errno::kNoMem);
  if (const auto file = vfs_.open(segment->shm_file->inode(), mode)) {
    (*file)->area_ops = this;
    const std::uint64_t size = segment->shm_file->inode().i_size_read();
    const bool keeps = address.value() != 0 && !any(flags, ShmAt::kRemap);
    if (keeps) map |= vm::MapFlags::kFixedNoReplace;
    if (keeps && address.value() + size < address.value()) {
      mapped = fail(Errno::kInval);
    } else {
      mapped = vm_.mmap(*process.mm, address, size, prot, map, *file, 0);
      if (!mapped && mapped.error() == Errno::kExist) mapped = fail(Errno::kInval);
    }
    vfs_.fput(**file);  // the area holds it
  }
  --segment->stat.nattch;
  destroy_if_done(*segment);
  return mapped;
}

Status Shm::shmdt(Process& process, VirtAddr address) {
  if (page_offset(address) != 0) return fail(Errno::kInval);
  using Choice = vm::Vm::AreaChoice;
  const File* file = nullptr;  // of the first piece: those of other attachments stay
  VirtAddr end{~std::uint64_t{0}};
  const bool found = vm_.munmap_areas(*process.mm, address, [&](const vm::Vma& vma) {
    if (vma.vm_end > end) return Choice::kStop;
    if (!piece_of(vma, address, *this) || (file != nullptr && vma.vm_file != file)) return Choice::kLeave;
    if (file == nullptr) end = address + align_up(vma.vm_file->inode().i_size_read(), kPageSize);
    file = vma.vm_file;
    return Choice::kUnmap;
  });
  return found ? Status{} : fail(Errno::kInval);
}

// remap_file_pages unmaps before it maps anew: the segment may have gone with that area, and its id be another's.
Status Shm::mmap(File& file) {
  const ShmSegment* segment = find_id(static_cast<std::int32_t>(file.inode().ino));
  if (segment == nullptr || &segment->shm_file->inode() != &file.inode()) return fail(Errno::kInval);
  vm_open(file);
  return {};
}

void Shm::vm_open(File& file) {
  ShmStat& stat = segment_of(file).stat;
  stat.atime = now();
  stat.lpid = current_tgid();
  ++stat.nattch;
}

void Shm::vm_close(File& file) {
  ShmSegment& segment = segment_of(file);
  segment.stat.lpid = current_tgid();
  segment.stat.dtime = now();
  QUIRE_BUG_ON(segment.stat.nattch == 0);
  --segment.stat.nattch;
  destroy_if_done(segment);
}

void Shm::destroy_if_done(ShmSegment& segment) {
  if (segment.stat.nattch == 0 && (segment.stat.mode & kShmDest) != 0) shm_destroy(segment);
}

void Shm::shm_destroy(ShmSegment& segment) {
  segments_.erase(segment);
  --in_use_;
  shm_tot_ -= bytes_to_pages_up(segment.stat.segsz);
  File& file = *segment.shm_file;
  std::destroy_at(&segment);
  slab_.kfree(&segment);
  vfs_.fput(file);
}

// --- shmctl -----------------------------------------------------------------------------------------------------------

Result<ShmStat> Shm::ipc_stat(std::int32_t id) const {
  const ShmSegment* segment = find_id(id);
  return segment == nullptr ? Result<ShmStat>(fail(Errno::kInval)) : segment->stat;
}

Result<ShmStat> Shm::shm_stat(std::int32_t index) const {
  const ShmSegment* segment = index < 0 ? nullptr : find_index(static_cast<std::uint32_t>(index) % kIndices);
  return segment == nullptr ? Result<ShmStat>(fail(Errno::kInval)) : segment->stat;
}

Status Shm::ipc_set(std::int32_t id, std::uint32_t uid, std::uint32_t gid, std::uint32_t mode) {
  ShmSegment* segment = find_id(id);
  if (segment == nullptr) return fail(Errno::kInval);
  constexpr auto kPermissions = static_cast<std::uint32_t>(ShmGet::kPermissions);
  segment->stat.uid = uid;
  segment->stat.gid = gid;
  segment->stat.mode = (segment->stat.mode & ~kPermissions) | (mode & kPermissions);
  segment->stat.ctime = now();
  return {};
}

Status Shm::ipc_rmid(std::int32_t id) {
  ShmSegment* segment = find_id(id);
  if (segment == nullptr) return fail(Errno::kInval);
  segment->stat.mode |= kShmDest;
  segment->stat.key = kIpcPrivate;  // nobody finds it any more by its key
  destroy_if_done(*segment);
  return {};
}

Status Shm::shm_lock(const Process& process, std::int32_t id) {
  ShmSegment* segment = find_id(id);
  if (segment == nullptr) return fail(Errno::kInval);
  if ((segment->stat.mode & kShmLocked) != 0) return {};
  const vm::Mm& mm = *process.mm;
  if (mm.ipc_lock == vm::CapIpcLock::kNo) {
    if (mm.rlimits.memlock == 0) return fail(Errno::kPerm);
    if (align_up(segment->stat.segsz, kPageSize) > mm.rlimits.memlock) return fail(Errno::kNoMem);
  }
  set_locked(*segment, file::ShmemInode::Locked::kYes);
  segment->stat.mode |= kShmLocked;
  return {};
}

Status Shm::shm_unlock(std::int32_t id) {
  ShmSegment* segment = find_id(id);
  if (segment == nullptr) return fail(Errno::kInval);
  if ((segment->stat.mode & kShmLocked) == 0) return {};
  segment->stat.mode &= ~kShmLocked;
  set_locked(*segment, file::ShmemInode::Locked::kNo);
  return {};
}

ShmInfo Shm::shm_info() const {
  ShmInfo info{.used_ids = in_use_, .shm_tot = shm_tot_};
  for (const ShmSegment* at = segments_.first(); at != nullptr; at = segments_.next(*at)) {
    info.shm_rss += at->shm_file->mapping().nrpages();
    info.shm_swp += static_cast<const file::ShmemInode&>(at->shm_file->inode()).swapped;
  }
  return info;
}

std::int32_t Shm::max_index() const {
  const ShmSegment* last = segments_.last();
  return last == nullptr ? 0 : static_cast<std::int32_t>(last->index);
}

// How many areas map it.
std::uint64_t Shm::count_areas(const ShmSegment& segment) const {
  std::uint64_t areas = 0;
  for (const vm::Mm& mm : vm_.mms()) {
    for (const vm::Vma& vma : mm.mm_vmas) {
      const File* file = vma.vm_file;
      areas += file != nullptr && file->area_ops == this && &file->inode() == &segment.shm_file->inode() ? 1 : 0;
    }
  }
  return areas;
}

void Shm::validate() const {
  std::uint64_t count = 0;
  std::uint64_t pages = 0;
  for (const ShmSegment* at = segments_.first(); at != nullptr; at = segments_.next(*at)) {
    ++count;
    pages += bytes_to_pages_up(at->stat.segsz);
    QUIRE_BUG_ON(at->stat.id % static_cast<std::int32_t>(kIndices) != static_cast<std::int32_t>(at->index));
    QUIRE_BUG_ON(at->stat.nattch == 0 && (at->stat.mode & kShmDest) != 0);
    QUIRE_BUG_ON(at->stat.nattch != count_areas(*at));
    QUIRE_BUG_ON(at->stat.key != kIpcPrivate && find_key(at->stat.key) != at);
  }
  QUIRE_BUG_ON(count != in_use_ || pages != shm_tot_);
}

}  // namespace quire::kernel
