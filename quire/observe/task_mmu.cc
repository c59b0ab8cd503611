#include "quire/observe/task_mmu.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "quire/arch/swap_entry.h"
#include "quire/file/file_system.h"
#include "quire/file/shmem.h"
#include "quire/phys/folio.h"
#include "quire/sim/lock_guards.h"

namespace quire::observe {

using vm::Mm;
using vm::Vm;
using vm::Vma;
using vm::VmFlags;

namespace {

constexpr unsigned kPssShift = 12;
constexpr std::size_t kNameColumn = 73;  // of maps' last field, counted from 1

constexpr std::uint64_t bytes_kib(std::uint64_t bytes) { return bytes / kKiB; }
constexpr std::uint64_t pss_kib(std::uint64_t pss) { return pss >> (kPssShift + 10); }

enum class Dirt : std::uint8_t { kClean, kDirty };

enum class Sharing : std::uint8_t { kPrivate, kShared };

// One resident page, `pss` of it the area's own.
void smaps_page_accumulate(MemSize& mss, const phys::Folio& folio, std::uint64_t pss, Dirt dirt, Sharing sharing) {
  mss.pss += pss;
  if (phys::folio_test_anon(folio)) {
    mss.pss_anon += pss;
  } else if (phys::folio_test_swapbacked(folio)) {
    mss.pss_shmem += pss;
  } else {
    mss.pss_file += pss;
  }
  const bool dirty = dirt == Dirt::kDirty || phys::folio_test_dirty(folio);
  if (dirty) mss.pss_dirty += pss;
  if (sharing == Sharing::kShared) {
    (dirty ? mss.shared_dirty : mss.shared_clean) += kPageSize;
  } else {
    (dirty ? mss.private_dirty : mss.private_clean) += kPageSize;
  }
}

// A page that an entry maps, or that is on its way while a migration entry stands for it: whole then, and shared, since nobody
// knows how many more such entries there are; whether it was young or dirty is not looked for.
void smaps_account(MemSize& mss, const phys::Page& page, arch::Pte pte) {
  const phys::Folio& folio = phys::page_folio(page);
  const bool present = arch::pte_present(pte);
  const bool young = present && arch::pte_young(pte);
  const bool dirty = present && arch::pte_dirty(pte);
  mss.resident += kPageSize;
  if (phys::folio_test_anon(folio)) {
    mss.anonymous += kPageSize;
    if (!phys::folio_test_swapbacked(folio) && !dirty && !phys::folio_test_dirty(folio)) mss.lazyfree += kPageSize;
  }
  if (young || phys::folio_test_referenced(folio)) mss.referenced += kPageSize;
  const std::uint64_t mapcount = present ? static_cast<std::uint64_t>(phys::page_mapcount(page)) : 1;
  smaps_page_accumulate(mss, folio, (kPageSize << kPssShift) / mapcount, dirty ? Dirt::kDirty : Dirt::kClean,
                        present && mapcount == 1 ? Sharing::kPrivate : Sharing::kShared);
}

// An entry that maps no page: in swap, on its way, or a marker that counts nothing.
void smaps_nonpresent(MemSize& mss, Vm& vm, arch::Pte pte) {
  const arch::SwapEntry entry = arch::pte_to_swp_entry(pte);
  if (arch::is_migration_entry(entry)) {
    return smaps_account(mss, vm.parts().phys.pfn_to_page(arch::migration_entry_to_pfn(entry)), pte);
  }
  if (arch::non_swap_entry(entry)) return;
  const std::uint64_t users = vm.parts().swap.swap_count(entry);
  mss.swap += kPageSize;
  mss.swap_pss += (kPageSize << kPssShift) / (users >= 2 ? users : 1);
}

// Counts what of a file in swap no entry of the area speaks of; [next, ...) has not been looked at. Entries come in order.
class SwappedHoles {
 public:
  SwappedHoles(const file::Shmem& shmem, file::ShmemInode& inode, const Vma& vma)
      : shmem_(shmem), inode_(inode), vma_(vma), next_(vma.vm_start) {}

  void entry(VirtAddr at) {
    hole_until(at);
    next_ = at + kPageSize;
  }
  [[nodiscard]] std::uint64_t bytes() {
    hole_until(vma_.vm_end);
    return pages_to_bytes(pages_);
  }

 private:
  void hole_until(VirtAddr end) {
    if (end > next_) {
      pages_ += shmem_.shmem_swap_usage(inode_, vma_.linear_page_index(next_), vma_.linear_page_index(end - kPageSize));
    }
    next_ = end;
  }

  const file::Shmem& shmem_;
  file::ShmemInode& inode_;
  const Vma& vma_;
  VirtAddr next_;
  std::uint64_t pages_ = 0;
};

// What of the area's shared memory is in swap, where the file alone says so: all of it where entries cannot hide a page of the
// file behind one of the process's own, else what lies in the holes between the entries, as `holes` finds them.
std::uint64_t smaps_shmem_swap(const Vma& vma, std::optional<SwappedHoles>& holes) {
  if (vma.vm_file == nullptr) return 0;
  const auto* shmem = dynamic_cast<const file::Shmem*>(&vma.vm_file->sb());
  if (shmem == nullptr) return 0;
  auto& inode = static_cast<file::ShmemInode&>(vma.vm_file->inode());
  if (inode.swapped == 0) return 0;
  if (!vma.has(VmFlags::kShared) && vma.has(VmFlags::kWrite)) {
    holes.emplace(*shmem, inode, vma);
    return 0;
  }
  const bool whole = vma.vm_pgoff == Pgoff(0) && vma.vm_end - vma.vm_start >= inode.i_size_read();
  if (whole) return pages_to_bytes(inode.swapped);
  return pages_to_bytes(
      shmem->shmem_swap_usage(inode, vma.linear_page_index(vma.vm_start), vma.linear_page_index(vma.vm_end - kPageSize)));
}

// "rwxp" of maps.
std::string rights(const Vma& vma) {
  std::string text = "---p";
  if (vma.has(VmFlags::kRead)) text[0] = 'r';
  if (vma.has(VmFlags::kWrite)) text[1] = 'w';
  if (vma.has(VmFlags::kExec)) text[2] = 'x';
  if (vma.has(VmFlags::kMayShare)) text[3] = 's';
  return text;
}

// A path whose line ends, which would end the area's line, are octal as in Linux.
std::string on_one_line(std::string_view path) {
  std::string text;
  for (const char c : path) {
    if (c == '\n') {
      text += "\\012";
    } else {
      text += c;
    }
  }
  return text;
}

// "major:minor" of a number as stat gives it, whose minor's upper bits stand above the major (new_decode_dev).
std::string device(std::uint32_t dev) {
  const std::uint32_t major = dev >> 8 & 0xfff;
  const std::uint32_t minor = (dev & 0xff) | (dev >> 12 & 0xfff00);
  return fmt::format("{:02x}:{:02x}", major, minor);
}

std::string name_of(const Mm& mm, const Vma& vma) {
  if (vma.vm_file != nullptr) return on_one_line(vma.vm_file->sb().path_of(vma.vm_file->inode()));
  if (vma.vm_start <= mm.brk && vma.vm_end >= mm.start_brk && mm.start_brk < mm.brk) return "[heap]";
  if (vma.vm_start <= mm.start_stack && vma.vm_end >= mm.start_stack && mm.start_stack.value() != 0) return "[stack]";
  return {};
}

void show_map_vma(std::string& text, const Mm& mm, const Vma& vma) {
  std::uint32_t dev = 0;
  std::uint64_t ino = 0;
  std::uint64_t offset = 0;
  if (vma.vm_file != nullptr) {
    dev = vma.vm_file->sb().dev();
    ino = vma.vm_file->inode().ino;
    offset = vma.vm_pgoff.value() << kPageShift;
  }
  const std::string line = fmt::format("{:08x}-{:08x} {} {:08x} {} {} ", vma.vm_start.value(), vma.vm_end.value(), rights(vma),
                                       offset, device(dev), ino);
  const std::string name = name_of(mm, vma);
  text += name.empty() ? line : fmt::format("{:<{}}{}", line, kNameColumn, name);
  text += '\n';
}

void show_smap(std::string& text, const MemSize& mss, std::string_view more_pss) {
  const auto line = [&text](std::string_view name, std::uint64_t kilobytes) {
    text += fmt::format("{:<16}{:>8} kB\n", fmt::format("{}:", name), kilobytes);
  };
  line("Rss", bytes_kib(mss.resident));
  line("Pss", pss_kib(mss.pss));
  line("Pss_Dirty", pss_kib(mss.pss_dirty));
  text += more_pss;
  line("Shared_Clean", bytes_kib(mss.shared_clean));
  line("Shared_Dirty", bytes_kib(mss.shared_dirty));
  line("Private_Clean", bytes_kib(mss.private_clean));
  line("Private_Dirty", bytes_kib(mss.private_dirty));
  line("Referenced", bytes_kib(mss.referenced));
  line("Anonymous", bytes_kib(mss.anonymous));
  line("LazyFree", bytes_kib(mss.lazyfree));
  for (const char* none : {"AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb"})
    line(none, 0);
  line("Swap", bytes_kib(mss.swap));
  line("SwapPss", pss_kib(mss.swap_pss));
  line("Locked", pss_kib(mss.pss_locked));
}

// Two letters a flag, in the order of the bits (proc.rst).
std::string vm_flag_names(const Vma& vma) {
  constexpr std::array<std::pair<VmFlags, std::string_view>, 28> kNames{{
      {VmFlags::kRead, "rd"},      {VmFlags::kWrite, "wr"},       {VmFlags::kExec, "ex"},       {VmFlags::kShared, "sh"},
      {VmFlags::kMayRead, "mr"},   {VmFlags::kMayWrite, "mw"},    {VmFlags::kMayExec, "me"},    {VmFlags::kMayShare, "ms"},
      {VmFlags::kGrowsDown, "gd"}, {VmFlags::kUffdMissing, "um"}, {VmFlags::kPfnMap, "pf"},     {VmFlags::kUffdWp, "uw"},
      {VmFlags::kLocked, "lo"},    {VmFlags::kIo, "io"},          {VmFlags::kSeqRead, "sr"},    {VmFlags::kRandRead, "rr"},
      {VmFlags::kDontCopy, "dc"},  {VmFlags::kDontExpand, "de"},  {VmFlags::kAccount, "ac"},    {VmFlags::kNoReserve, "nr"},
      {VmFlags::kHugeTlb, "ht"},   {VmFlags::kSync, "sf"},        {VmFlags::kWipeOnFork, "wf"}, {VmFlags::kDontDump, "dd"},
      {VmFlags::kSoftDirty, "sd"}, {VmFlags::kMixedMap, "mm"},    {VmFlags::kHugePage, "hg"},   {VmFlags::kNoHugePage, "nh"},
  }};
  std::string text;
  for (const auto& [flag, name] : kNames) {
    if (vma.has(flag)) text += fmt::format("{} ", name);
  }
  if (vma.has(VmFlags::kMergeable)) text += "mg ";
  if (vma.has(VmFlags::kDroppable)) text += "dp ";
  if (vma.has(VmFlags::kSealed)) text += "sl ";
  return text;
}

}  // namespace

MemSize& MemSize::operator+=(const MemSize& other) {
  constexpr std::uint64_t MemSize::* kFields[] = {
      &MemSize::resident,      &MemSize::shared_clean, &MemSize::shared_dirty, &MemSize::private_clean,
      &MemSize::private_dirty, &MemSize::referenced,   &MemSize::anonymous,    &MemSize::lazyfree,
      &MemSize::swap,          &MemSize::pss,          &MemSize::pss_anon,     &MemSize::pss_file,
      &MemSize::pss_shmem,     &MemSize::pss_dirty,    &MemSize::pss_locked,   &MemSize::swap_pss};
  static_assert(sizeof(kFields) / sizeof(kFields[0]) * sizeof(std::uint64_t) == sizeof(MemSize));
  for (const auto field : kFields) this->*field += other.*field;
  return *this;
}

MemSize smap_gather_stats(Vm& vm, const Vma& vma) {
  MemSize mss;
  std::optional<SwappedHoles> holes;
  mss.swap = smaps_shmem_swap(vma, holes);
  vm.pgtable().for_each_pte(*vma.vm_mm, vma.range(), [&](VirtAddr at, arch::Pte& pte) {
    if (arch::pte_none(pte)) return;
    if (holes) holes->entry(at);
    if (!arch::pte_present(pte)) return smaps_nonpresent(mss, vm, pte);
    if (arch::pte_special(pte)) return;  // the zero page, or one mapped by frame
    smaps_account(mss, vm.parts().phys.pfn_to_page(pte.pfn()), pte);
  });
  if (holes) mss.swap += holes->bytes();
  if (vma.has(VmFlags::kLocked)) mss.pss_locked = mss.pss;
  return mss;
}

std::string maps(Vm&, Mm& mm) {
  const sim::ReadGuard guard(mm.mmap_lock);
  std::string text;
  for (const Vma& vma : mm.mm_vmas) show_map_vma(text, mm, vma);
  return text;
}

std::string smaps(Vm& vm, Mm& mm) {
  const sim::ReadGuard guard(mm.mmap_lock);
  std::string text;
  for (const Vma& vma : mm.mm_vmas) {
    show_map_vma(text, mm, vma);
    text += fmt::format("{:<16}{:>8} kB\n", "Size:", bytes_kib(vma.vm_end - vma.vm_start));
    for (const char* page_size : {"KernelPageSize:", "MMUPageSize:"}) {
      text += fmt::format("{:<16}{:>8} kB\n", page_size, bytes_kib(kPageSize));
    }
    show_smap(text, smap_gather_stats(vm, vma), {});
    text += fmt::format("{:<16}{}\nVmFlags: {}\n", "THPeligible:", 0, vm_flag_names(vma));
  }
  return text;
}

std::string smaps_rollup(Vm& vm, Mm& mm) {
  const sim::ReadGuard guard(mm.mmap_lock);
  MemSize sum;
  for (const Vma& vma : mm.mm_vmas) sum += smap_gather_stats(vm, vma);
  const Vma* first = mm.mm_vmas.first();
  const Vma* last = mm.mm_vmas.last();
  const std::uint64_t begin = first != nullptr ? first->vm_start.value() : 0;
  const std::uint64_t end = last != nullptr ? last->vm_end.value() : 0;
  std::string text =
      fmt::format("{:<{}}[rollup]\n", fmt::format("{:08x}-{:08x} ---p 00000000 00:00 0 ", begin, end), kNameColumn);
  std::string kinds;
  for (const auto& [name, pss] :
       {std::pair{"Pss_Anon:", sum.pss_anon}, {"Pss_File:", sum.pss_file}, {"Pss_Shmem:", sum.pss_shmem}}) {
    kinds += fmt::format("{:<16}{:>8} kB\n", name, pss_kib(pss));
  }
  show_smap(text, sum, kinds);
  return text;
}

std::string statm(const Mm& mm) {
  const auto pages = [&mm](vm::Rss kind) { return static_cast<std::uint64_t>(mm.counter(kind)); };
  const std::uint64_t shared = pages(vm::Rss::kFilePages) + pages(vm::Rss::kShmemPages);
  const std::uint64_t text = bytes_to_pages_up(mm.end_code.value()) - (mm.start_code.value() >> kPageShift);
  return fmt::format("{} {} {} {} 0 {} 0\n", mm.total_vm, shared + pages(vm::Rss::kAnonPages), shared, text,
                     mm.data_vm + mm.stack_vm);
}

}  // namespace quire::observe
