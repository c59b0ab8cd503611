#include "quire_side.h"

#include <unistd.h>

#include <vector>

#include "quire/file/iov_iter.h"
#include "quire/observe/task_mmu.h"

namespace quire::differential {

namespace {

Answer failed(Errno error) { return {.result = -1, .error = static_cast<int>(error)}; }

Answer from(const Status& status) { return status ? Answer{} : failed(status.error()); }

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

QuireSide::QuireSide(std::uint64_t file_seed) : machine_({.ram = 64 * kMiB, .seed = file_seed}), file_seed_(file_seed) {}

void QuireSide::run(const std::function<void()>& body) {
  machine_.run([&] {
    disk_file_ = &machine_.open("/disk_file", kFilePages * kPage, file_seed_);
    memfd_ = machine_.vfs.shmem_file_setup(kFilePages * kPage).value();
    std::vector<std::byte> bytes(kFilePages * kPage);
    file::KernelBuffer to(bytes);
    EXPECT_EQ(machine_.vfs.pread(*disk_file_, 0, bytes.size(), to).value(), bytes.size());  // into the page cache
    mms_[0] = &machine_.mm_alloc();
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
    default: return from(vm.msync(mm, at, op.length, static_cast<vm::MsyncFlags>(op.flags)));
  }
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

bool QuireSide::in_one_area(unsigned process, std::uint64_t address, std::uint64_t length) const {
  const vm::Vma* vma = mms_[process]->mm_vmas.lookup(VirtAddr(address));
  return vma != nullptr && length <= vma->vm_end - VirtAddr(address);
}

std::string QuireSide::arena(unsigned process) { return arena_of(observe::smaps(machine_.vm, *mms_[process])); }

}  // namespace quire::differential
