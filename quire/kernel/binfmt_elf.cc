#include "quire/kernel/binfmt_elf.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace quire::kernel {

using vm::MapFlags;
using vm::Prot;
using vm::VmFlags;

namespace {

constexpr std::array<std::byte, kPageSize> kZeroes{};

std::uint64_t page_start(std::uint64_t address) { return align_down(address, kPageSize); }
std::uint64_t page_end(std::uint64_t address) { return align_up(address, kPageSize); }
std::uint64_t in_page(std::uint64_t address) { return address & (kPageSize - 1); }

Prot make_prot(std::uint32_t segment_flags) {
  Prot prot = Prot::kNone;
  if ((segment_flags & PF_R) != 0) prot |= Prot::kRead;
  if ((segment_flags & PF_W) != 0) prot |= Prot::kWrite;
  if ((segment_flags & PF_X) != 0) prot |= Prot::kExec;
  return prot;
}

vm::ExecStack exec_stack(const ElfHeaders& elf) {
  vm::ExecStack result = vm::ExecStack::kDefault;
  for (const Elf64_Phdr& segment : elf.segments()) {  // the last one stands
    if (segment.p_type != PT_GNU_STACK) continue;
    result = (segment.p_flags & PF_X) != 0 ? vm::ExecStack::kEnableX : vm::ExecStack::kDisableX;
  }
  return result;
}

}  // namespace

bool ElfLoader::bad_segment(std::uint64_t at, const Elf64_Phdr& segment) const {
  const std::uint64_t task_size = mm_.task_size.value();
  return bad(at) || segment.p_filesz > segment.p_memsz || segment.p_memsz > task_size || task_size - segment.p_memsz < at;
}

// `total`: what all segments take, when this is the first: reserved as a whole and cut back, so that all find their place.
Result<std::uint64_t> ElfLoader::elf_map(file::File& file, std::uint64_t address, const Elf64_Phdr& segment, MapFlags flags,
                                         std::uint64_t total) {
  const std::uint64_t size = page_end(segment.p_filesz + in_page(segment.p_vaddr));
  const std::uint64_t offset = segment.p_offset - in_page(segment.p_vaddr);
  address = page_start(address);
  if (size == 0) return address;
  const std::uint64_t length = total != 0 ? page_end(total) : size;
  const auto mapped =
      vm_.mmap(mm_, VirtAddr(address), length, make_prot(segment.p_flags), flags | MapFlags::kPrivate, &file, offset);
  if (!mapped) return fail(mapped.error());
  if (length > size) static_cast<void>(vm_.munmap(mm_, *mapped + size, length - size));
  return mapped->value();
}

Status ElfLoader::vm_brk(std::uint64_t begin, std::uint64_t end, std::uint32_t segment_flags) {
  if (end <= begin) return {};
  const VmFlags exec = (segment_flags & PF_X) != 0 ? VmFlags::kExec : VmFlags::kNone;
  return vm_.vm_brk_flags(mm_, {VirtAddr(begin), VirtAddr(end)}, exec);
}

Status ElfLoader::set_brk(std::uint64_t begin, std::uint64_t end, std::uint32_t segment_flags) {
  if (Status made = vm_brk(page_end(begin), page_end(end), segment_flags); !made) return made;
  mm_.start_brk = mm_.brk = VirtAddr(page_end(end));
  return {};
}

bool ElfLoader::clear_user(std::uint64_t at, std::uint64_t bytes) {
  return vm_.copy_to_user(mm_, VirtAddr(at), std::span(kZeroes).first(bytes)) == bytes;
}

// From `at` to the end of its page.
bool ElfLoader::padzero(std::uint64_t at) { return in_page(at) == 0 || clear_user(at, kPageSize - in_page(at)); }

// --- the program ----------------------------------------------------------------------------------------------------------

// Where the first segment of the program goes, as a difference from its addresses in the file.
std::uint64_t ElfLoader::choose_bias(const LinuxBinprm& bprm, const Elf64_Phdr& segment, MapFlags& flags) {
  if (!bprm.elf->is_dyn()) {
    flags |= MapFlags::kFixedNoReplace;
    return 0;
  }
  std::uint64_t bias = 0;
  if (bprm.interpreter != nullptr) {
    bias = vm_.default_map_window().value() / 3 * 2 + vm_.arch_mmap_rnd(mm_);
    bias = align_down(bias, bprm.elf->alignment());
    flags |= MapFlags::kFixedNoReplace;
  }
  return page_start(bias - segment.p_vaddr);
}

// A segment that has memory beyond its file's, with another behind it.
ExecResult<void> ElfLoader::gap_before_segment(Extent& extent) {
  if (extent.brk <= extent.bss) return {};
  if (Status made = set_brk(extent.bss + bias_, extent.brk + bias_, extent.bss_flags); !made)
    return exec_error(made.error(), "no room for a segment's memory beyond the file");
  if (const std::uint64_t used = in_page(extent.bss); used != 0) {
    // Fails where the segment may not be written: then it stays as the file has it.
    static_cast<void>(clear_user(extent.bss + bias_, std::min(kPageSize - used, extent.brk - extent.bss)));
  }
  return {};
}

ExecResult<void> ElfLoader::load_segment(const LinuxBinprm& bprm, const Elf64_Phdr& segment, Extent& extent, bool first) {
  if (auto filled = gap_before_segment(extent); !filled) return filled;
  MapFlags flags = MapFlags::kNone;
  std::uint64_t total = 0;
  if (first) {
    bias_ = choose_bias(bprm, segment, flags);
    if (bprm.elf->is_dyn()) {
      total = bprm.elf->mapping_size();
      if (total == 0) return exec_error(Errno::kInval, "the segments take no memory");
    }
  } else {
    flags = MapFlags::kFixed;
  }
  const auto mapped = elf_map(*bprm.file, bias_ + segment.p_vaddr, segment, flags, total);
  if (!mapped) return exec_error(mapped.error(), "a segment cannot be mapped");
  if (bad(*mapped)) return exec_error(Errno::kInval, "a segment lies beyond user space");
  const Elf64_Ehdr& header = bprm.elf->header();
  if (first && bprm.elf->is_dyn()) bias_ += *mapped - page_start(bias_ + segment.p_vaddr);
  if (segment.p_offset <= header.e_phoff && header.e_phoff < segment.p_offset + segment.p_filesz)
    phdr_ = header.e_phoff - segment.p_offset + segment.p_vaddr;

  const bool code = (segment.p_flags & PF_X) != 0;
  const std::uint64_t begin = segment.p_vaddr;
  if (code) extent.start_code = std::min(extent.start_code, begin);
  extent.start_data = std::max(extent.start_data, begin);
  if (bad_segment(begin, segment)) return exec_error(Errno::kInval, "a segment's sizes are impossible");
  const std::uint64_t file_end = begin + segment.p_filesz;
  extent.bss = std::max(extent.bss, file_end);
  if (code) extent.end_code = std::max(extent.end_code, file_end);
  extent.end_data = std::max(extent.end_data, file_end);
  if (begin + segment.p_memsz > extent.brk) {
    extent.brk = begin + segment.p_memsz;
    extent.bss_flags = segment.p_flags;
  }
  return {};
}

ExecResult<void> ElfLoader::finish_program(const LinuxBinprm& bprm, const Extent& extent) {
  if (Status made = set_brk(extent.bss + bias_, extent.brk + bias_, extent.bss_flags); !made)
    return exec_error(made.error(), "no room for the last segment's memory beyond the file");
  if (extent.bss != extent.brk && !padzero(extent.bss + bias_))
    return exec_error(Errno::kFault, "the last segment's page cannot be cleared behind the file's bytes");
  program_entry_ = entry_ = bprm.elf->header().e_entry + bias_;
  phdr_ += bias_;
  if (bprm.interpreter != nullptr) {
    if (auto loaded = load_interpreter(bprm); !loaded) return loaded;
  }
  if (bad(entry_)) return exec_error(Errno::kInval, "the entry point lies beyond user space");
  mm_.start_code = VirtAddr(extent.start_code + bias_);
  mm_.end_code = VirtAddr(extent.end_code + bias_);
  mm_.start_data = VirtAddr(extent.start_data + bias_);
  mm_.end_data = VirtAddr(extent.end_data + bias_);
  return {};
}

ExecResult<void> ElfLoader::load(const LinuxBinprm& bprm) {
  if (Status made = vm_.setup_arg_pages(mm_, bprm.p, exec_stack(*bprm.elf)); !made)
    return exec_error(made.error(), "no room for the stack");
  Extent extent;
  bool first = true;
  for (const Elf64_Phdr& segment : bprm.elf->segments()) {
    if (segment.p_type != PT_LOAD) continue;
    if (auto loaded = load_segment(bprm, segment, extent, first); !loaded) return loaded;
    first = false;
  }
  return finish_program(bprm, extent);
}

// --- its interpreter --------------------------------------------------------------------------------------------------------

ExecResult<void> ElfLoader::load_interpreter(const LinuxBinprm& bprm) {
  const ElfHeaders& elf = *bprm.interp_elf;
  if (!elf.can_be_mapped())
    return exec_error(Errno::kPerm, "the interpreter is neither a program nor a shared object (e_type)");
  std::uint64_t total = elf.mapping_size();
  if (total == 0) return exec_error(Errno::kInval, "the interpreter's segments take no memory");
  std::uint64_t base = 0, bss = 0, last = 0;
  std::uint32_t last_flags = 0;
  bool placed = false;
  for (const Elf64_Phdr& segment : elf.segments()) {
    if (segment.p_type != PT_LOAD) continue;
    const MapFlags flags = !elf.is_dyn() || placed ? MapFlags::kFixed : MapFlags::kNone;
    if (elf.is_dyn() && !placed && bias_ != 0) base = 0 - segment.p_vaddr;  // anywhere
    const auto mapped = elf_map(*bprm.interpreter, base + segment.p_vaddr, segment, flags, std::exchange(total, 0));
    if (!mapped) return exec_error(mapped.error(), "a segment of the interpreter cannot be mapped");
    if (!placed && elf.is_dyn()) {
      base = *mapped - page_start(segment.p_vaddr);
      placed = true;
    }
    const std::uint64_t begin = base + segment.p_vaddr;
    if (bad_segment(begin, segment))
      return exec_error(Errno::kNoMem, "the sizes of a segment of the interpreter are impossible");
    bss = std::max(bss, begin + segment.p_filesz);
    if (begin + segment.p_memsz > last) {
      last = begin + segment.p_memsz;
      last_flags = segment.p_flags;
    }
  }
  if (!padzero(bss)) return exec_error(Errno::kFault, "the interpreter's last page cannot be cleared");
  if (Status made = vm_brk(page_end(bss), page_end(last), last_flags); !made)
    return exec_error(made.error(), "no room for the interpreter's memory beyond the file");
  interpreter_base_ = base;
  entry_ = base + elf.header().e_entry;
  return {};
}

// --- what the program finds on its stack ---------------------------------------------------------------------------------------

void ElfLoader::fill_auxv(const LinuxBinprm& bprm, std::uint64_t random_bytes, std::uint64_t platform) {
  constexpr std::uint64_t kHwcap = 0x178bfbff;  // CPUID 1, EDX of a plain x86-64
  constexpr std::uint64_t kHwcap2FsGsBase = 2;
  constexpr std::uint64_t kMinSigStackSize = 1776;  // a signal frame with FXSAVE and AVX
  const auto& ids = bprm.cred->ids;
  const std::pair<std::uint64_t, std::uint64_t> entries[] = {
      {AT_SYSINFO_EHDR, mm_.vdso.value()},
      {AT_MINSIGSTKSZ, kMinSigStackSize},
      {AT_HWCAP, kHwcap},
      {AT_PAGESZ, kPageSize},
      {AT_CLKTCK, 100},
      {AT_PHDR, phdr_},
      {AT_PHENT, sizeof(Elf64_Phdr)},
      {AT_PHNUM, bprm.elf->header().e_phnum},
      {AT_BASE, interpreter_base_},
      {AT_FLAGS, 0},
      {AT_ENTRY, program_entry_},
      {AT_UID, ids[0]},
      {AT_EUID, ids[2]},
      {AT_GID, ids[4]},
      {AT_EGID, ids[6]},
      {AT_SECURE, 0},
      {AT_RANDOM, random_bytes},
      {AT_HWCAP2, kHwcap2FsGsBase},
      {AT_EXECFN, bprm.exec.value()},
      {AT_PLATFORM, platform},
      {AT_NULL, 0},
  };
  static_assert(std::size(entries) * 2 <= vm::kAuxvWords);
  mm_.saved_auxv.fill(0);
  auxv_words_ = 0;
  for (const auto& [type, value] : entries) {
    mm_.saved_auxv[auxv_words_++] = type;
    mm_.saved_auxv[auxv_words_++] = value;
  }
}

ExecResult<VirtAddr> ElfLoader::create_elf_tables(const LinuxBinprm& bprm) {
  constexpr std::string_view kPlatform{"x86_64", sizeof("x86_64")};  // with its zero
  std::uint64_t p = vm_.arch_align_stack(mm_, bprm.p).value();
  bool written = true;
  const auto put = [&](std::uint64_t at, std::span<const std::byte> bytes) {
    written = written && vm_.copy_to_user(mm_, VirtAddr(at), bytes) == bytes.size();
  };
  const std::uint64_t platform = p -= kPlatform.size();
  put(platform, std::as_bytes(std::span(kPlatform)));
  const std::array<std::uint64_t, 2> random{vm_.layout_rng()(), vm_.layout_rng()()};
  const std::uint64_t random_bytes = p -= sizeof(random);
  put(random_bytes, std::as_bytes(std::span(random)));

  fill_auxv(bprm, random_bytes, platform);
  const std::uint64_t items = (bprm.argv.size() + 1) + (bprm.args.envp.size() + 1) + 1;
  const std::uint64_t sp = align_down(p - (auxv_words_ + items) * sizeof(std::uint64_t), 16);
  std::uint64_t at = sp;
  const auto put_word = [&](std::uint64_t word) {
    put(at, std::as_bytes(std::span(&word, 1)));
    at += sizeof(word);
  };
  std::uint64_t string = mm_.arg_start.value();
  const auto put_strings = [&](std::span<const std::string_view> strings) {
    for (const std::string_view text : strings) {
      put_word(string);
      string += text.size() + 1;
    }
    put_word(0);
    return VirtAddr(string);
  };
  put_word(bprm.argv.size());
  mm_.arg_end = mm_.env_start = put_strings(bprm.argv);
  mm_.env_end = put_strings(bprm.args.envp);
  put(at, std::as_bytes(std::span(mm_.saved_auxv).first(auxv_words_)));
  if (!written) return exec_error(Errno::kFault, "the stack's beginning cannot be written");
  return VirtAddr(sp);
}

// --- all of it ----------------------------------------------------------------------------------------------------------------

ExecResult<ExecImage> Exec::load(const LinuxBinprm& bprm, vm::Mm& mm, vm::Personality personality) {
  ElfLoader loader(vm_, mm);
  if (auto loaded = loader.load(bprm); !loaded) return std::unexpected(loaded.error());
  if (Status mapped = special_.map_vdso(vm_, mm); !mapped)
    return exec_error(mapped.error(), "no room for the kernel's own pages ([vdso])");
  const auto stack = loader.create_elf_tables(bprm);
  if (!stack) return std::unexpected(stack.error());
  mm.start_stack = *stack;
  const bool moves_heap = mm.randomize == vm::Randomize::kYes && vm_.tunables().randomize_va_space > 1;
  if (moves_heap) {
    // A program that lies among the mappings (an interpreter run by itself) has its heap where others have their code.
    if (bprm.elf->is_dyn() && bprm.interpreter == nullptr)
      mm.brk = VirtAddr(page_start(vm_.default_map_window().value() / 3 * 2));
    mm.brk = mm.start_brk = vm_.arch_randomize_brk(mm);
  }
  if (any(personality, vm::Personality::kMmapPageZero)) {
    static_cast<void>(vm_.mmap(mm, VirtAddr(0), kPageSize, Prot::kRead | Prot::kExec,
                               MapFlags::kFixed | MapFlags::kPrivate | MapFlags::kAnonymous, nullptr, 0));
  }
  return ExecImage{loader.entry(), *stack};
}

}  // namespace quire::kernel
