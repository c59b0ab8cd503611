// What only a whole machine does: floors that call each other through the owner of both.
#include "quire/kernel/machine.h"

#include "small_machine.h"

namespace quire::kernel {
namespace {

TEST(Machine, PageoutAdviceGoesThroughReclaimAndTheBytesComeBack) {
  MachineConfig config;
  config.ram = 32 * kMiB;
  config.kernel_reserved = 4 * kMiB;
  config.data_mode = phys::DataMode::kData;
  config.swap.push_back(*parse_swap_spec("zram:32M"));
  const auto machine = std::move(*Machine::boot(config));
  vm::Vm& vm = machine->vm();
  start(*machine, "p", [&](Process& self) {
    constexpr std::uint64_t kPages = 600;  // more than one page table
    const VirtAddr at = *vm.mmap(*self.mm, VirtAddr(0), kPages * kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                                 vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0);
    const auto value = [](std::uint64_t i) { return std::array{static_cast<std::byte>(i % 251 + 1)}; };
    for (std::uint64_t i = 0; i < kPages; ++i) EXPECT_EQ(vm.copy_to_user(*self.mm, at + i * kPageSize + 9, value(i)), 1u);
    ASSERT_TRUE(vm.madvise(*self.mm, at, kPages * kPageSize, vm::Advice::kPageOut));
    EXPECT_EQ(self.mm->counter(vm::Rss::kSwapEnts), static_cast<std::int64_t>(kPages));
    EXPECT_EQ(self.mm->rss(), 0u);
    std::array<std::byte, 1> back{};
    for (std::uint64_t i = 0; i < kPages; ++i) {
      EXPECT_EQ(vm.copy_from_user(*self.mm, back, at + i * kPageSize + 9), 1u);
      ASSERT_EQ(back, value(i));
    }
  });
  ASSERT_TRUE(machine->run().done());
  machine->validate();
}

// One page table for all: what the kernel maps later shows in the root of a process that is there already, and not to it.
class MachineOf : public testing::TestWithParam<const char*> {};

TEST_P(MachineOf, EveryProcessSharesTheKernelsHalf) {
  MachineConfig config;
  config.ram = 32 * kMiB;
  config.kernel_reserved = 4 * kMiB;
  config.arch = GetParam();
  const auto machine = std::move(*Machine::boot(config));
  start(*machine, "p", [&](Process& self) {
    kvirt::KernelSpace& kernel = machine->kernel_space();
    auto* text = static_cast<char*>(kernel.vmalloc().vzalloc(3 * kPageSize));
    ASSERT_NE(text, nullptr);
    text[2 * kPageSize + 5] = 'k';
    const VirtAddr at = kernel.kva(text) + 2 * kPageSize + 5;
    const arch::PageTables& tables = machine->vm().pgtable().tables();
    const auto walk = tables.walk(self.mm->pgd, at, arch::Access::kRead, arch::Privilege::kKernel);
    ASSERT_TRUE(walk);
    EXPECT_EQ(*machine->phys().phys_to_virt(walk.pa), std::byte('k'));
    EXPECT_FALSE(tables.walk(self.mm->pgd, at, arch::Access::kRead, arch::Privilege::kUser));
    kernel.vmalloc().vfree(text);
    EXPECT_FALSE(tables.walk(self.mm->pgd, at, arch::Access::kRead, arch::Privilege::kKernel));
  });
  ASSERT_TRUE(machine->run().done());
  machine->validate();
}
INSTANTIATE_TEST_SUITE_P(Arch, MachineOf, testing::Values("x86-64", "x86-64-la57"),
                         [](const auto& one) { return std::string(one.param) == "x86-64" ? "FourLevels" : "FiveLevels"; });

TEST(Machine, FiveLevelsOfTablesServePastTheWindowUnderPressure) {
  MachineConfig config;
  config.ram = 24 * kMiB;
  config.kernel_reserved = 4 * kMiB;
  config.arch = "x86-64-la57";
  config.data_mode = phys::DataMode::kData;
  config.cpus = 2;
  config.swap.push_back(*parse_swap_spec("zram:64M"));
  const auto machine = std::move(*Machine::boot(config));
  vm::Vm& vm = machine->vm();
  start(*machine, "p", [&](Process& self) {
    constexpr std::uint64_t kPages = 6000;  // more than there is
    const VirtAddr high(std::uint64_t{0x00cd} << 48);
    const VirtAddr at = *vm.mmap(*self.mm, high, kPages * kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                                 vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0);
    ASSERT_EQ(at, high);
    const auto value = [](std::uint64_t i) { return std::array{static_cast<std::byte>(i % 241 + 1)}; };
    for (std::uint64_t i = 0; i < kPages; ++i) ASSERT_EQ(vm.copy_to_user(*self.mm, at + i * kPageSize, value(i)), 1u);
    std::array<std::byte, 1> back{};
    for (std::uint64_t i = 0; i < kPages; ++i) {
      ASSERT_EQ(vm.copy_from_user(*self.mm, back, at + i * kPageSize), 1u);
      ASSERT_EQ(back, value(i)) << i;
    }
    EXPECT_GT(self.mm->counter(vm::Rss::kSwapEnts), 0);
  });
  ASSERT_TRUE(machine->run().done());
  machine->settle();
  machine->validate();
}

}  // namespace
}  // namespace quire::kernel
