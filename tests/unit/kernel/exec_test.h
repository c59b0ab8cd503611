// execve of ELF files made by hand, in a machine of their own.
#pragma once

#include "elf_bytes.h"
#include "quire/kernel/exec.h"
#include "small_machine.h"

namespace quire::kernel {

using ::testing::HasSubstr;
using Strings = std::vector<std::string_view>;

class ExecTest : public ::testing::Test {
 protected:
  ExecTest() : machine_(boot_with_data()) {}

  void add(const std::string& path, const ElfBytes& elf) { add_bytes(path, elf.bytes()); }
  void add_bytes(const std::string& path, std::vector<std::byte> bytes) {
    ASSERT_TRUE(fs().create(path, std::make_unique<BytesBacking>(std::move(bytes))));
  }
  file::FileSystem& fs() {
    if (fs_ == nullptr) fs_ = &machine_->vfs().mount({});
    return *fs_;
  }
  // In a process of its own, which is without randomisation unless `body` says so.
  void in_process(const std::function<void(Process&)>& body) {
    start(*machine_, "old", [&](Process& self) {
      self.personality = vm::Personality::kAddrNoRandomize;
      body(self);
    });
    ASSERT_TRUE(machine_->run().done());
    machine_->validate();
  }
  ExecResult<ExecImage> exec(Process& self, std::string_view path, const Strings& argv = {"program"},
                             const Strings& envp = {}) {
    return machine_->processes().execve(self, {path, argv, envp});
  }
  // Objects in use, without those that files' pages need or may need next.
  Objects objects_left() {
    machine_->vfs().drop_pagecache();
    Objects left = objects(*machine_);
    left.erase("radix_tree_node");
    return left;
  }
  // The old program stands as it was, and the call said so; nothing is left of the new one.
  void expect_refused(Process& self, std::string_view path, Errno error, std::string_view why, const Strings& argv = {"x"}) {
    vm::Mm* const old = self.mm;
    const Objects before = objects_left();
    const auto result = exec(self, path, argv);
    ASSERT_FALSE(result) << path;
    EXPECT_EQ(objects_left(), before) << path;
    EXPECT_EQ(errno_name(result.error().error), errno_name(error)) << path << ": " << result.error().why;
    EXPECT_THAT(std::string(result.error().why), HasSubstr(std::string(why)));
    EXPECT_EQ(self.mm, old);
    EXPECT_EQ(self.comm, "old");
    EXPECT_FALSE(self.killed());
  }
  std::string areas(const vm::Mm& mm) {
    std::string text;
    for (const vm::Vma& vma : mm.mm_vmas) {
      if (vma.vm_start >= VirtAddr(0x700000000000)) continue;
      text += fmt::format("{:x}-{:x} {}{}{}{} {:x}\n", vma.vm_start.value(), vma.vm_end.value(),
                          vma.has(vm::VmFlags::kRead) ? 'r' : '-', vma.has(vm::VmFlags::kWrite) ? 'w' : '-',
                          vma.has(vm::VmFlags::kExec) ? 'x' : '-', vma.vm_file != nullptr ? 'f' : 'a',
                          vma.vm_file != nullptr ? vma.vm_pgoff.value() << kPageShift : 0);
    }
    return text;
  }
  unsigned address_spaces() {
    unsigned count = 0;
    for ([[maybe_unused]] const vm::Mm& mm : machine_->vm().mms()) ++count;
    return count;
  }
  template <class T>
  T read(vm::Mm& mm, VirtAddr at) {
    T value{};
    EXPECT_EQ(machine_->vm().copy_from_user(mm, std::as_writable_bytes(std::span(&value, 1)), at), sizeof(T)) << at.value();
    return value;
  }
  std::string read_string(vm::Mm& mm, std::uint64_t at) {
    std::string text;
    for (char c = 0; (c = read<char>(mm, VirtAddr(at))) != '\0'; ++at) text += c;
    return text;
  }

  std::unique_ptr<Machine> machine_;
  file::FileSystem* fs_ = nullptr;
};

}  // namespace quire::kernel
