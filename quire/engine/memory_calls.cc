// Recorded calls of the mmap family. Where the recorded kernel chose the address, the machine is told to use the same one,
// so that the accesses that follow find it.
#include <linux/mempolicy.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include <vector>

#include "quire/engine/thread_replay.h"

#ifndef SYS_mseal
#define SYS_mseal 462  // headers older than 6.10
#endif

namespace quire::engine {

void ThreadReplay::mmap(const trace::Record& r) {
  using vm::MapFlags;
  auto flags = static_cast<MapFlags>(r.args[3]);
  flags = (flags & ~MapFlags::kFixedNoReplace) | MapFlags::kFixed;
  const bool anonymous = any(flags, MapFlags::kAnonymous);
  const FileHold file = anonymous ? FileHold(machine_.vfs(), nullptr) : file_of(static_cast<int>(r.args[4]));
  // A device or a file the trace does not know: its memory is at least memory.
  if (!file) flags |= MapFlags::kAnonymous;
  if (file && any(flags, MapFlags::kShared) && any(static_cast<vm::Prot>(r.args[2]), vm::Prot::kWrite)) {
    file->f_mode |= file::FileMode::kRead | file::FileMode::kWrite;
  }
  const auto map = [&] {
    return vm_.mmap(mm(), VirtAddr(static_cast<std::uint64_t>(r.result)), r.args[1], static_cast<vm::Prot>(r.args[2]), flags,
                    file.get(), file ? r.args[5] : 0);
  };
  auto mapped = map();
  if (!mapped && mapped.error() == Errno::kNoMem && !any(flags, MapFlags::kNoReserve)) {
    // More than this machine would promise (overcommit), but the recorded one did, and the program goes on to use it. Sort,
    // for one, asks for a buffer by the size of the machine it runs on.
    flags |= MapFlags::kNoReserve;
    mapped = map();
    if (mapped) {
      ++replay_.stats_.overcommitted_maps;
      return;
    }
  }
  expect("mmap", mapped);
}

void ThreadReplay::mremap(const trace::Record& r) {
  using vm::MremapFlags;
  auto flags = static_cast<MremapFlags>(r.args[3]);
  const auto target = static_cast<std::uint64_t>(r.result);
  if (target != r.args[0]) flags |= MremapFlags::kMayMove | MremapFlags::kFixed;
  expect("mremap", vm_.mremap(mm(), VirtAddr(r.args[0]), r.args[1], r.args[2], flags, VirtAddr(target)));
}

// Each program has segments of its own, whatever keys the others of the machine use: programs that shared one were recorded
// together. So an id that the recording names for the first time is a new segment, with its key when nobody has it.
void ThreadReplay::shmget(const trace::Record& r) {
  if (program_.segments.contains(r.result)) return;
  kernel::Shm& shm = machine_.shm();
  const auto flags = static_cast<kernel::ShmGet>(r.args[2]) | kernel::ShmGet::kCreat | kernel::ShmGet::kExcl;
  auto id = shm.shmget(process(), static_cast<std::int32_t>(r.args[0]), r.args[1], flags);
  if (!id && id.error() == Errno::kExist && !program_.segments.contains(r.result))
    id = shm.shmget(process(), kernel::kIpcPrivate, r.args[1], flags);
  if (program_.segments.contains(r.result)) {  // another thread's call has made it meanwhile
    if (id) static_cast<void>(shm.ipc_rmid(*id));
    return;
  }
  if (!id) return diverged("shmget", id.error());
  program_.segments[r.result] = *id;
}

void ThreadReplay::shmat(const trace::Record& r) {
  const auto it = program_.segments.find(static_cast<std::int64_t>(r.args[0]));
  if (it == program_.segments.end()) return;
  const auto flags = static_cast<kernel::ShmAt>(r.args[2]);
  expect("shmat", machine_.shm().shmat(process(), it->second, VirtAddr(static_cast<std::uint64_t>(r.result)), flags));
}

void ThreadReplay::shmctl(const trace::Record& r) {
  const auto it = program_.segments.find(static_cast<std::int64_t>(r.args[0]));
  if (it == program_.segments.end()) return;
  kernel::Shm& shm = machine_.shm();
  switch (r.args[1]) {
    case IPC_RMID: expect("shmctl (IPC_RMID)", shm.ipc_rmid(it->second)); break;
    case SHM_LOCK: expect("shmctl (SHM_LOCK)", shm.shm_lock(process(), it->second)); break;
    case SHM_UNLOCK: expect("shmctl (SHM_UNLOCK)", shm.shm_unlock(it->second)); break;
    default: break;  // looks, or changes whose it is
  }
}

// Memory comes from where the machine's nodes stand to the CPU, as with MPOL_DEFAULT and MPOL_LOCAL; other policies are left out.
void ThreadReplay::place(std::string_view call, std::uint64_t mode) {
  if (mode != MPOL_DEFAULT && mode != MPOL_LOCAL) diverged(call, Errno::kNoSys);
}

ThreadReplay::Handled ThreadReplay::memory_call(const trace::Record& r) {
  const VirtAddr address(r.args[0]);
  switch (r.number) {
    case SYS_mmap: mmap(r); break;
    case SYS_munmap: expect("munmap", vm_.munmap(mm(), address, r.args[1])); break;
    case SYS_mprotect: expect("mprotect", vm_.mprotect(mm(), address, r.args[1], static_cast<vm::Prot>(r.args[2]))); break;
    case SYS_pkey_mprotect:  // keys of pages are left out
      expect("pkey_mprotect", vm_.mprotect(mm(), address, r.args[1], static_cast<vm::Prot>(r.args[2])));
      break;
    case SYS_mbind: place("mbind", r.args[2]); break;
    case SYS_set_mempolicy: place("set_mempolicy", r.args[0]); break;
    case SYS_mremap: mremap(r); break;
    case SYS_brk: {
      const VirtAddr wanted(static_cast<std::uint64_t>(r.result));
      if (wanted != mm().brk && vm_.brk(mm(), wanted) != wanted) diverged("brk", Errno::kNoMem);
      break;
    }
    case SYS_madvise: expect("madvise", vm_.madvise(mm(), address, r.args[1], static_cast<vm::Advice>(r.args[2]))); break;
    case SYS_mlock: expect("mlock", vm_.mlock(mm(), address, r.args[1])); break;
    case SYS_mlock2: expect("mlock2", vm_.mlock(mm(), address, r.args[1], static_cast<vm::MlockFlags>(r.args[2]))); break;
    case SYS_munlock: expect("munlock", vm_.munlock(mm(), address, r.args[1])); break;
    case SYS_mlockall: expect("mlockall", vm_.mlockall(mm(), static_cast<vm::MclFlags>(r.args[0]))); break;
    case SYS_munlockall: expect("munlockall", vm_.munlockall(mm())); break;
    case SYS_msync: expect("msync", vm_.msync(mm(), address, r.args[1], static_cast<vm::MsyncFlags>(r.args[2]))); break;
    case SYS_mincore: break;  // looks, and changes nothing
    case SYS_mseal: expect("mseal", vm_.mseal(mm(), address, r.args[1], r.args[2])); break;
    case SYS_remap_file_pages:
      expect("remap_file_pages", vm_.remap_file_pages(mm(), address, r.args[1], static_cast<vm::Prot>(r.args[2]), r.args[3],
                                                      static_cast<vm::MapFlags>(r.args[4])));
      break;
    case SYS_membarrier:
      expect("membarrier", vm_.membarrier(mm(), static_cast<vm::MembarrierCmd>(r.args[0]),
                                          static_cast<std::uint32_t>(r.args[1]), static_cast<int>(r.args[2])));
      break;
    case SYS_shmget: shmget(r); break;
    case SYS_shmat: shmat(r); break;
    case SYS_shmdt: expect("shmdt", machine_.shm().shmdt(process(), address)); break;
    case SYS_shmctl: shmctl(r); break;
    default: return Handled::kNo;
  }
  return Handled::kYes;
}

}  // namespace quire::engine
