// Addresses against what kernels show: a 6.1 guest's /proc/vmallocinfo and meminfo (4 and 5 levels), and the "virtual kernel
// memory layout" of i386 kernels that still printed one.
#include <gmock/gmock.h>

#include <cstring>

#include "kvirt_machine.h"

namespace quire::kvirt {
namespace {

using phys::Gfp;
using ::testing::HasSubstr;

TEST(KernelLayout, X86_64) {
  KvirtMachine m;
  const KernelLayout& l = m.space->layout();
  EXPECT_EQ(l.page_offset, VirtAddr(0xffff'8880'0000'0000));
  EXPECT_EQ(l.high_memory, l.page_offset + pfn_to_phys(m.phys->max_pfn()).value());
  EXPECT_EQ(l.vmalloc, (Range<VirtAddr>{VirtAddr(0xffff'c900'0000'0000), VirtAddr(0xffff'e900'0000'0000)}));
  EXPECT_EQ(l.vmemmap.begin, VirtAddr(0xffff'ea00'0000'0000));
  EXPECT_EQ(l.fixaddr_top, VirtAddr(0xffff'ffff'ff7f'f000));
  EXPECT_EQ(m.vmalloc().vmalloc_total_kib(), 34359738367u);

  KvirtMachine five({.levels = 5});
  EXPECT_EQ(five.space->layout().vmalloc.begin, VirtAddr(0xffa0'0000'0000'0000));
  EXPECT_EQ(five.vmalloc().vmalloc_total_kib(), 13743895347199u);
  void* p = five.vmalloc().vzalloc(3 * kPageSize);
  EXPECT_EQ(five.space->kva(p), VirtAddr(0xffa0'0000'0000'0000));
  five.validate();
}

// fixmap, pkmap, vmalloc, lowmem as 2.6 to 4.14 printed them, for 896 MiB of lowmem.
TEST(KernelLayout, I386) {
  const KernelLayout two = KernelLayout::i386(phys::Arch::kI386, PhysAddr(896 * kMiB), 1);
  EXPECT_EQ(two.page_offset, VirtAddr(0xc000'0000));
  EXPECT_EQ(two.high_memory, VirtAddr(0xf800'0000));
  EXPECT_EQ(two.vmalloc, (Range<VirtAddr>{VirtAddr(0xf880'0000), VirtAddr(0xff7f'e000)}));
  EXPECT_EQ(two.pkmap, (Range<VirtAddr>{VirtAddr(0xff80'0000), VirtAddr(0xffc0'0000)}));
  EXPECT_EQ(two.fixaddr_top, VirtAddr(0xffff'f000));
  const KernelLayout pae = KernelLayout::i386(phys::Arch::kI386Pae, PhysAddr(896 * kMiB), 1);
  EXPECT_EQ(pae.vmalloc, (Range<VirtAddr>{VirtAddr(0xf880'0000), VirtAddr(0xffbf'e000)}));
  EXPECT_EQ(pae.pkmap, (Range<VirtAddr>{VirtAddr(0xffc0'0000), VirtAddr(0xffe0'0000)}));
  // A machine of 2 GiB with a PAE kernel, whose log says: pkmap 0xff800000 - 0xffa00000, vmalloc 0xf7ffe000 - 0xff7fe000, lowmem
  // 0xc0000000 - 0xf77fe000. Its fixmap has 936 pages; as many CPUs give us 935.
  const KernelLayout seen = KernelLayout::i386(phys::Arch::kI386Pae, PhysAddr(0x377f'e000), 50);
  EXPECT_EQ(seen.fixmap_slots, 935u);
  EXPECT_EQ(seen.high_memory, VirtAddr(0xf77f'e000));
  EXPECT_EQ(seen.vmalloc, (Range<VirtAddr>{VirtAddr(0xf7ff'e000), VirtAddr(0xff7f'e000)}));
  EXPECT_EQ(seen.pkmap, (Range<VirtAddr>{VirtAddr(0xff80'0000), VirtAddr(0xffa0'0000)}));
  for (const unsigned cpus : {1u, 8u, 64u}) {
    const KernelLayout l = KernelLayout::i386(phys::Arch::kI386, PhysAddr(896 * kMiB), cpus);
    EXPECT_LT(l.vmalloc.end, l.pkmap.begin);
    EXPECT_LT(l.pkmap.end, l.fixmap.begin);
    EXPECT_GT(l.vmalloc.size(), 100 * kMiB);
  }
}

TEST(InitMm, TheTopTablesStandFromBootOnAndCostNoFreePage) {
  KvirtMachine m;
  const InitMm& init_mm = m.space->init_mm();
  // 32 TiB are 64 entries of the root; its own frame; the fixmap's three tables.
  EXPECT_EQ(init_mm.boot_tables(), 64u + 1 + 4);
  EXPECT_EQ(init_mm.buddy_tables(), 0u);
  KvirtMachine without({.kernel_reserved = 0});
  EXPECT_EQ(without.space->init_mm().boot_tables(), 0u);
  EXPECT_EQ(without.space->init_mm().buddy_tables(), 64u + 1 + 4) << "no image: they come from the buddy";
  without.validate();
}

TEST(InitMm, ARootMadeAtAnyTimeSharesWhatIsMappedLater) {
  KvirtMachine m;
  phys::Page* root = m.phys->alloc_page(Gfp::kKernel | Gfp::kZero);
  m.space->init_mm().copy_kernel_half(m.phys->page_to_phys(*root));
  void* p = m.vmalloc().vmalloc(kPageSize);
  static_cast<char*>(p)[5] = 'q';
  const auto walk = m.space->init_mm().tables().walk(m.phys->page_to_phys(*root), m.space->kva(p) + 5, arch::Access::kRead,
                                                     arch::Privilege::kKernel);
  ASSERT_TRUE(walk);
  EXPECT_EQ(*m.phys->phys_to_virt(walk.pa), std::byte('q'));
  m.phys->free_page(*root);
}

// The first areas of a 6.1 guest with 512 MiB (no5lvl nokaslr no_hash_pointers), in the order in which they were made as far as
// addresses tell, asked for here with the same sizes and alignments.
TEST(Vmallocinfo, AreasFallWhereAGuestHasThem) {
  KvirtMachine m({.ram = 512 * kMiB});
  const auto vmalloc = [&](std::uint64_t bytes, std::uint64_t align, const char* caller) {
    return m.vmalloc().vmalloc_range({.size = bytes, .align = align, .caller = caller});
  };
  const std::vector<phys::Page*> stack = m.pages(4);
  constexpr std::uint64_t kThreadSize = 16 * kKiB;
  ASSERT_NE(m.vmalloc().vmap(stack, VmArea::kMap, arch::kPageKernel, "irq_init_percpu_irqstack"), nullptr);
  ASSERT_TRUE(m.space->io().ioremap_cache(PhysAddr(0x1ffe'1000), 1, "acpi_os_map_iomem"));
  ASSERT_TRUE(m.space->io().ioremap_cache(PhysAddr(0x1ffe'0000), 0x1001, "acpi_os_map_iomem"));
  ASSERT_TRUE(m.space->io().ioremap(PhysAddr(0xfed0'0000), 1024, "hpet_enable"));
  ASSERT_NE(vmalloc(kPageSize, 1, "bpf_prog_alloc_no_stats"), nullptr);
  for (unsigned i = 0; i < 3; ++i) {
    ASSERT_NE(vmalloc(kThreadSize, kThreadSize, "kernel_clone"), nullptr);
    ASSERT_NE(vmalloc(kPageSize, 1, "gen_pool_add_owner"), nullptr);
  }
  ASSERT_NE(vmalloc(kThreadSize, kThreadSize, "kernel_clone"), nullptr);
  EXPECT_EQ(m.space->vmallocinfo(),
            "0xffffc90000000000-0xffffc90000005000   20480 irq_init_percpu_irqstack vmap\n"
            "0xffffc90000005000-0xffffc90000007000    8192 acpi_os_map_iomem phys=0x000000001ffe1000 ioremap\n"
            "0xffffc90000008000-0xffffc9000000b000   12288 acpi_os_map_iomem phys=0x000000001ffe0000 ioremap\n"
            "0xffffc9000000b000-0xffffc9000000d000    8192 hpet_enable phys=0x00000000fed00000 ioremap\n"
            "0xffffc9000000d000-0xffffc9000000f000    8192 bpf_prog_alloc_no_stats pages=1 vmalloc N0=1\n"
            "0xffffc90000010000-0xffffc90000015000   20480 kernel_clone pages=4 vmalloc N0=4\n"
            "0xffffc90000015000-0xffffc90000017000    8192 gen_pool_add_owner pages=1 vmalloc N0=1\n"
            "0xffffc90000018000-0xffffc9000001d000   20480 kernel_clone pages=4 vmalloc N0=4\n"
            "0xffffc9000001d000-0xffffc9000001f000    8192 gen_pool_add_owner pages=1 vmalloc N0=1\n"
            "0xffffc90000020000-0xffffc90000025000   20480 kernel_clone pages=4 vmalloc N0=4\n"
            "0xffffc90000025000-0xffffc90000027000    8192 gen_pool_add_owner pages=1 vmalloc N0=1\n"
            "0xffffc90000028000-0xffffc9000002d000   20480 kernel_clone pages=4 vmalloc N0=4\n");
}

TEST(Kvmalloc, SmallIsKmallocAndWhatIsTooLargeForItIsVmalloc) {
  KvirtMachine m;
  Kvmalloc& kv = m.space->kv();
  void* small = kv.kvmalloc(100, Gfp::kKernel);
  void* large = kv.kvzalloc(8 * kMiB, Gfp::kKernel, "large");
  EXPECT_FALSE(m.vmalloc().is_vmalloc_addr(small));
  EXPECT_TRUE(m.vmalloc().is_vmalloc_addr(large));
  EXPECT_EQ(static_cast<char*>(large)[8 * kMiB - 1], 0);
  EXPECT_THAT(m.space->vmallocinfo(), HasSubstr("large pages=2048 vmalloc"));
  kv.kvfree(small);
  kv.kvfree(large);
  kv.kvfree(nullptr);
  EXPECT_EQ(kv.kvmalloc_array(~std::size_t{0} / 2, 3, Gfp::kKernel), nullptr);
  EXPECT_EQ(kv.kvmalloc(8 * kMiB, Gfp::kNoWait), nullptr) << "vmalloc may sleep";
  EXPECT_EQ(kv.kvmalloc(std::size_t{1} << 32, Gfp::kKernel), nullptr);
  EXPECT_THAT(m.space->log().last(), HasSubstr("beyond INT_MAX"));
  m.validate();
}

TEST(Kvmalloc, ReallocKeepsTheBytes) {
  KvirtMachine m;
  Kvmalloc& kv = m.space->kv();
  auto* p = static_cast<char*>(kv.kvmalloc(100, Gfp::kKernel));
  std::memset(p, 'k', 100);
  auto* q = static_cast<char*>(kv.kvrealloc(p, 100, 6 * kMiB, Gfp::kKernel));
  ASSERT_TRUE(m.vmalloc().is_vmalloc_addr(q));
  EXPECT_EQ(std::string(q, 100), std::string(100, 'k'));
  EXPECT_EQ(kv.kvrealloc(q, 6 * kMiB, 10, Gfp::kKernel), q);
  EXPECT_EQ(kv.kvrealloc(q, 6 * kMiB, 100 * kMiB, Gfp::kKernel), nullptr);
  EXPECT_EQ(q[99], 'k') << "stays as it was";
  kv.kvfree(q);
  m.validate();
}

}  // namespace
}  // namespace quire::kvirt
