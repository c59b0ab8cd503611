#include "quire/kernel/elf_headers.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "quire/file/iov_iter.h"

namespace quire::kernel {

Status read_exactly(file::Vfs& vfs, file::File& file, std::uint64_t at, std::span<std::byte> to) {
  for (std::uint64_t done = 0; done < to.size();) {
    file::KernelBuffer rest(to.subspan(done));
    const auto n = vfs.pread(file, at + done, to.size() - done, rest);
    if (!n) return fail(n.error());
    if (*n == 0) return fail(Errno::kIo);
    done += *n;
  }
  return {};
}

namespace {

constexpr std::uint64_t kMostHeaders = kPageSize;  // bytes of program headers

// The beginning of the file. That of a program which is shorter reads as if zeroes followed.
Status read_header(file::Vfs& vfs, file::File& file, ElfRole role, Elf64_Ehdr& header) {
  const auto bytes = std::as_writable_bytes(std::span(&header, 1));
  if (role == ElfRole::kInterpreter) return read_exactly(vfs, file, 0, bytes);
  file::KernelBuffer buffer(bytes);
  const auto n = vfs.pread(file, 0, bytes.size(), buffer);
  return n ? Status{} : fail(n.error());
}

// What is wrong with it, in words; nothing: it is an x86-64 program's, or an interpreter's.
std::string_view check_header(const Elf64_Ehdr& header, ElfRole role) {
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return "the file begins with no ELF header";
  if (role == ElfRole::kProgram && header.e_type != ET_EXEC && header.e_type != ET_DYN)
    return "the ELF file is neither a program nor a shared object (e_type)";
  if (header.e_machine != EM_X86_64) return "the ELF file is not for x86-64 (e_machine)";
  if (header.e_phentsize != sizeof(Elf64_Phdr))
    return "the ELF file's program headers have another size than 56 bytes (e_phentsize)";
  const std::uint64_t bytes = std::uint64_t{header.e_phnum} * sizeof(Elf64_Phdr);
  if (bytes == 0 || bytes > kMostHeaders) return "the ELF file has no program headers, or more than a page of them (e_phnum)";
  return {};
}

}  // namespace

ExecResult<ElfHeaders> ElfHeaders::read(file::Vfs& vfs, slab::SlabSystem& slab, file::File& file, ElfRole role) {
  const Errno no_program = role == ElfRole::kProgram ? Errno::kNoExec : Errno::kLibBad;
  Elf64_Ehdr header{};
  if (Status got = read_header(vfs, file, role, header); !got) return exec_error(got.error(), "the ELF header cannot be read");
  if (const std::string_view wrong = check_header(header, role); !wrong.empty()) return exec_error(no_program, wrong);

  // One errno for all that goes wrong with them, as load_elf_phdrs tells no more.
  const std::size_t bytes = header.e_phnum * sizeof(Elf64_Phdr);
  auto* segments = static_cast<Elf64_Phdr*>(slab.kmalloc(bytes, phys::Gfp::kKernel));
  if (segments == nullptr) return exec_error(no_program, "no memory for the program headers");
  const Status got = read_exactly(vfs, file, header.e_phoff, std::as_writable_bytes(std::span(segments, header.e_phnum)));
  if (got) return ElfHeaders(header, segments);
  slab.kfree(segments);
  if (got.error() == Errno::kNoMem) return exec_error(no_program, "no memory for pages of the file");
  return exec_error(no_program, "the ELF file ends before its program headers do (e_phoff)");
}

const Elf64_Phdr* ElfHeaders::find(std::uint32_t type) const {
  const auto it = std::ranges::find(segments(), type, &Elf64_Phdr::p_type);
  return it == segments().end() ? nullptr : &*it;
}

std::uint64_t ElfHeaders::mapping_size() const {
  std::uint64_t low = ~std::uint64_t{0};
  std::uint64_t high = 0;
  bool any = false;
  for (const Elf64_Phdr& segment : segments()) {
    if (segment.p_type != PT_LOAD) continue;
    low = std::min(low, align_down(segment.p_vaddr, kPageSize));
    high = std::max(high, segment.p_vaddr + segment.p_memsz);
    any = true;
  }
  return any ? high - low : 0;
}

std::uint64_t ElfHeaders::alignment() const {
  std::uint64_t most = kPageSize;
  for (const Elf64_Phdr& segment : segments()) {
    if (segment.p_type == PT_LOAD && std::has_single_bit(segment.p_align))
      most = std::max<std::uint64_t>(most, segment.p_align);
  }
  return most;
}

}  // namespace quire::kernel
