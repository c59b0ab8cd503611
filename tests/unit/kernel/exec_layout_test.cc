// Where execve lays a program, its heap, stack and vdso, drawn and not drawn.
#include <array>

#include "exec_test.h"

namespace quire::kernel {
namespace {

struct Places {
  VirtAddr program, mmap_base, stack, brk_gap_end, vdso;
  bool operator==(const Places&) const = default;
};

Places places(std::uint64_t seed, unsigned randomize_va_space, vm::Personality personality) {
  const auto machine = boot_with_data(32 * kMiB, seed);
  machine->vm().tunables().randomize_va_space = randomize_va_space;
  file::FileSystem& fs = machine->vfs().mount({});
  ElfBytes program(ET_DYN, 0);
  program.interpreter = "/ld.so";
  EXPECT_TRUE(fs.create("/program", std::make_unique<BytesBacking>(program.bytes())));
  EXPECT_TRUE(fs.create("/ld.so", std::make_unique<BytesBacking>(ElfBytes(ET_DYN, 0).bytes())));
  Places result;
  start(*machine, "old", [&](Process& self) {
    self.personality = personality;
    const std::array<std::string_view, 1> argv{"program"};
    ASSERT_TRUE(machine->processes().execve(self, {"/program", argv, {}}));
    const vm::Mm& mm = *self.mm;
    const VirtAddr begin = mm.start_code - 0x1000;
    result = {begin, mm.mmap_base, mm.start_stack, VirtAddr(mm.start_brk - begin), mm.vdso};
    EXPECT_EQ(begin.value() % kPageSize, 0u);
    EXPECT_EQ(mm.start_brk.value() % kPageSize, 0u);
    EXPECT_LE(mm.start_brk - begin, 0x5000 + 32 * kMiB);
    EXPECT_LE(mm.start_stack.value(), 0x7ffffffff000u);
    EXPECT_GE(mm.start_stack.value(), 0x7ffffffff000u - (16ull << 30) - 8 * kPageSize);
    EXPECT_LE(mm.mmap_base.value(), mm.start_stack.value() - 128 * kMiB + (16ull << 30));
  });
  EXPECT_TRUE(machine->run().done());
  return result;
}

TEST(ExecLayout, ASeedRepeatsItAndAnotherGivesAnother) {
  const Places one = places(1, 2, vm::Personality::kNone);
  EXPECT_EQ(places(1, 2, vm::Personality::kNone), one);
  const Places two = places(2, 2, vm::Personality::kNone);
  EXPECT_NE(two.program, one.program);
  EXPECT_NE(two.mmap_base, one.mmap_base);
  EXPECT_NE(two.stack, one.stack);
  EXPECT_NE(two.brk_gap_end, one.brk_gap_end);
  EXPECT_NE(two.vdso, one.vdso);
}

// Linux's vdso_addr: from the stack's end to where the last place in 2 MiB that takes all of it is.
TEST_F(ExecTest, TheVdsoIsDrawnFromTheRestOfItsTwoMiBOrTheNext) {
  constexpr std::uint64_t kLength = 6 * kPageSize;
  constexpr VirtAddr kTwoMiB{0x7ffff0000000};
  struct Place {
    VirtAddr stack, first, last;
  };
  const Place kPlaces[] = {
      {kTwoMiB, kTwoMiB, kTwoMiB + 2 * kMiB - kLength},
      {kTwoMiB + 1, kTwoMiB + kPageSize, kTwoMiB + 2 * kMiB - kLength},
      {kTwoMiB - 5 * kPageSize, kTwoMiB - 5 * kPageSize, kTwoMiB + 2 * kMiB - kLength},
      {kTwoMiB - 6 * kPageSize, kTwoMiB - 6 * kPageSize, kTwoMiB - 6 * kPageSize},
      {kTwoMiB - 9 * kPageSize, kTwoMiB - 9 * kPageSize, kTwoMiB - 6 * kPageSize},
      {VirtAddr(0x7fffffffe000), VirtAddr(0x7fffffffe000), VirtAddr(0x7fffffffe000)},  // user space ends
  };
  in_process([&](Process& self) {
    for (const Place& place : kPlaces) {
      self.mm->start_stack = place.stack;
      VirtAddr lowest{~std::uint64_t{0}};
      VirtAddr highest{0};
      for (unsigned draw = 0; draw < 8192; ++draw) {
        const VirtAddr at = machine_->vm().vdso_addr(*self.mm, kLength);
        EXPECT_EQ(page_offset(at), 0u);
        lowest = std::min(lowest, at);
        highest = std::max(highest, at);
      }
      EXPECT_EQ(lowest, place.first);
      EXPECT_EQ(highest, place.last);
    }
  });
}

TEST(ExecLayout, RandomizeVaSpace1LeavesTheHeapBehindTheProgram) {
  EXPECT_EQ(places(1, 1, vm::Personality::kNone).brk_gap_end, VirtAddr(0x5000));
  EXPECT_NE(places(1, 2, vm::Personality::kNone).brk_gap_end, VirtAddr(0x5000));
}

TEST(ExecLayout, OffBySysctlOrPersonalityIsTheSameForEverySeed) {
  const Places off = places(1, 0, vm::Personality::kNone);
  EXPECT_EQ(off.program, VirtAddr(0x555555554000));
  EXPECT_EQ(off.mmap_base, VirtAddr(0x7ffff7fff000));
  EXPECT_EQ(places(2, 0, vm::Personality::kNone), off);
  EXPECT_EQ(places(3, 2, vm::Personality::kAddrNoRandomize), off);
}

TEST(ExecLayout, TheCompatLayoutGoesUpwardsFromAThird) {
  const Places legacy = places(1, 0, vm::Personality::kAddrCompatLayout);
  EXPECT_EQ(legacy.mmap_base, VirtAddr(0x2aaaaaaab000));
  EXPECT_EQ(legacy.vdso, legacy.mmap_base + 0x5000 + 4 * kPageSize);  // behind the interpreter
}

}  // namespace
}  // namespace quire::kernel
