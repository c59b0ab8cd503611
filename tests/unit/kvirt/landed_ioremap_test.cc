#include <gmock/gmock.h>

#include "kvirt_machine.h"
#include "quire/kvirt/frame_buffer.h"
#include "quire/kvirt/ioremap.h"
#include "quire/kvirt/register_file.h"

namespace quire::kvirt {
namespace {

using ::testing::HasSubstr;

constexpr PhysAddr kRegisters(0xfeb0'1040);  // not at the start of a page
constexpr PhysAddr kVideo(0xe000'0000);

struct IoremapTest : ::testing::Test {
  IoremapTest() : io(m.space->io()) {
    EXPECT_TRUE(io.bus().add({kRegisters, kRegisters + RegisterFile::kBytes}, registers));
    EXPECT_TRUE(io.bus().add({kVideo, kVideo + video.bytes()}, video));
  }
  arch::PteBits bits(IoMem at) { return m.space->init_mm().translate(at.va())->bits; }
  const std::string& last() { return m.space->log().last(); }

  KvirtMachine m;
  Ioremap& io;
  RegisterFile registers{0x8086'1234};
  FrameBuffer video{64, 32};
};

TEST_F(IoremapTest, RegistersAnswerWithTheirSideEffects) {
  const IoMem at = io.ioremap(kRegisters, RegisterFile::kBytes, "probe");
  ASSERT_TRUE(at);
  EXPECT_EQ(page_offset(at.va()), 0x40u);
  EXPECT_THAT(m.space->vmallocinfo(), HasSubstr("    8192 probe phys=0x00000000feb01000 ioremap\n"));
  EXPECT_EQ(io.readl(at + RegisterFile::kId), 0x8086'1234u);
  io.writel(7, at + RegisterFile::kId);
  EXPECT_EQ(io.readl(at + RegisterFile::kId), 0x8086'1234u);
  registers.raise(0b1011);
  io.writel(0b0010, at + RegisterFile::kStatus);
  EXPECT_EQ(io.readl(at + RegisterFile::kStatus), 0b1001u);
  EXPECT_EQ(io.readl(at + RegisterFile::kCounter), 0u);
  EXPECT_EQ(io.readl(at + RegisterFile::kCounter), 1u);
  io.writel(99, at + RegisterFile::kCounter);
  EXPECT_EQ(io.readl(at + RegisterFile::kCounter), 0u);
  io.writel(0xabcd, at + RegisterFile::kControl);
  EXPECT_EQ(registers.control(), 0xabcdu);
  const sim::Nanos before = m.scheduler.now();
  static_cast<void>(io.readl(at));
  EXPECT_EQ(m.scheduler.now() - before, registers.read_cost());
  EXPECT_EQ(m.space->log().warnings(), 0u);
  io.iounmap(at);
  m.validate();
}

TEST_F(IoremapTest, AFrameBufferIsMemoryThatTheHostSees) {
  const IoMem at = io.ioremap_wc(kVideo, video.bytes());
  ASSERT_TRUE(at);
  io.writel(0xff00'ff00, at + video.offset(3, 5));
  EXPECT_EQ(video.pixel(3, 5), 0xff00'ff00u);
  io.memset_io(at, std::byte(0x11), video.bytes());
  EXPECT_EQ(video.pixel(63, 31), 0x1111'1111u);
  std::array<std::byte, 21> text;
  std::ranges::fill(text, std::byte('x'));
  io.memcpy_toio(at + 13, text);
  std::array<std::byte, 23> back{};
  io.memcpy_fromio(back, at + 12);
  EXPECT_EQ(back[0], std::byte(0x11));
  EXPECT_EQ(back[1], std::byte('x'));
  EXPECT_EQ(back[21], std::byte('x'));
  EXPECT_EQ(back[22], std::byte(0x11));
  ASSERT_NE(io.native(at), nullptr);
  io.native(at)[4] = std::byte(9);
  EXPECT_EQ(io.readb(at + 4), 9);
  io.iounmap(at);
}

TEST_F(IoremapTest, TheTypeStandsInTheLeaf) {
  using arch::PteBits;
  const auto cache_bits = [&](IoMem at) { return bits(at) & (PteBits::kPat | PteBits::kPcd | PteBits::kPwt); };
  const struct {
    IoMem at;
    PteBits bits;
  } cases[] = {{io.ioremap(PhysAddr(0xf000'0000), 1), PteBits::kPcd},
               {io.ioremap_uc(PhysAddr(0xf000'1000), 1), PteBits::kPcd | PteBits::kPwt},
               {io.ioremap_wc(PhysAddr(0xf000'2000), 1), PteBits::kPwt},
               {io.ioremap_wt(PhysAddr(0xf000'3000), 1), PteBits::kPat | PteBits::kPcd | PteBits::kPwt},
               {io.ioremap_cache(PhysAddr(0xf000'4000), 1), PteBits::kNone}};
  for (const auto& c : cases) {
    ASSERT_TRUE(c.at);
    EXPECT_EQ(cache_bits(c.at), c.bits);
    EXPECT_EQ(cachemode2protval(pgprot2cachemode({cache_bits(c.at)})), c.bits);
  }
  EXPECT_EQ(io.memtype().count(), 5u);
  for (const auto& c : cases) io.iounmap(c.at);
  EXPECT_EQ(io.memtype().count(), 0u);
}

TEST_F(IoremapTest, LargeRangesGetLargeLeaves) {
  const IoMem gib = io.ioremap(PhysAddr(0x1'4000'0000), kGiB + 2 * kMiB + kPageSize);
  ASSERT_TRUE(gib);
  EXPECT_EQ(gib.va().value() % kGiB, 0u) << "aligned to its size, up to the largest leaf";
  const InitMm& tables = m.space->init_mm();
  EXPECT_EQ(tables.translate(gib.va())->level, arch::kPudLevel);
  EXPECT_EQ(tables.translate(gib.va() + kGiB)->level, arch::kPmdLevel);
  EXPECT_EQ(tables.translate(gib.va() + kGiB + 2 * kMiB)->level, arch::kPteLevel);
  EXPECT_EQ(tables.translate(gib.va() + kGiB + 12345)->pa, PhysAddr(0x1'4000'0000 + kGiB + 12345));
  const IoMem wt = io.ioremap_wt(PhysAddr(0x2'0000'0000), 2 * kMiB);
  EXPECT_TRUE(any(bits(wt), arch::PteBits::kPatLarge)) << "the third bit moves in a huge leaf";
  m.validate();
  io.iounmap(gib);
  io.iounmap(wt);
  EXPECT_EQ(tables.mapped_pages(), 0u);
  m.validate();
}

TEST_F(IoremapTest, LargeDevicesLeaveVmallocItsRoom) {
  std::vector<IoMem> devices;
  for (unsigned i = 0; i < 4; ++i) devices.push_back(io.ioremap(PhysAddr(0x1'4000'0000 + i * kGiB), kGiB));
  for (const IoMem at : devices) EXPECT_GE(at.va(), m.vmalloc().window().reach().end);
  void* p = m.vmalloc().vmalloc(8 * kMiB);
  EXPECT_NE(p, nullptr);
  m.vmalloc().vfree(p);
  m.validate();
}

TEST(IoremapOnI386, LeavesAndPhysicalBitsAreThoseOfThePageTables) {
  KvirtMachine pae({.arch = phys::Arch::kI386Pae});
  const IoMem high = pae.space->io().ioremap(PhysAddr(0x3'0000'0000), 4 * kMiB);
  ASSERT_TRUE(high);
  EXPECT_EQ(pae.space->init_mm().translate(high.va())->level, arch::kPmdLevel);
  EXPECT_EQ(pae.space->init_mm().translate(high.va() + 3 * kMiB)->pa, PhysAddr(0x3'0000'0000 + 3 * kMiB));
  EXPECT_FALSE(pae.space->io().ioremap(PhysAddr(0x10'0000'0000), kPageSize)) << "36 bits";
  pae.validate();
  KvirtMachine two({.arch = phys::Arch::kI386});
  const IoMem at = two.space->io().ioremap(PhysAddr(0xe000'0000), 4 * kMiB);
  ASSERT_TRUE(at);
  EXPECT_EQ(two.space->init_mm().translate(at.va())->level, arch::kPteLevel);
  EXPECT_FALSE(two.space->io().ioremap(PhysAddr(0x1'0000'0000), kPageSize)) << "32 bits";
  EXPECT_THAT(two.space->vmallocinfo(), HasSubstr("TestBody phys=0xe0000000 ioremap\n"));
  EXPECT_THAT(two.space->vmallocinfo(), testing::StartsWith("0xc4"));
  two.validate();
}

TEST_F(IoremapTest, WhatCannotBeMappedIsRefusedAndTold) {
  EXPECT_FALSE(io.ioremap(kVideo, 0));
  EXPECT_FALSE(io.ioremap(PhysAddr(~std::uint64_t{0} - 10), 100)) << "wraps around";
  EXPECT_EQ(m.space->log().warnings(), 0u) << "Linux says nothing either";
  EXPECT_FALSE(io.ioremap(PhysAddr(std::uint64_t{1} << 50), 100));
  EXPECT_THAT(last(), HasSubstr("ioremap: invalid physical address 4000000000000"));
  EXPECT_FALSE(io.ioremap(PhysAddr(0x200'0000), 0x2000));
  EXPECT_THAT(last(), HasSubstr("ioremap on RAM at 0x0000000002000000 - 0x0000000002001fff"));
  EXPECT_TRUE(io.ioremap(PhysAddr(0xf0000), kPageSize)) << "the firmware's ROM is no RAM of ours";
  EXPECT_EQ(io.memtype().count(), 1u);
  m.validate();
}

TEST_F(IoremapTest, TypesOfOneRangeMustNotContradict) {
  const IoMem wc = io.ioremap_wc(kVideo, video.bytes());
  const IoMem uc = io.ioremap(kVideo, kPageSize);
  ASSERT_TRUE(uc) << "uncached-minus takes what is there";
  EXPECT_EQ(bits(uc) & arch::PteBits::kPcd, arch::PteBits::kNone);
  EXPECT_FALSE(io.ioremap_wt(kVideo, kPageSize));
  EXPECT_THAT(last(), HasSubstr("ioremap error for 0xe0000000-0xe0001000, requested 0x4, got 0x1"));
  const IoMem wb = io.ioremap_cache(PhysAddr(0xd000'0000), kPageSize);
  EXPECT_FALSE(io.ioremap_wc(PhysAddr(0xd000'0000), kPageSize)) << "what is cached must not be bypassed";
  const IoMem next = io.ioremap_uc(PhysAddr(0xd000'1000), kPageSize);
  EXPECT_FALSE(io.ioremap(PhysAddr(0xd000'0000), 2 * kPageSize)) << "two types in one range";
  EXPECT_THAT(last(), HasSubstr("conflicting memory types d0000000-d0002000 uncached-minus<->write-back"));
  for (const IoMem at : {wc, uc, wb, next}) io.iounmap(at);
  EXPECT_EQ(io.memtype().count(), 0u);
  m.validate();
}

TEST_F(IoremapTest, BadAccessesReadAsOnesAndAreTold) {
  const IoMem at = io.ioremap(kRegisters, RegisterFile::kBytes);
  EXPECT_EQ(io.readl(at + 2), 0xffff'ffffu);
  EXPECT_THAT(last(), HasSubstr("not aligned to its width"));
  EXPECT_EQ(io.readb(at), 0xffu);
  EXPECT_THAT(last(), HasSubstr("the register file has no such register"));
  EXPECT_EQ(io.readl(at + 0x10), 0xffff'ffffu);
  EXPECT_THAT(last(), HasSubstr("no device answers at physical address 0xfeb01050"));
  io.writel(1, at + kPageSize);
  EXPECT_THAT(last(), HasSubstr("write of 4 bytes at 0x"));
  EXPECT_THAT(last(), HasSubstr("nothing is mapped there"));
  io.iounmap(at);
  EXPECT_EQ(io.readq(IoMem(align_down(at.va(), 8))), ~std::uint64_t{0});
  EXPECT_THAT(last(), HasSubstr("nothing is mapped there"));
  io.iounmap(at);
  EXPECT_THAT(last(), HasSubstr("iounmap: bad address 0x"));
  io.iounmap(IoMem(VirtAddr(0xffff'8880'0000'1000)));
  EXPECT_EQ(m.space->log().warnings(), 7u);
}

TEST_F(IoremapTest, ClaimsAreExclusive) {
  const Range<PhysAddr> range{kVideo, kVideo + video.bytes()};
  ASSERT_TRUE(io.request_mem_region(range, "video"));
  EXPECT_THAT(m.phys->iomem().text(), HasSubstr("e0000000-e0001fff : video"));
  EXPECT_EQ(io.request_mem_region({kVideo, kVideo + 8}, "other").error(), Errno::kBusy);
  EXPECT_EQ(io.request_mem_region({PhysAddr(0x200'0000), PhysAddr(0x200'1000)}, "ram").error(), Errno::kBusy);
  EXPECT_EQ(io.release_mem_region(range, "other").error(), Errno::kNoEnt);
  EXPECT_TRUE(io.release_mem_region(range, "video"));
  EXPECT_TRUE(io.request_mem_region({kVideo, kVideo + 8}, "other"));
}

TEST_F(IoremapTest, DevicesDoNotOverlap) {
  RegisterFile other{1};
  EXPECT_EQ(io.bus().add({kRegisters + 8, kRegisters + 24}, other).error(), Errno::kBusy);
  EXPECT_EQ(io.bus().add({kRegisters + 3, kRegisters + 5}, other).error(), Errno::kInval);
  constexpr PhysAddr kFree(0xd000'0000);
  FrameBuffer small{64, 16};
  EXPECT_EQ(io.bus().add({kFree, kFree + small.bytes() + 8}, small).error(), Errno::kInval) << "longer than the device";
  EXPECT_EQ(io.bus().find(kFree).device, nullptr);
  EXPECT_TRUE(io.bus().add({kFree, kFree + small.bytes() / 2}, small)) << "its beginning";
  EXPECT_TRUE(io.bus().remove(small));
  EXPECT_TRUE(io.bus().remove(registers));
  EXPECT_EQ(io.bus().remove(registers).error(), Errno::kNoEnt);
  EXPECT_TRUE(io.bus().add({kRegisters + 8, kRegisters + 24}, other));
}

TEST_F(IoremapTest, EveryAllocationFailingOnceIsSurvived) {
  bool finished = false;
  m.phys->set_fault_injection(&m.faults);
  m.slab->set_fault_injection(&m.faults);
  for (const sim::FaultPoint point : {sim::FaultPoint::kPageAlloc, sim::FaultPoint::kSlabAlloc}) {
    finished = false;
    for (unsigned nth = 1; !finished; ++nth) {
      ASSERT_LT(nth, 50u);
      m.faults.set(point, {.nth = nth});
      const std::uint64_t failures = m.faults.failures(point);
      const IoMem at = io.ioremap(PhysAddr(0x1'0000'0000), 3 * kMiB + kPageSize);
      finished = m.faults.failures(point) == failures;
      m.faults.set(point, {});
      ASSERT_EQ(static_cast<bool>(at), finished);
      io.iounmap(at);
      ASSERT_EQ(io.memtype().count(), 0u);
      m.validate();
    }
  }
}

}  // namespace
}  // namespace quire::kvirt
