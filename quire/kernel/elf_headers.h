// Header and program headers of an x86-64 ELF file, read through the page cache and checked as far as Linux checks them before
// it gives up the old program. What a segment asks for is checked when it is mapped, and so is of what type an interpreter is.
//
// The program headers lie in an allocation of the machine (kmalloc), as in Linux; whoever has read them gives it back (kfree may
// wait, which a destructor must not).
#pragma once

#include <elf.h>

#include <cstdint>
#include <expected>
#include <span>
#include <string_view>
#include <utility>

#include "quire/base/result.h"
#include "quire/file/vfs.h"
#include "quire/slab/slab_system.h"

namespace quire::kernel {

// Why a program cannot be executed: the errno of execve(2), and the cause in words ("the file begins with no ELF header").
struct ExecError {
  Errno error;
  std::string_view why;
};
template <class T>
using ExecResult = std::expected<T, ExecError>;
[[nodiscard]] inline std::unexpected<ExecError> exec_error(Errno error, std::string_view why) {
  return std::unexpected(ExecError{error, why});
}

// Fills `to` from byte `at` of the file. kIo: the file ends before; else what reading ran into. May sleep.
[[nodiscard]] Status read_exactly(file::Vfs& vfs, file::File& file, std::uint64_t at, std::span<std::byte> to);

enum class ElfRole : std::uint8_t { kProgram, kInterpreter };

class ElfHeaders {
 public:
  // A program's: kNoExec: no ELF file, or none of an x86-64 program. An interpreter's: kLibBad likewise; kIo: shorter than an ELF
  // header. Either's: kIo, kNoMem. May sleep.
  [[nodiscard]] static ExecResult<ElfHeaders> read(file::Vfs& vfs, slab::SlabSystem& slab, file::File& file, ElfRole role);
  void release(slab::SlabSystem& slab) { slab.kfree(std::exchange(segments_, nullptr)); }

  [[nodiscard]] const Elf64_Ehdr& header() const { return header_; }
  [[nodiscard]] bool can_be_mapped() const { return header_.e_type == ET_EXEC || is_dyn(); }
  [[nodiscard]] bool is_dyn() const { return header_.e_type == ET_DYN; }
  [[nodiscard]] std::span<const Elf64_Phdr> segments() const { return {segments_, header_.e_phnum}; }
  // The first of a type; nullptr: none.
  [[nodiscard]] const Elf64_Phdr* find(std::uint32_t type) const;
  // From the first page of the lowest PT_LOAD to the end of the highest; 0: there is none (total_mapping_size).
  [[nodiscard]] std::uint64_t mapping_size() const;
  // The largest alignment that is a power of two, at least a page (maximum_alignment).
  [[nodiscard]] std::uint64_t alignment() const;

 private:
  ElfHeaders(const Elf64_Ehdr& header, Elf64_Phdr* segments) : header_(header), segments_(segments) {}

  Elf64_Ehdr header_;
  Elf64_Phdr* segments_;
};

}  // namespace quire::kernel
