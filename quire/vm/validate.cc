// The whole-structure check: areas, tables, map counts, reverse maps, counters and TLBs against each other.
#include <map>
#include <set>

#include "quire/file/vfs.h"
#include "quire/vm/folio_map.h"
#include "quire/vm/vm.h"

namespace quire::vm {

class VmValidator {
 public:
  explicit VmValidator(Vm& vm) : vm_(vm), phys_(vm.parts_.phys) {}

  void check_mm(Mm& mm);
  // After every Mm has been checked: what only their sum can tell.
  void check_totals();

 private:
  struct Sizes {
    std::uint64_t total = 0, locked = 0, data = 0, exec = 0, stack = 0, accounted = 0;
    int areas = 0;
    std::array<std::int64_t, static_cast<std::size_t>(Rss::kCount)> rss{};
  };

  void check_area(const Vma& vma, Sizes& sizes);
  void check_chain(const Vma& vma);
  void check_pte(const Vma& vma, VirtAddr address, arch::Pte pte, Sizes& sizes);
  void check_anon(const Vma& vma, VirtAddr address, arch::Pte pte, const phys::Folio& folio);
  void check_file(const Vma& vma, VirtAddr address, const phys::Folio& folio);
  std::uint64_t walk_tables(Mm& mm, PhysAddr table, unsigned level, VirtAddr base, Sizes& sizes);

  Vm& vm_;
  phys::PhysMem& phys_;
  std::map<Pfn, int> mapcounts_;
  std::map<std::uint64_t, std::uint64_t> swap_counts_;
  std::map<const AnonVma*, std::uint32_t> active_vmas_;
  std::uint64_t accounted_ = 0;
};

void VmValidator::check_chain(const Vma& vma) {
  bool own = vma.anon_vma == nullptr;
  std::set<const AnonVma*> seen;
  for (const AnonVmaChain& avc : vma.anon_vma_chain) {
    QUIRE_BUG_ON(avc.vma != &vma || avc.anon_vma == nullptr);
    QUIRE_BUG_ON(!seen.insert(avc.anon_vma).second);
    QUIRE_BUG_ON(avc.rb.first != vma.vm_pgoff.value() || avc.rb.last != vma.vm_pgoff.value() + vma.pages() - 1);
    own |= avc.anon_vma == vma.anon_vma;
  }
  QUIRE_BUG_ON(!own);
  if (vma.anon_vma != nullptr) ++active_vmas_[vma.anon_vma];
}

void VmValidator::check_area(const Vma& vma, Sizes& sizes) {
  const std::uint64_t pages = vma.pages();
  ++sizes.areas;
  sizes.total += pages;
  if (vma.has(VmFlags::kLocked)) sizes.locked += pages;
  if (vma.has(VmFlags::kAccount)) sizes.accounted += pages;
  const bool stack = vma.has(VmFlags::kGrowsDown);
  if (vma.has(VmFlags::kExec) && !vma.has(VmFlags::kWrite) && !stack) {
    sizes.exec += pages;
  } else if (stack) {
    sizes.stack += pages;
  } else if (vma.has(VmFlags::kWrite) && !vma.has(VmFlags::kShared)) {
    sizes.data += pages;
  }
  QUIRE_BUG_ON(vma.has(VmFlags::kShared) && vma.vm_file == nullptr);
  if (vma.vm_file != nullptr) {
    QUIRE_BUG_ON(!vma.mapping_node.linked());
    QUIRE_BUG_ON(vma.mapping_node.first != vma.vm_pgoff.value());
    QUIRE_BUG_ON(vma.mapping_node.last != vma.vm_pgoff.value() + pages - 1);
  }
  check_chain(vma);
}

void VmValidator::check_anon(const Vma& vma, VirtAddr address, arch::Pte pte, const phys::Folio& folio) {
  QUIRE_BUG_ON(folio.index != vma.linear_page_index(address).value());
  const auto* anon_vma = phys::folio_raw_mapping<AnonVma>(folio);
  bool reachable = false;
  for (const AnonVmaChain& avc : vma.anon_vma_chain) reachable |= avc.anon_vma == anon_vma;
  QUIRE_BUG_ON(!reachable);
  // Writing goes to a page of one's own only.
  QUIRE_BUG_ON(arch::pte_write(pte) && !phys::folio_test_anon_exclusive(folio));
  QUIRE_BUG_ON(phys::folio_test_anon_exclusive(folio) && folio.mapcount > 1);
}

void VmValidator::check_file(const Vma& vma, VirtAddr address, const phys::Folio& folio) {
  QUIRE_BUG_ON(vma.vm_file == nullptr);
  QUIRE_BUG_ON(file::AddressSpace::of(folio) != &vma.vm_file->mapping());
  QUIRE_BUG_ON(folio.index != vma.linear_page_index(address).value());
}

void VmValidator::check_pte(const Vma& vma, VirtAddr address, arch::Pte pte, Sizes& sizes) {
  const auto count = [&](Rss r) { ++sizes.rss[static_cast<std::size_t>(r)]; };
  if (!pte.present()) {
    const arch::SwapEntry entry = arch::pte_to_swp_entry(pte);
    if (arch::is_guard_swp_entry(entry)) return;
    QUIRE_BUG_ON(arch::non_swap_entry(entry));
    ++swap_counts_[entry.value()];
    count(Rss::kSwapEnts);
    return;
  }
  QUIRE_BUG_ON(!phys_.pfn_valid(pte.pfn()));
  QUIRE_BUG_ON(arch::pte_write(pte) && !vma.has(VmFlags::kWrite));
  QUIRE_BUG_ON(pte.protnone() == vma.has(VmFlags::kAccessFlags));
  phys::Page* page = vm_.vm_normal_page(pte);
  if (page == nullptr) {
    const bool by_frame = vma.has(VmFlags::kPfnMap);
    QUIRE_BUG_ON(arch::pte_write(pte) || (!by_frame && pte.pfn() != phys_.page_to_pfn(*vm_.zero_page_)));
    return;
  }
  const phys::Folio& folio = phys::page_folio(*page);
  QUIRE_BUG_ON(phys::folio_ref_count(folio) < phys::folio_mapcount(folio));
  ++mapcounts_[pte.pfn()];
  count(mm_counter(folio));
  phys::folio_test_anon(folio) ? check_anon(vma, address, pte, folio) : check_file(vma, address, folio);
}

std::uint64_t VmValidator::walk_tables(Mm& mm, PhysAddr table, unsigned level, VirtAddr base, Sizes& sizes) {
  const arch::Geometry& geometry = vm_.pgtable_.geometry();
  const auto* entries = vm_.pgtable_.tables().table<arch::Pte>(table);
  QUIRE_BUG_ON(!phys_.phys_to_page(table).test(phys::PageFlag::kTable));
  std::uint64_t tables = level <= arch::kPudLevel ? 1 : 0;
  for (unsigned i = 0; i < geometry.entries(level); ++i) {
    if (entries[i].none()) continue;
    const VirtAddr address = base + i * geometry.entry_span(level);
    if (address > geometry.task_size) {  // of the root: the kernel's half, which all share
      const kvirt::InitMm* init_mm = vm_.pgtable_.init_mm();
      QUIRE_BUG_ON(init_mm == nullptr);
      QUIRE_BUG_ON(init_mm->tables().read_entry(init_mm->pgd(), i) != entries[i].value());
      continue;
    }
    if (level > arch::kPteLevel) {
      tables += walk_tables(mm, entries[i].phys(), level - 1, address, sizes);
      continue;
    }
    const Vma* vma = mm.mm_vmas.lookup(address);
    QUIRE_BUG_ON(vma == nullptr);  // an entry outside every area
    check_pte(*vma, address, entries[i], sizes);
  }
  return tables;
}

void VmValidator::check_mm(Mm& mm) {
  if (any(mm.flags, MmFlags::kExiting)) return;
  Sizes sizes;
  mm.mm_vmas.validate();
  for (const Vma& vma : mm.mm_vmas) check_area(vma, sizes);
  QUIRE_BUG_ON(sizes.areas != mm.map_count);
  QUIRE_BUG_ON(sizes.total != mm.total_vm || sizes.locked != mm.locked_vm || sizes.data != mm.data_vm);
  QUIRE_BUG_ON(sizes.exec != mm.exec_vm || sizes.stack != mm.stack_vm);
  QUIRE_BUG_ON(walk_tables(mm, mm.pgd, vm_.pgtable_.geometry().levels, VirtAddr(0), sizes) != mm.pgtables_pages);
  QUIRE_BUG_ON(sizes.rss != mm.rss_stat);
  accounted_ += sizes.accounted;
}

void VmValidator::check_totals() {
  std::int64_t anon = 0;
  std::int64_t file = 0;
  for (const auto& [pfn, count] : mapcounts_) {
    const phys::Page& page = phys_.pfn_to_page(pfn);
    QUIRE_BUG_ON(page.mapcount != count);
    (page.mapping & phys::kMappingAnon) != 0 ? ++anon : ++file;
  }
  QUIRE_BUG_ON(phys_.global_node_page_state(phys::NodeStat::kNrAnonPages) != anon);
  QUIRE_BUG_ON(phys_.global_node_page_state(phys::NodeStat::kNrMapped) != file);
  for (const auto& [value, count] : swap_counts_) {
    QUIRE_BUG_ON(vm_.parts_.swap.swap_count(swap::SwapEntry::from_value(value)) != count);
  }
  for (const auto& [anon_vma, count] : active_vmas_) QUIRE_BUG_ON(anon_vma->num_active_vmas != count);
  QUIRE_BUG_ON(vm_.commit_.committed_as() != accounted_ + vm_.parts_.vfs.shmem().committed());
}

void Vm::validate(Mm& mm) {
  VmValidator validator(*this);
  validator.check_mm(mm);
}

void Vm::validate() {
  VmValidator validator(*this);
  bool exiting = false;
  for (Mm& mm : mms_) {
    exiting |= any(mm.flags, MmFlags::kExiting);
    validator.check_mm(mm);
    shootdown_.validate(mm);
  }
  shootdown_.validate();
  tlb_checker_.check();
  // While an address space is being taken down, sums do not add up.
  if (exiting) return;
  validator.check_totals();
}

}  // namespace quire::vm
