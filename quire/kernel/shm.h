// System V shared memory of a machine: the one IPC namespace that its processes share (Linux's ipc/shm.c; shmget(2), shmop(2),
// shmctl(2)).
//
//   id ─▶ ShmSegment (kmalloc) ── shm_file: a shmem file "SYSV<key>" whose inode number is the id
//              ▲ nattch              ▲
//   area ── file of one shmat ───────┘     every area that maps the segment counts: after fork, split or move there are more
//
// A segment goes with its last area once it has been marked by IPC_RMID, at once when there is none. Areas of it are never
// merged, as those of Linux with vm_ops->close.
//
// Ids are index + 32768 × sequence; indices go round, at least 64 of them, so that an id that is gone is not soon another's.
//
// What is left at the machine's end goes with its memory, attached or not: the tasks that would have let go of it were unwound.
//
// Everything changes between sync points, so there is no lock (ipc_ids.rwsem, ipc_perm.lock); calls may sleep for memory, and look
// again afterwards at what others may have changed.
// Differs from Linux: every process is root's, so permissions are kept and nobody is refused; SHM_HUGETLB finds no huge
// pages; RLIMIT_MEMLOCK bounds the segment that a call locks, not all that a user has locked; pages of a locked segment stay
// on the lists of anonymous memory and are refused when they would be written to swap.
#pragma once

#include <cstdint>

#include "quire/base/rbtree.h"
#include "quire/base/result.h"
#include "quire/file/vfs.h"
#include "quire/slab/slab_system.h"
#include "quire/vm/vm.h"

namespace quire::kernel {

class Process;

inline constexpr std::int32_t kIpcPrivate = 0;  // IPC_PRIVATE

// Flags of shmget beside the nine permission bits.
enum class ShmGet : std::uint32_t {
  kNone = 0,
  kPermissions = 0777,
  kCreat = 01000,      // IPC_CREAT
  kExcl = 02000,       // IPC_EXCL
  kHugeTlb = 04000,    // SHM_HUGETLB
  kNoReserve = 010000  // SHM_NORESERVE
};
// Flags of shmat.
enum class ShmAt : std::uint32_t {
  kNone = 0,
  kReadOnly = 010000,  // SHM_RDONLY
  kRound = 020000,     // SHM_RND: the address is rounded down to SHMLBA, a page
  kRemap = 040000,     // SHM_REMAP: in place of what is mapped there
  kExec = 0100000,     // SHM_EXEC
};
inline constexpr std::uint32_t kShmDest = 01000;    // in ShmStat::mode: goes with the last detach
inline constexpr std::uint32_t kShmLocked = 02000;  // its pages are not swapped out

// shmid_ds. Times in seconds of the machine's clock.
struct ShmStat {
  std::int32_t id = 0;
  std::int32_t key = 0;
  std::uint32_t uid = 0, gid = 0, cuid = 0, cgid = 0;
  std::uint32_t mode = 0;
  std::uint64_t segsz = 0;  // bytes, as asked for
  std::uint64_t atime = 0, dtime = 0, ctime = 0;
  int cpid = 0, lpid = 0;
  std::uint64_t nattch = 0;
};
// shminfo, and what bounds the namespace (kernel.shmmax, shmall, shmmni).
struct ShmLimits {
  std::uint64_t shmmax = ~std::uint64_t{0} - (1u << 24);  // bytes of one segment
  std::uint64_t shmmin = 1;
  std::uint64_t shmmni = 4096;                            // segments
  std::uint64_t shmall = ~std::uint64_t{0} - (1u << 24);  // pages of all
};
// shm_info; pages.
struct ShmInfo {
  std::uint64_t used_ids = 0, shm_tot = 0, shm_rss = 0, shm_swp = 0;
};

struct ShmSegment {
  ShmStat stat;
  std::uint32_t index = 0;
  file::File* shm_file = nullptr;
  RbNode by_index;
};

class Shm final : private file::AreaOps {
 public:
  Shm(slab::SlabSystem& slab, file::Vfs& vfs, vm::Vm& vm);
  Shm(const Shm&) = delete;
  Shm& operator=(const Shm&) = delete;

  // The id of a new or an existing segment of at least `size` bytes.
  // kInval: a size out of bounds, or larger than the existing one; kNoEnt, kExist, kNoSpc (limits), kNoMem.
  Result<std::int32_t> shmget(const Process& process, std::int32_t key, std::uint64_t size, ShmGet flags);
  // Maps a segment whole: anywhere (address 0), or there. kInval: no such id, an address that is no page's, an area that is in
  // the way; kNoMem, kPerm (below vm.mmap_min_addr).
  Result<VirtAddr> shmat(Process& process, std::int32_t id, VirtAddr address, ShmAt flags);
  // Unmaps all that is left of the segment that shmat put there. kInval: none was.
  Status shmdt(Process& process, VirtAddr address);

  // --- shmctl; kInval: no such id ---
  Result<ShmStat> ipc_stat(std::int32_t id) const;
  // SHM_STAT: by index, from 0 to max_index(). kInval: none there.
  Result<ShmStat> shm_stat(std::int32_t index) const;
  Status ipc_set(std::int32_t id, std::uint32_t uid, std::uint32_t gid, std::uint32_t mode);
  Status ipc_rmid(std::int32_t id);
  // kPerm, kNoMem: RLIMIT_MEMLOCK of the caller is 0, or less than the segment, and it has no CAP_IPC_LOCK.
  Status shm_lock(const Process& process, std::int32_t id);
  Status shm_unlock(std::int32_t id);
  [[nodiscard]] const ShmLimits& ipc_info() const { return limits_; }
  [[nodiscard]] ShmLimits& limits() { return limits_; }
  [[nodiscard]] ShmInfo shm_info() const;
  [[nodiscard]] std::int32_t max_index() const;  // 0 when there is none

  // Counts areas, too; for a machine at rest.
  void validate() const;

 private:
  struct ByIndex {
    bool operator()(const ShmSegment& a, const ShmSegment& b) const { return a.index < b.index; }
  };

  [[nodiscard]] Status check_limits(std::uint64_t size) const;
  [[nodiscard]] Result<const ShmSegment*> known_segment(std::int32_t key, std::uint64_t size, ShmGet flags) const;
  [[nodiscard]] Result<file::File*> segment_file(std::int32_t key, std::uint64_t size, ShmGet flags);
  [[nodiscard]] Result<const ShmSegment*> add_segment(const Process& process, std::int32_t key, std::uint64_t size,
                                                      ShmGet flags, void* room, file::File& file);
  Result<std::int32_t> newseg(const Process& process, std::int32_t key, std::uint64_t size, ShmGet flags);
  Result<std::uint32_t> ipc_addid();
  [[nodiscard]] ShmSegment* find_index(std::uint32_t index) const;
  [[nodiscard]] ShmSegment* find_id(std::int32_t id) const;
  [[nodiscard]] ShmSegment* find_key(std::int32_t key) const;
  [[nodiscard]] ShmSegment& segment_of(const file::File& file) const;
  [[nodiscard]] std::uint64_t count_areas(const ShmSegment& segment) const;
  void shm_destroy(ShmSegment& segment);
  void destroy_if_done(ShmSegment& segment);
  [[nodiscard]] std::uint64_t now() const;
  [[nodiscard]] int current_tgid() const;

  // file::AreaOps
  Status mmap(file::File& file) override;
  void vm_open(file::File& file) override;
  void vm_close(file::File& file) override;

  slab::SlabSystem& slab_;
  file::Vfs& vfs_;
  vm::Vm& vm_;
  ShmLimits limits_;
  RbTree<ShmSegment, &ShmSegment::by_index, ByIndex> segments_;
  std::uint64_t in_use_ = 0;
  std::uint64_t shm_tot_ = 0;  // pages
  std::int64_t last_index_ = -1;
  std::uint32_t next_index_ = 0;  // where the cyclic search begins
  std::uint32_t seq_ = 0;
};

}  // namespace quire::kernel

template <>
inline constexpr bool quire::kIsFlags<quire::kernel::ShmGet> = true;
template <>
inline constexpr bool quire::kIsFlags<quire::kernel::ShmAt> = true;
