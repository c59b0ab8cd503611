// ELF files made by hand, for tests of exec.
#pragma once

#include <elf.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "quire/file/backing.h"

namespace quire::kernel {

// Bytes of a file, as a test has them.
class BytesBacking final : public file::BackingSource {
 public:
  explicit BytesBacking(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  Status read(std::uint64_t offset, std::span<std::byte> to) override {
    std::memcpy(to.data(), bytes_.data() + offset, to.size());
    return {};
  }

 private:
  std::vector<std::byte> bytes_;
};

// A program of two segments: one page of code at 0x1000 of the file, and data at 0x2000 with 0x100 bytes in the file and
// `data_memsz` in memory. Bytes of the file at offset n are n & 0xff where nothing else stands.
struct ElfBytes {
  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> segments;
  std::string interpreter;  // not empty: PT_INTERP names it
  std::uint64_t size = 0x3000;

  static constexpr std::uint64_t kInterpreterAt = 0x800;

  explicit ElfBytes(std::uint16_t type = ET_EXEC, std::uint64_t base = 0x400000, std::uint64_t data_memsz = 0x2800) {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_type = type;
    header.e_machine = EM_X86_64;
    header.e_entry = base + 0x1010;
    header.e_phoff = sizeof(Elf64_Ehdr);
    header.e_phentsize = sizeof(Elf64_Phdr);
    segments = {load(PF_R, 0, base, 0x1000, 0x1000), load(PF_R | PF_X, 0x1000, base + 0x1000, 0x1000, 0x1000),
                load(PF_R | PF_W, 0x2000, base + 0x2000, 0x100, data_memsz)};
  }
  static Elf64_Phdr load(std::uint32_t flags, std::uint64_t offset, std::uint64_t at, std::uint64_t filesz,
                         std::uint64_t memsz) {
    return {.p_type = PT_LOAD,
            .p_flags = flags,
            .p_offset = offset,
            .p_vaddr = at,
            .p_paddr = at,
            .p_filesz = filesz,
            .p_memsz = memsz,
            .p_align = 0x1000};
  }
  // A header that loads nothing.
  static Elf64_Phdr other(std::uint32_t type, std::uint32_t flags) {
    Elf64_Phdr header = load(flags, 0, 0, 0, 0);
    header.p_type = type;
    return header;
  }
  [[nodiscard]] std::vector<std::byte> bytes() const {
    std::vector<std::byte> file(size);
    for (std::size_t i = 0; i < file.size(); ++i) file[i] = static_cast<std::byte>(i & 0xff);
    std::vector<Elf64_Phdr> all = segments;
    if (!interpreter.empty()) {
      Elf64_Phdr name{};
      name.p_type = PT_INTERP;
      name.p_offset = kInterpreterAt;
      name.p_filesz = interpreter.size() + 1;
      all.insert(all.begin(), name);
      std::memcpy(file.data() + kInterpreterAt, interpreter.c_str(), interpreter.size() + 1);
    }
    Elf64_Ehdr with = header;
    if (with.e_phnum == 0) with.e_phnum = static_cast<std::uint16_t>(all.size());
    std::memcpy(file.data(), &with, sizeof(with));
    if (!all.empty()) std::memcpy(file.data() + sizeof(with), all.data(), all.size() * sizeof(Elf64_Phdr));
    return file;
  }
};

}  // namespace quire::kernel
