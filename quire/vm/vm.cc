#include "quire/vm/vm.h"

#include <algorithm>
#include <cstring>

#include "quire/file/vfs.h"

namespace quire::vm {

namespace {

sim::LockClass& lock_class(const VmParts& parts, std::string_view name) { return parts.scheduler.locks().lock_class(name); }

}  // namespace

Vm::Vm(const VmParts& parts, const arch::Geometry& geometry, const arch::TlbConfig& tlb)
    : parts_(parts),
      mm_cache_(parts.slab, "mm_struct", slab::SlabFlags::kHwCacheAlign),
      vma_cache_(parts.slab, "vm_area_struct"),
      maple_node_cache_(parts.slab, "maple_node"),
      anon_vma_cache_(parts.slab, "anon_vma"),
      anon_vma_chain_cache_(parts.slab, "anon_vma_chain"),
      pgtable_(parts.phys, geometry),
      shootdown_(parts.scheduler, pgtable_.tables(), parts.phys.vmstat(), parts.traces, tlb),
      rmap_(*this),
      migration_(*this, parts.traces),
      commit_(parts.phys, parts.swap, tunables_),
      mmap_lock_class_(lock_class(parts, "mmap_lock")),
      page_table_lock_class_(lock_class(parts, "page_table_lock")),
      anon_vma_lock_class_(lock_class(parts, "anon_vma->rwsem")),
      graph_(parts.traces),
      page_fault_user_(parts.traces) {
  zero_page_ = parts_.phys.alloc_page(phys::Gfp::kKernel);
  QUIRE_BUG_ON(zero_page_ == nullptr);
  if (parts_.phys.data_mode() == phys::DataMode::kData) std::memset(parts_.phys.page_address(*zero_page_), 0, kPageSize);
  zero_page_->set(phys::PageFlag::kReserved);

  // init_user_reserve, init_admin_reserve: a 32nd of what is free at boot, up to the defaults.
  const std::uint64_t free_kib = parts_.phys.meminfo().freeram << (kPageShift - 10);
  tunables_.user_reserve_kbytes = std::min<std::uint64_t>(free_kib / 32, tunables_.user_reserve_kbytes);
  tunables_.admin_reserve_kbytes = std::min<std::uint64_t>(free_kib / 32, tunables_.admin_reserve_kbytes);
  parts_.vfs.filemap().set_upcalls(this);
  parts_.vfs.shmem().set_commit(&commit_);
  parts_.phys.set_free_watch(&tlb_checker_);
}

Vm::~Vm() {
  parts_.phys.set_free_watch(nullptr);
  parts_.vfs.filemap().set_upcalls(nullptr);
  parts_.vfs.shmem().set_commit(nullptr);
  zero_page_->clear(phys::PageFlag::kReserved);
  parts_.phys.free_page(*zero_page_);
}

}  // namespace quire::vm
