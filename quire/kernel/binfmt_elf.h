// Loads an ELF program into a fresh address space whose stack has the arguments already (Linux's fs/binfmt_elf.c, as of 6.1):
//
//   PT_LOAD     file pages, MAP_PRIVATE, at its address; the last page's rest is cleared, memory beyond the file's is anonymous
//   ET_DYN      with an interpreter at 2/3 of user space (ELF_ET_DYN_BASE) and what randomisation adds; without one where
//               mappings go
//   PT_INTERP   loaded where mappings go; the program begins there
//   heap        at the first page behind the last segment; randomised by up to 32 MiB
//
// An error leaves the address space half made: the program is past its point of no return and ends by SIGSEGV.
#pragma once

#include <cstdint>

#include "quire/kernel/exec.h"

namespace quire::kernel {

class ElfLoader {
 public:
  ElfLoader(vm::Vm& vm, vm::Mm& mm) : vm_(vm), mm_(mm) {}

  // Segments of the program and its interpreter; Mm's start_code … brk as Linux sets them. kInval, kNoMem, kFault, kExist.
  ExecResult<void> load(const LinuxBinprm& bprm);
  // What stands below the strings; the stack pointer. The vdso is where Mm::vdso says. kFault.
  ExecResult<VirtAddr> create_elf_tables(const LinuxBinprm& bprm);
  [[nodiscard]] VirtAddr entry() const { return VirtAddr(entry_); }

 private:
  // How far the segments reach; addresses of the file until the bias is added.
  struct Extent {
    std::uint64_t start_code = ~std::uint64_t{0}, end_code = 0, start_data = 0, end_data = 0;
    std::uint64_t bss = 0, brk = 0;  // the file's bytes end; memory ends
    std::uint32_t bss_flags = 0;     // of the segment that ends last
  };

  [[nodiscard]] bool bad(std::uint64_t address) const { return address >= mm_.task_size.value(); }
  [[nodiscard]] bool bad_segment(std::uint64_t at, const Elf64_Phdr& segment) const;
  Result<std::uint64_t> elf_map(file::File& file, std::uint64_t address, const Elf64_Phdr& segment, vm::MapFlags flags,
                                std::uint64_t total);
  Status vm_brk(std::uint64_t begin, std::uint64_t end, std::uint32_t segment_flags);
  Status set_brk(std::uint64_t begin, std::uint64_t end, std::uint32_t segment_flags);
  [[nodiscard]] bool clear_user(std::uint64_t at, std::uint64_t bytes);
  [[nodiscard]] bool padzero(std::uint64_t at);
  ExecResult<void> load_segment(const LinuxBinprm& bprm, const Elf64_Phdr& segment, Extent& extent, bool first);
  ExecResult<void> gap_before_segment(Extent& extent);
  [[nodiscard]] std::uint64_t choose_bias(const LinuxBinprm& bprm, const Elf64_Phdr& segment, vm::MapFlags& flags);
  ExecResult<void> finish_program(const LinuxBinprm& bprm, const Extent& extent);
  ExecResult<void> load_interpreter(const LinuxBinprm& bprm);
  void fill_auxv(const LinuxBinprm& bprm, std::uint64_t random_bytes, std::uint64_t platform);

  vm::Vm& vm_;
  vm::Mm& mm_;
  std::uint64_t bias_ = 0;
  std::uint64_t phdr_ = 0;
  std::uint64_t program_entry_ = 0;
  std::uint64_t interpreter_base_ = 0;
  std::uint64_t entry_ = 0;
  std::size_t auxv_words_ = 0;
};

}  // namespace quire::kernel
