// What the tests of the manual pages' promises stand on: one test a promise, named by it.
#pragma once

#include "quire/file/iov_iter.h"
#include "vm_machine.h"

namespace quire::vm {

inline constexpr VirtAddr kArena{0x10000000};
inline constexpr MapFlags kPrivateAnon = MapFlags::kPrivate | MapFlags::kAnonymous;
inline constexpr MapFlags kSharedAnon = MapFlags::kShared | MapFlags::kAnonymous;

// A process with one arena. What a test leaves is checked, and nothing of it may stay when the process ends.
class PromiseTest : public ::testing::Test {
 protected:
  static VirtAddr page(std::uint64_t n) { return kArena + n * kPageSize; }
  static std::uint64_t bytes(std::uint64_t pages) { return pages * kPageSize; }

  Result<VirtAddr> map(VirtAddr at, std::uint64_t pages, Prot prot, MapFlags flags, file::File* file = nullptr,
                       std::uint64_t offset = 0) {
    return m_.vm.mmap(mm_, at, bytes(pages), prot, flags, file, offset);
  }
  // Anonymous memory at pages [first, first + count).
  void at(std::uint64_t first, std::uint64_t count, Prot prot = kRw, MapFlags more = MapFlags::kPrivate) {
    ASSERT_TRUE(map(page(first), count, prot, MapFlags::kAnonymous | MapFlags::kFixed | more));
  }
  Status advise(std::uint64_t first, std::uint64_t count, Advice advice) {
    return m_.vm.madvise(mm_, page(first), bytes(count), advice);
  }
  Status seal(std::uint64_t first, std::uint64_t count) { return m_.vm.mseal(mm_, page(first), bytes(count)); }
  AccessOutcome write(std::uint64_t n, std::uint8_t value) { return m_.write(mm_, page(n), value); }
  // The byte, or -signal.
  int read(std::uint64_t n) { return m_.read(mm_, page(n)); }
  std::string maps() { return layout(mm_, kArena); }
  // '1' for each resident page.
  std::string residency(std::uint64_t first, std::uint64_t count) {
    std::vector<std::uint8_t> vec(count);
    if (!m_.vm.mincore(mm_, page(first), bytes(count), vec)) return "error";
    std::string text;
    for (const std::uint8_t resident : vec) text += (resident & 1) != 0 ? '1' : '0';
    return text;
  }
  file::File& memfd(std::uint64_t pages, file::MemfdFlags flags = file::MemfdFlags::kAllowSealing) {
    file::File& file = *m_.vfs.memfd_create("promise", flags).value();
    EXPECT_TRUE(m_.vfs.ftruncate(file, bytes(pages)));
    files_.push_back(&file);
    return file;
  }
  file::File& disk_file(std::uint64_t pages, file::FileMode mode = file::FileMode::kRead | file::FileMode::kWrite) {
    file::File& file = m_.open("/file", bytes(pages), 1, mode);
    files_.push_back(&file);
    return file;
  }
  Mm& fork() {
    Mm& child = *m_.vm.dup_mm(mm_).value();
    children_.push_back(&child);
    return child;
  }
  void TearDown() override {
    m_.vm.validate();
    for (Mm* child : children_) m_.vm.mmput(*child);
    m_.vm.mmput(mm_);
    for (file::File* file : files_) m_.vfs.fput(*file);
    EXPECT_EQ(m_.vm.commit().committed_as(), 0u);
    m_.validate();
  }

  VmMachine m_;
  Mm& mm_ = m_.mm_alloc();

 private:
  std::vector<file::File*> files_;
  std::vector<Mm*> children_;
};

}  // namespace quire::vm
