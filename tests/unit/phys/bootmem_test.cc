#include "quire/phys/bootmem.h"

#include <gmock/gmock.h>

#include <cstring>
#include <vector>

#include "machine.h"
#include "quire/base/rng.h"

namespace quire::phys {
namespace {

using ::testing::HasSubstr;

Range<PhysAddr> pa(std::uint64_t begin, std::uint64_t end) { return {PhysAddr(begin), PhysAddr(end)}; }

// 16 MiB of memory of its own.
class BootmemTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kBytes = 16 * kMiB;
  BootmemTest() : memory_(kBytes, std::byte{0xee}), bootmem_(memory_.data()) {
    EXPECT_EQ(bootmem_.init_bootmem(Nid(0), Pfn(1), Pfn(0), Pfn(kBytes / kPageSize)), kBytes / kPageSize / 8);
  }
  std::vector<std::byte> memory_;
  Bootmem bootmem_;
};

TEST_F(BootmemTest, EverythingIsTakenUntilItIsFreed) {
  EXPECT_EQ(bootmem_.alloc_bootmem(1, 1, PhysAddr{}), std::nullopt);
  ASSERT_TRUE(bootmem_.free_bootmem(pa(2 * kMiB, 4 * kMiB)));
  EXPECT_EQ(bootmem_.alloc_bootmem(kPageSize, kPageSize, PhysAddr{}), PhysAddr(2 * kMiB));
}

TEST_F(BootmemTest, PartOfAFrameIsNeverFreeAndAlwaysTaken) {
  ASSERT_TRUE(bootmem_.free_bootmem(pa(2 * kMiB + 1, 2 * kMiB + 3 * kPageSize - 1)));
  EXPECT_FALSE(bootmem_.is_free(Pfn(512)));
  EXPECT_TRUE(bootmem_.is_free(Pfn(513)));
  EXPECT_FALSE(bootmem_.is_free(Pfn(514)));
  ASSERT_TRUE(bootmem_.free_bootmem(pa(4 * kMiB, 5 * kMiB)));
  ASSERT_TRUE(bootmem_.reserve_bootmem(pa(4 * kMiB + 4095, 4 * kMiB + 4097)));
  EXPECT_FALSE(bootmem_.is_free(Pfn(1024)));
  EXPECT_FALSE(bootmem_.is_free(Pfn(1025)));
  EXPECT_TRUE(bootmem_.is_free(Pfn(1026)));
}

TEST_F(BootmemTest, TheGoalIsALowerLimitUntilThereIsNothingAboveIt) {
  ASSERT_TRUE(bootmem_.free_bootmem(pa(1 * kMiB, 8 * kMiB)));
  EXPECT_EQ(bootmem_.alloc_bootmem(2 * kMiB, kPageSize, PhysAddr(6 * kMiB)), PhysAddr(6 * kMiB));
  EXPECT_EQ(bootmem_.alloc_bootmem(kPageSize, kPageSize, PhysAddr(6 * kMiB)), PhysAddr(1 * kMiB));
  EXPECT_EQ(bootmem_.alloc_bootmem(kPageSize, kPageSize, PhysAddr(64 * kMiB)), PhysAddr(1 * kMiB + kPageSize));
}

TEST_F(BootmemTest, SmallAllocationsShareAPage) {
  ASSERT_TRUE(bootmem_.free_bootmem(pa(1 * kMiB, 2 * kMiB)));
  const PhysAddr first(1 * kMiB);
  EXPECT_EQ(bootmem_.alloc_bootmem(100, 8, PhysAddr{}), first);
  EXPECT_EQ(bootmem_.alloc_bootmem(100, 8, PhysAddr{}), first + 104);
  EXPECT_EQ(bootmem_.alloc_bootmem(10, 64, PhysAddr{}), first + 256);
  EXPECT_TRUE(bootmem_.is_free(Pfn(257)));
  // One that leaves the page takes the next ones as needed.
  EXPECT_EQ(bootmem_.alloc_bootmem(2 * kPageSize, 8, PhysAddr{}), first + 272);
  EXPECT_FALSE(bootmem_.is_free(Pfn(258)));
  EXPECT_TRUE(bootmem_.is_free(Pfn(259)));
  // Page-aligned: a page of its own.
  EXPECT_EQ(bootmem_.alloc_bootmem(8, kPageSize, PhysAddr{}), first + 3 * kPageSize);
}

TEST_F(BootmemTest, WhatIsAllocatedIsZero) {
  ASSERT_TRUE(bootmem_.free_bootmem(pa(1 * kMiB, 2 * kMiB)));
  const auto at = bootmem_.alloc_bootmem(5000, 16, PhysAddr{});
  for (std::uint64_t i = 0; i < 5000; ++i) ASSERT_EQ(memory_[at->value() + i], std::byte{0});
}

TEST_F(BootmemTest, RangesOutsideAreRefusedAndChangeNothing) {
  ASSERT_TRUE(bootmem_.free_bootmem(pa(1 * kMiB, 2 * kMiB)));
  EXPECT_EQ(bootmem_.free_bootmem(pa(15 * kMiB, 17 * kMiB)).error(), Errno::kInval);
  EXPECT_EQ(bootmem_.reserve_bootmem(pa(17 * kMiB, 18 * kMiB)).error(), Errno::kInval);
  EXPECT_EQ(bootmem_.reserve_bootmem(pa(5, 5)).error(), Errno::kInval);
  EXPECT_FALSE(bootmem_.is_free(Pfn(15 * 256)));
  EXPECT_EQ(bootmem_.init_bootmem(Nid(1), Pfn(1), Pfn(5), Pfn(5)).error(), Errno::kInval);
  EXPECT_EQ(bootmem_.alloc_bootmem(0, 8, PhysAddr{}), std::nullopt);
  EXPECT_EQ(bootmem_.alloc_bootmem(~std::uint64_t{0} - 5000, 8, PhysAddr{}), std::nullopt);
}

// Against a map of bytes: nobody gets a byte twice, and all that nobody got is freed at the end.
TEST_F(BootmemTest, RandomAllocationsNeverOverlap) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Rng rng(seed);
    std::vector<std::byte> memory(kBytes);
    Bootmem bootmem(memory.data());
    static_cast<void>(bootmem.init_bootmem(Nid(0), Pfn(1), Pfn(0), Pfn(kBytes / kPageSize)));
    std::string used(kBytes, 'u');  // 'u' or '-', a byte each
    const auto is_free = [&used](std::uint64_t from, std::uint64_t bytes) {
      return std::memchr(used.data() + from, 'u', bytes) == nullptr;
    };
    std::memset(used.data() + 2 * kPageSize, '-', kBytes - 2 * kPageSize);
    ASSERT_TRUE(bootmem.free_bootmem(pa(2 * kPageSize, kBytes)));
    for (int op = 0; op < 300; ++op) {
      const std::uint64_t size = rng.chance(1, 3) ? 1 + rng.below(60000) : 1 + rng.below(500);
      const std::uint64_t align = std::uint64_t{1} << rng.below(15);
      const PhysAddr goal(rng.below(2) * rng.below(kBytes));
      if (rng.chance(1, 6)) {
        const std::uint64_t at = rng.below(kBytes - size);
        ASSERT_TRUE(bootmem.reserve_bootmem(pa(at, at + size)));
        std::memset(used.data() + at, 'u', size);
        continue;
      }
      const auto at = bootmem.alloc_bootmem(size, align, goal);
      if (!at) continue;
      ASSERT_EQ(at->value() % align, 0u) << "seed " << seed << " op " << op;
      ASSERT_TRUE(is_free(at->value(), size)) << "seed " << seed << " op " << op;
      std::memset(used.data() + at->value(), 'u', size);
    }
    std::uint64_t freed = 0;
    const std::uint64_t told = bootmem.free_all_bootmem([&](Nid, Range<Pfn> run, Bootmem::Frames what) {
      freed += run.size();
      if (what == Bootmem::Frames::kUnused) {
        ASSERT_TRUE(is_free(pfn_to_phys(run.begin).value(), run.size() * kPageSize));
      }
    });
    EXPECT_EQ(told, freed);
  }
}

TEST(BootWithBootmem, AMachineOf24BootsWithIt) {
  PhysConfig config = small_machine(256);
  config.alloc_policy = AllocPolicyKind::kLinux24;
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  PhysMem& mem = *machine.mem;
  const auto& log = mem.boot_log();
  EXPECT_THAT(log, ::testing::Contains(HasSubstr("Bootmem: node 0 [mem 0x0000000000001000-0x000000000ff")));
  EXPECT_THAT(log, ::testing::Contains(HasSubstr("free_all_bootmem: ")));
  EXPECT_THAT(log, ::testing::Contains(HasSubstr("mobility grouping off")));
  EXPECT_FALSE(mem.page_group_by_mobility());
  mem.validate();
  // The kernel is taken, the bitmap behind it is not any more.
  const Pfn kernel(16 * kMiB / kPageSize);
  EXPECT_TRUE(mem.pfn_to_page(kernel).test(PageFlag::kReserved));
  EXPECT_FALSE(mem.pfn_to_page(kernel + 4096).test(PageFlag::kReserved));
  EXPECT_TRUE(mem.pfn_to_page(Pfn(0)).test(PageFlag::kReserved));
  // What is reserved and what is free is all there is, as memblock has it.
  std::uint64_t free = 0;
  mem.memblock().for_each_free_range([&](Range<PhysAddr> r, Nid) {
    free += Range<Pfn>{phys_to_pfn(align_up(r.begin, kPageSize)), phys_to_pfn(r.end)}.size();
  });
  EXPECT_EQ(mem.totalram_pages(), free);
  EXPECT_EQ(mem.meminfo().freeram, free);
}

TEST(BootWithBootmem, NodesAndLargeMachines) {
  PhysConfig config = small_machine(8 * 1024);
  config.data_mode = DataMode::kDataless;
  config.alloc_policy = AllocPolicyKind::kLinux24;
  config.nodes = {{.bytes = 2 * kGiB}, {.bytes = 6 * kGiB}};
  TestMachine machine(config);
  ASSERT_TRUE(machine.mem) << machine.error;
  machine.mem->validate();
  EXPECT_GT(machine.mem->node(Nid(1)).managed_pages(), 5 * kGiB / kPageSize);
  Page* page = machine.mem->alloc_pages(Gfp::kKernel, Order(3), Nid(1));
  ASSERT_NE(page, nullptr);
  EXPECT_EQ(page->nid(), Nid(1));
}

TEST(BootWithBootmem, TooLittleMemoryIsSaid) {
  PhysConfig config = small_machine(20);
  config.alloc_policy = AllocPolicyKind::kLinux24;
  TestMachine machine(config);
  EXPECT_THAT(machine.error, HasSubstr("RAM too small"));
}

TEST(Mobility, IsOffWhereMemoryIsTooLittleForIt) {
  PhysConfig config = small_machine(9);
  config.kernel_reserved = kMiB;
  TestMachine small(config);
  ASSERT_TRUE(small.mem) << small.error;
  EXPECT_FALSE(small.mem->page_group_by_mobility());
  // All requests share pageblocks then.
  Page* kernel = small.mem->alloc_page(Gfp::kKernel);
  Page* user = small.mem->alloc_page(Gfp::kHighUserMovable);
  EXPECT_EQ(small.mem->page_to_pfn(*kernel).value() >> 9, small.mem->page_to_pfn(*user).value() >> 9);
  small.mem->free_page(*kernel);
  small.mem->free_page(*user);
  small.mem->validate();
  TestMachine large(small_machine(64));
  EXPECT_TRUE(large.mem->page_group_by_mobility());
}

}  // namespace
}  // namespace quire::phys
