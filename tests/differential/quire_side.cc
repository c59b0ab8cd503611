#include "quire_side.h"

#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "quire/file/iov_iter.h"
#include "quire/observe/task_mmu.h"

namespace quire::differential {

namespace {

Answer failed(Errno error) { return {.result = -1, .error = static_cast<int>(error)}; }

Answer from(const Status& status) { return status ? Answer{} : failed(status.error()); }

template <class Number>
Answer from(const Result<Number>& number) {
  return number ? Answer{.result = static_cast<std::int64_t>(*number)} : failed(number.error());
}

Answer from(const Result<VirtAddr>& address) {
  return address ? Answer{.result = static_cast<std::int64_t>(address->value())} : failed(address.error());
}

}  // namespace

std::string disk_bytes(std::uint64_t file_seed) {
  const file::GeneratedBacking source(kFilePages * kPage, file_seed);
  std::string bytes;
  for (std::uint64_t i = 0; i < kFilePages * kPage; ++i) bytes += static_cast<char>(source.byte_at(i));
  return bytes;
}

QuireSide::QuireSide(std::uint64_t file_seed, const Beginning& beginning)
    : machine_({.ram = 64 * kMiB, .seed = file_seed}), file_seed_(file_seed), beginning_(beginning) {}

// As large as the host's process, all of it behind the arena; the kernel's choice of addresses ends there, and brk lies in it.
void QuireSide::begin(vm::Mm& mm) {
  using vm::MapFlags;
  mm.mmap_base = VirtAddr(kArenaEnd);
  mm.start_brk = mm.brk = VirtAddr(kBrkStart);
  constexpr MapFlags kBehind = MapFlags::kPrivate | MapFlags::kAnonymous | MapFlags::kNoReserve | MapFlags::kFixed;
  const std::uint64_t other = beginning_.total_pages - beginning_.data_pages;
  EXPECT_TRUE(machine_.vm.mmap(mm, VirtAddr(kArenaEnd), other * kPage, vm::Prot::kNone, kBehind, nullptr, 0));
  const VirtAddr data(kArenaEnd + other * kPage);
  EXPECT_TRUE(machine_.vm.mmap(mm, data, beginning_.data_pages * kPage, vm::kRw, kBehind, nullptr, 0));
}

void QuireSide::run(const std::function<void()>& body) {
  machine_.run([&] {
    disk_file_ = &machine_.open("/disk_file", kFilePages * kPage, file_seed_);
    memfd_ = machine_.vfs.memfd_create("memfd", file::MemfdFlags::kAllowSealing).value();
    EXPECT_TRUE(machine_.vfs.ftruncate(*memfd_, kFilePages * kPage));
    std::vector<std::byte> bytes(kFilePages * kPage);
    file::KernelBuffer to(bytes);
    EXPECT_EQ(machine_.vfs.pread(*disk_file_, 0, bytes.size(), to).value(), bytes.size());  // into the page cache
    mms_[0] = &machine_.mm_alloc();
    begin(*mms_[0]);
    if (geteuid() == 0) mms_[0]->ipc_lock = vm::CapIpcLock::kYes;
    body();
    for (vm::Mm*& mm : mms_) {
      if (mm != nullptr) machine_.vm.mmput(*mm);
      mm = nullptr;
    }
    machine_.vfs.fput(*disk_file_);
    machine_.vfs.fput(*memfd_);
    machine_.lru.lru_add_drain_all();
  });
  machine_.validate();
  EXPECT_EQ(machine_.phys->global_node_page_state(phys::NodeStat::kNrAnonPages), 0);
  EXPECT_EQ(machine_.phys->global_node_page_state(phys::NodeStat::kNrShmem), 0);
  EXPECT_EQ(machine_.phys->global_node_page_state(phys::NodeStat::kNrPageTablePages), 0);
  EXPECT_EQ(machine_.vm.commit().committed_as(), 0u);
}

Answer QuireSide::run(const Op& op) {
  vm::Mm& mm = *mms_[op.process];
  switch (op.call) {
    case Call::kRead:
    case Call::kWrite: return access(mm, op);
    case Call::kFork: return fork(mm, op);
    case Call::kExit:
      machine_.vm.mmput(mm);
      mms_[op.process] = nullptr;
      return {};
    case Call::kAddSeals:
    case Call::kGetSeals:
    case Call::kFtruncate:
    case Call::kFallocate:
    case Call::kPwrite: return file_call(op);
    case Call::kProcessVm:
    case Call::kProcessMadvise: return remote_call(mm, op);
    case Call::kMincore: return mincore(mm, op);
    case Call::kSetRlimit: return set_rlimit(mm, op);
    case Call::kDropIpcLock: mm.ipc_lock = vm::CapIpcLock::kNo; return {};
    default: return call(mm, op);
  }
}

Answer QuireSide::access(vm::Mm& mm, const Op& op) {
  const std::uint64_t before = mm.min_flt;
  const bool write = op.call == Call::kWrite;
  const vm::AccessOutcome outcome =
      machine_.vm.access(mm, VirtAddr(op.address), write ? arch::Access::kWrite : arch::Access::kRead);
  Answer answer{.signal = static_cast<int>(outcome.signal), .si_code = static_cast<int>(outcome.si_code)};
  answer.minor_faults = mm.min_flt - before;
  if (!outcome.ok()) return answer;
  auto* byte = reinterpret_cast<unsigned char*>(machine_.vm.to_host(outcome.phys));
  if (write) {
    *byte = op.value;
  } else {
    answer.result = hash_page(byte);
  }
  return answer;
}

Answer QuireSide::call(vm::Mm& mm, const Op& op) {
  vm::Vm& vm = machine_.vm;
  const VirtAddr at(op.address);
  switch (op.call) {
    case Call::kMmap: {
      file::File* file = op.backing == Backing::kDiskFile ? disk_file_ : op.backing == Backing::kMemfd ? memfd_ : nullptr;
      return from(
          vm.mmap(mm, at, op.length, static_cast<vm::Prot>(op.prot), static_cast<vm::MapFlags>(op.flags), file, op.offset));
    }
    case Call::kMunmap: return from(vm.munmap(mm, at, op.length));
    case Call::kMprotect: return from(vm.mprotect(mm, at, op.length, static_cast<vm::Prot>(op.prot)));
    case Call::kMremap:
      return from(
          vm.mremap(mm, at, op.length, op.new_length, static_cast<vm::MremapFlags>(op.flags), VirtAddr(op.new_address)));
    case Call::kMadvise: return from(vm.madvise(mm, at, op.length, static_cast<vm::Advice>(op.flags)));
    case Call::kMlock: return from(vm.mlock(mm, at, op.length));
    case Call::kMlock2: return from(vm.mlock(mm, at, op.length, static_cast<vm::MlockFlags>(op.flags)));
    case Call::kMunlock: return from(vm.munlock(mm, at, op.length));
    case Call::kMlockall: return from(vm.mlockall(mm, static_cast<vm::MclFlags>(op.flags)));
    case Call::kMunlockall: return from(vm.munlockall(mm));
    case Call::kBrk: return {.result = static_cast<std::int64_t>(vm.brk(mm, at).value())};
    case Call::kMseal: return from(vm.mseal(mm, at, op.length, static_cast<std::uint64_t>(op.flags)));
    case Call::kRemapFilePages:
      return from(vm.remap_file_pages(mm, at, op.length, static_cast<vm::Prot>(op.prot), op.offset,
                                      static_cast<vm::MapFlags>(op.flags)));
    case Call::kMembarrier: return from(vm.membarrier(mm, static_cast<vm::MembarrierCmd>(op.flags), op.value));
    default: return from(vm.msync(mm, at, op.length, static_cast<vm::MsyncFlags>(op.flags)));
  }
}

Answer QuireSide::file_call(const Op& op) {
  file::Vfs& vfs = machine_.vfs;
  switch (op.call) {
    case Call::kAddSeals: return from(file::memfd_add_seals(*memfd_, static_cast<file::Seals>(op.flags)));
    case Call::kGetSeals: return from(file::memfd_get_seals(*memfd_));
    case Call::kFtruncate: return from(vfs.ftruncate(*memfd_, op.length));
    case Call::kFallocate:
      return from(vfs.fallocate(*memfd_, static_cast<file::FallocateMode>(op.flags), op.offset, op.length));
    default: {
      std::vector<std::byte> bytes(kMostPwrite, std::byte{op.value});
      file::KernelBuffer source(bytes);
      return from(vfs.pwrite(*memfd_, op.offset, op.length, source));
    }
  }
}

Answer QuireSide::remote_call(vm::Mm& mm, const Op& op) {
  const Result<vm::Mm*> other = alive(op.child) ? Result<vm::Mm*>(mms_[op.child]) : fail(Errno::kSrch);
  const std::array local{vm::UserIovec{VirtAddr(op.address), op.length},
                         vm::UserIovec{VirtAddr(op.address + kSecondLocal), kSecondLocalBytes}};
  const std::array remote{vm::UserIovec{VirtAddr(op.new_address), op.new_length},
                          vm::UserIovec{VirtAddr(op.new_address + kSecondRemote), kSecondRemoteBytes}};
  if (op.call == Call::kProcessVm) {
    return from(op.value == 0 ? machine_.vm.process_vm_readv(mm, local, other, remote)
                              : machine_.vm.process_vm_writev(mm, local, other, remote));
  }
  const std::array parts{local[0], vm::UserIovec{VirtAddr(op.address + kSecondRemote), kPage}};
  return from(machine_.vm.process_madvise(mm, other, parts, static_cast<vm::Advice>(op.flags)));
}

Answer QuireSide::mincore(vm::Mm& mm, const Op& op) {
  std::array<std::uint8_t, kPage> residency{};
  const Status asked = machine_.vm.mincore(mm, VirtAddr(op.address), op.length, residency);
  if (!asked) return failed(asked.error());
  for (std::uint8_t& page : residency) page &= 1;
  return {.result = hash_page(residency.data())};
}

Answer QuireSide::set_rlimit(vm::Mm& mm, const Op& op) {
  const std::uint64_t limit = limit_of(op, beginning_);
  switch (op.flags) {
    case RLIMIT_AS: mm.rlimits.as = limit; break;
    case RLIMIT_DATA: mm.rlimits.data = limit; break;
    case RLIMIT_STACK: mm.rlimits.stack = limit; break;
    default: mm.rlimits.memlock = limit;
  }
  return {};
}

Answer QuireSide::fork(vm::Mm& mm, const Op& op) {
  const Result<vm::Mm*> child = machine_.vm.dup_mm(mm);
  if (!child) return failed(child.error());
  mms_[op.child] = *child;
  return {};
}

bool QuireSide::has_untouched_writable(unsigned process, std::uint64_t address, std::uint64_t length) const {
  for (const vm::Vma& vma : mms_[process]->mm_vmas) {
    if (vma.vm_end.value() <= address || (vma.vm_start.value() > address && vma.vm_start.value() - address >= length)) continue;
    if (vma.has(vm::VmFlags::kAccount) && vma.has(vm::VmFlags::kWrite) && vma.anon_vma == nullptr) return true;
  }
  return false;
}

bool QuireSide::grows_down(unsigned process) const {
  for (const vm::Vma& vma : mms_[process]->mm_vmas) {
    if (vma.has(vm::VmFlags::kGrowsDown)) return true;
  }
  return false;
}

bool QuireSide::in_one_area(unsigned process, std::uint64_t address, std::uint64_t length) const {
  const vm::Vma* vma = mms_[process]->mm_vmas.lookup(VirtAddr(address));
  return vma != nullptr && length <= vma->vm_end - VirtAddr(address);
}

std::string QuireSide::arena(unsigned process) { return arena_of(observe::smaps(machine_.vm, *mms_[process])); }

}  // namespace quire::differential
