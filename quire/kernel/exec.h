// execve: a new program from a file of the machine's file systems in place of the old one (Linux's fs/exec.c).
//
//   count, copy arguments into the new Mm's stack     E2BIG, EFAULT, ENOMEM  ┐
//   open the file, read its headers (binfmt_elf)      ENOENT, EACCES, ENOEXEC│ the old program goes on
//   open its interpreter                              ELIBBAD, …             ┘
//   ── point of no return: the process has the new Mm; the old one is let go of ──
//   map segments, interpreter, [vdso], finish the stack                        SIGSEGV
//
//        stack's end   0000 0000
//                      file name, environment's strings, arguments' strings
//                      "x86_64", 16 random bytes (AT_RANDOM)
//                      auxiliary vector, 0, environment's pointers, 0, arguments' pointers
//        stack pointer ▶ number of arguments
//
// Differs from Linux: ELF files of x86-64 are what can be executed (no scripts); nobody owns a file, so that each may be
// executed; a process of several threads is refused, since nothing here ends the others in the middle of their work; a machine
// that keeps no contents (dataless) finds no header in a file.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "quire/kernel/elf_headers.h"
#include "quire/kernel/special_mapping.h"
#include "quire/kernel/task_objects.h"
#include "quire/vm/vm.h"

namespace quire::kernel {

struct ExecArgs {
  std::string_view filename;  // whole path, in any of the machine's file systems
  std::span<const std::string_view> argv;
  std::span<const std::string_view> envp;
};

// Where the new program begins (start_thread).
struct ExecImage {
  VirtAddr entry;  // of the interpreter when there is one
  VirtAddr stack;
};

// A program on its way (struct linux_binprm). What it holds is given back by Exec::free_bprm: that may wait, which a destructor
// must not.
struct LinuxBinprm {
  explicit LinuxBinprm(const ExecArgs& from) : args(from) {}
  LinuxBinprm(const LinuxBinprm&) = delete;
  LinuxBinprm& operator=(const LinuxBinprm&) = delete;

  ExecArgs args;
  std::span<const std::string_view> argv;  // args.argv, or one empty argument
  vm::Mm* mm = nullptr;                    // one reference, until the process has it
  VirtAddr p;                              // where the strings begin
  VirtAddr argmin;                         // they must not go below
  VirtAddr exec;                           // the file name's
  file::File* file = nullptr;
  file::File* interpreter = nullptr;
  std::optional<ElfHeaders> elf, interp_elf;
  const Cred* cred = nullptr;
};

class Exec {
 public:
  Exec(phys::PhysMem& phys, slab::SlabSystem& slab, file::Vfs& vfs, vm::Vm& vm)
      : slab_(slab), vfs_(vfs), vm_(vm), special_(phys, vfs) {}

  // Up to the point of no return: bprm has a new Mm with the arguments, and headers that can be loaded. `old`: whose limits
  // and rights the new program has.
  ExecResult<void> prepare(LinuxBinprm& bprm, const vm::Mm& old, vm::Personality personality);
  // Behind it: load_elf_binary's second half, in `mm`, which was bprm's.
  ExecResult<ExecImage> load(const LinuxBinprm& bprm, vm::Mm& mm, vm::Personality personality);
  // After either; may sleep.
  void free_bprm(LinuxBinprm& bprm);

 private:
  ExecResult<void> copy_arguments(LinuxBinprm& bprm);
  ExecResult<file::File*> open_exec(std::string_view path);
  ExecResult<void> read_headers(LinuxBinprm& bprm);
  ExecResult<void> open_interpreter(LinuxBinprm& bprm, const Elf64_Phdr& segment);

  slab::SlabSystem& slab_;
  file::Vfs& vfs_;
  vm::Vm& vm_;
  SpecialMappings special_;
};

}  // namespace quire::kernel
