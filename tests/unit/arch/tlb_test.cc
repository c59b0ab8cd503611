#include "quire/arch/tlb.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace quire::arch {
namespace {

constexpr Rights kReadWrite = Rights::kUser | Rights::kWrite | Rights::kDirty;

WalkResult translation(std::uint64_t pa, Rights rights = kReadWrite, unsigned level = 1) {
  WalkResult walk;
  walk.outcome = WalkOutcome::kTranslated;
  walk.level = static_cast<std::uint8_t>(level);
  walk.rights = rights;
  walk.pa = PhysAddr(pa);
  return walk;
}
VirtAddr page(std::uint64_t n) { return VirtAddr(n << kPageShift); }

TEST(Tlb, EmptyTlbMisses) {
  Tlb tlb;
  EXPECT_EQ(tlb.lookup(1, page(5)), nullptr);
  EXPECT_EQ(tlb.lookup(0, VirtAddr(0)), nullptr);
  EXPECT_EQ(tlb.stats().misses, 2u);
  tlb.validate();
}

TEST(Tlb, RemembersWhatTheWalkFound) {
  Tlb tlb;
  tlb.insert(7, page(5), translation(0x9123, Rights::kUser));
  TlbEntry* entry = tlb.lookup(7, page(5) + 0x456);
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->translate(page(5) + 0x456), PhysAddr(0x9456));
  EXPECT_TRUE(entry->permits(Access::kRead, Privilege::kUser));
  EXPECT_FALSE(entry->permits(Access::kWrite, Privilege::kUser));
  EXPECT_FALSE(entry->permits(Access::kExec, Privilege::kUser));
  EXPECT_EQ(tlb.lookup(8, page(5)), nullptr);  // another address space
  EXPECT_EQ(tlb.lookup(7, page(6)), nullptr);
  EXPECT_EQ(tlb.stats().l1_hits, 1u);
  EXPECT_EQ(tlb.stats().misses, 2u);
}

TEST(Tlb, ACleanEntryDoesNotServeAWrite) {
  Tlb tlb;
  tlb.insert(1, page(1), translation(0x1000, Rights::kUser | Rights::kWrite));
  EXPECT_FALSE(tlb.lookup(1, page(1))->permits(Access::kWrite, Privilege::kUser));
  tlb.insert(1, page(1), translation(0x1000, kReadWrite));  // the second walk set D
  EXPECT_TRUE(tlb.lookup(1, page(1))->permits(Access::kWrite, Privilege::kUser));
  tlb.flush_page(1, page(1));
  EXPECT_EQ(tlb.lookup(1, page(1)), nullptr);  // and replaced the first entry everywhere
  tlb.validate();
}

TEST(Tlb, HugeEntriesCoverTheirWholePage) {
  Tlb tlb;
  const VirtAddr two_m(5 * kPmdSize);
  tlb.insert(1, two_m + 0x12345, translation(8 * kPmdSize + 0x12345, kReadWrite, 2));
  for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{0x3456}, kPmdSize - 1}) {
    TlbEntry* entry = tlb.lookup(1, two_m + offset);
    ASSERT_NE(entry, nullptr) << offset;
    EXPECT_EQ(entry->translate(two_m + offset), PhysAddr(8 * kPmdSize + offset));
    EXPECT_EQ(entry->level, 2u);
  }
  EXPECT_EQ(tlb.lookup(1, two_m + kPmdSize), nullptr);

  const VirtAddr one_g(7 * kPudSize);
  tlb.insert(1, one_g, translation(2 * kPudSize, kReadWrite, 3));
  EXPECT_EQ(tlb.lookup(1, one_g + 0x2345'6789)->translate(one_g + 0x2345'6789), PhysAddr(2 * kPudSize + 0x2345'6789));
  tlb.validate();
  tlb.flush_page(1, two_m + 0x5000);
  EXPECT_EQ(tlb.lookup(1, two_m), nullptr);
  EXPECT_NE(tlb.lookup(1, one_g), nullptr);
  tlb.flush_range(1, {one_g + 0x1000, one_g + 0x2000});
  EXPECT_EQ(tlb.lookup(1, one_g), nullptr);
  tlb.validate();
}

TEST(Tlb, WhatL1LosesL2StillHas) {
  Tlb tlb;
  for (std::uint64_t n = 0; n < 1000; ++n) tlb.insert(1, page(n), translation(n << kPageShift));
  for (std::uint64_t n = 0; n < 1000; ++n) {
    TlbEntry* entry = tlb.lookup(1, page(n));
    ASSERT_NE(entry, nullptr) << n;
    EXPECT_EQ(entry->translate(page(n)), PhysAddr(n << kPageShift));
  }
  EXPECT_EQ(tlb.stats().misses, 0u);
  EXPECT_GT(tlb.stats().l2_hits, 900u);
  tlb.validate();
}

TEST(Tlb, CapacityIsThatOfL2) {
  Tlb tlb;
  for (std::uint64_t n = 0; n < 1536; ++n) tlb.insert(1, page(n), translation(n << kPageShift));
  EXPECT_EQ(tlb.stats().evictions, 0u);
  for (std::uint64_t n = 1536; n < 3072; ++n) tlb.insert(1, page(n), translation(n << kPageShift));
  EXPECT_EQ(tlb.stats().evictions, 1536u);
  unsigned kept = 0;
  tlb.for_each([&](const TlbEntry&) { ++kept; });
  EXPECT_EQ(kept, 1536u + 64u);
  tlb.validate();
}

TEST(Tlb, TheUnreferencedWayIsTheVictim) {
  TlbConfig tiny;
  tiny.l1_4k = {1, 1};
  tiny.l2 = {4, 4};
  Tlb tlb(tiny);
  for (std::uint64_t n = 0; n < 4; ++n) tlb.insert(1, page(n), translation(n << kPageShift));
  tlb.insert(1, page(4), translation(0x4000));  // all referenced: cleared, the first goes
  EXPECT_EQ(tlb.lookup(1, page(0)), nullptr);
  EXPECT_NE(tlb.lookup(1, page(1)), nullptr);  // referenced again
  tlb.insert(1, page(5), translation(0x5000));
  EXPECT_EQ(tlb.lookup(1, page(2)), nullptr);  // so 2 was the victim
  EXPECT_NE(tlb.lookup(1, page(1)), nullptr);
  EXPECT_NE(tlb.lookup(1, page(3)), nullptr);
  tlb.validate();
}

TEST(Tlb, FlushesReachWhatTheyNameAndNothingElse) {
  Tlb tlb;
  for (const Asid asid : {1u, 2u}) {
    for (std::uint64_t n = 0; n < 500; ++n) tlb.insert(asid, page(n), translation(n << kPageShift));
  }
  tlb.flush_page(1, page(7) + 99);
  tlb.flush_range(1, {page(10), page(20)});
  tlb.flush_range(1, {page(100), page(400)});  // long enough for the other way of doing it
  for (std::uint64_t n = 0; n < 500; ++n) {
    const bool gone = n == 7 || (n >= 10 && n < 20) || (n >= 100 && n < 400);
    EXPECT_EQ(tlb.lookup(1, page(n)) == nullptr, gone) << n;
    EXPECT_NE(tlb.lookup(2, page(n)), nullptr) << n;
  }
  tlb.flush_asid(2);
  EXPECT_EQ(tlb.lookup(2, page(450)), nullptr);
  EXPECT_NE(tlb.lookup(1, page(450)), nullptr);
  tlb.flush_all();
  EXPECT_EQ(tlb.lookup(1, page(450)), nullptr);
  tlb.for_each([](const TlbEntry&) { ADD_FAILURE(); });
  EXPECT_EQ(tlb.stats().flush_page, 1u);
  EXPECT_EQ(tlb.stats().flush_range, 2u);
  EXPECT_EQ(tlb.stats().flush_asid, 1u);
  EXPECT_EQ(tlb.stats().flush_all, 1u);
  tlb.validate();
}

TEST(Tlb, AFlushedAddressSpaceTakesNoWayFromALivingOne) {
  TlbConfig tiny;
  tiny.l1_4k = {4, 4};
  tiny.l2 = {8, 8};
  Tlb tlb(tiny);
  for (std::uint64_t n = 0; n < 4; ++n) tlb.insert(1, page(n), translation(n << kPageShift));
  for (std::uint64_t n = 4; n < 8; ++n) tlb.insert(2, page(n), translation(n << kPageShift));
  tlb.flush_asid(2);
  EXPECT_EQ(tlb.stats().flushed_entries, 4u + 4u);  // L1 held the last four as well
  for (std::uint64_t n = 8; n < 12; ++n) tlb.insert(3, page(n), translation(n << kPageShift));
  EXPECT_EQ(tlb.stats().evictions, 0u);
  for (std::uint64_t n = 0; n < 4; ++n) EXPECT_NE(tlb.lookup(1, page(n)), nullptr) << n;
  for (std::uint64_t n = 4; n < 8; ++n) EXPECT_EQ(tlb.lookup(2, page(n)), nullptr) << n;
  tlb.validate();
  tlb.flush_asid(2);  // there is nothing: counted as a call, no entry goes
  EXPECT_EQ(tlb.stats().flushed_entries, 8u);
}

TEST(Tlb, AnIdThatWasFlushedOftenStillTellsOldFromNew) {
  Tlb tlb;
  for (std::uint64_t round = 0; round < 5000; ++round) {
    tlb.insert(4, page(round % 3), translation(round << kPageShift));
    ASSERT_EQ(tlb.lookup(4, page(round % 3))->frame, PhysAddr(round << kPageShift));
    ASSERT_EQ(tlb.lookup(4, page((round + 1) % 3)), nullptr);
    tlb.flush_asid(4);
    ASSERT_EQ(tlb.lookup(4, page(round % 3)), nullptr);
  }
  tlb.validate();
}

TEST(Tlb, GlobalEntriesServeEveryoneUntilAFlushThatNamesThem) {
  Tlb tlb;
  const VirtAddr kernel = page(1000);
  const WalkResult global = translation(0x77000, Rights::kWrite | Rights::kDirty | Rights::kGlobal);
  tlb.insert(1, kernel, global);
  tlb.insert(1, page(5), translation(0x5000));
  for (const Asid asid : {1u, 2u, kAsidMax}) {
    ASSERT_NE(tlb.lookup(asid, kernel + 0x123), nullptr) << asid;
    EXPECT_EQ(tlb.lookup(asid, kernel + 0x123)->translate(kernel + 0x123), PhysAddr(0x77123));
  }
  EXPECT_EQ(tlb.staleness(2, kernel, WalkResult()), Staleness::kUnmapped);
  tlb.flush_asid(1);
  EXPECT_EQ(tlb.lookup(1, page(5)), nullptr);
  EXPECT_NE(tlb.lookup(1, kernel), nullptr);
  tlb.flush_nonglobal();
  EXPECT_NE(tlb.lookup(3, kernel), nullptr);
  tlb.validate();
  tlb.flush_page(2, kernel);  // INVLPG, from whatever address space
  EXPECT_EQ(tlb.lookup(1, kernel), nullptr);
  tlb.insert(1, kernel, global);
  tlb.flush_all();
  EXPECT_EQ(tlb.lookup(1, kernel), nullptr);
  tlb.validate();
}

TEST(Tlb, AnEmptyRangeFlushesNothing) {
  Tlb tlb;
  tlb.insert(1, page(3), translation(0x3000));
  tlb.flush_range(1, {page(3), page(3)});
  EXPECT_NE(tlb.lookup(1, page(3)), nullptr);
}

TEST(Tlb, StalenessNamesWhatChanged) {
  Tlb tlb;
  const VirtAddr va = page(9);
  EXPECT_EQ(tlb.staleness(1, va, WalkResult()), Staleness::kFresh);  // knows nothing, believes nothing
  tlb.insert(1, va, translation(0x9000, kReadWrite));
  EXPECT_EQ(tlb.staleness(1, va + 5, translation(0x9005)), Staleness::kFresh);
  EXPECT_EQ(tlb.staleness(1, va, translation(0x9000, kReadWrite | Rights::kExec)), Staleness::kFresh);
  EXPECT_EQ(tlb.staleness(1, va, WalkResult()), Staleness::kUnmapped);
  EXPECT_EQ(tlb.staleness(1, va, translation(0xa000)), Staleness::kOtherFrame);
  EXPECT_EQ(tlb.staleness(1, va, translation(0x9000, Rights::kUser | Rights::kDirty)), Staleness::kRights);
  EXPECT_EQ(tlb.staleness(1, va, translation(0x9000, Rights::kUser | Rights::kWrite)), Staleness::kDirty);
  EXPECT_EQ(tlb.staleness(2, va, WalkResult()), Staleness::kFresh);
}

#ifdef QUIRE_DEBUG
TEST(TlbDeathTest, TheCheckerCatchesAMissingFlush) {
  Tlb tlb;
  tlb.insert(1, page(9), translation(0x9000));
  tlb.check_against(1, page(9), translation(0x9000));
  EXPECT_DEATH(tlb.check_against(1, page(9), WalkResult()), "stale TLB entry for 0x9000 .* no longer mapped");
}
#endif

}  // namespace
}  // namespace quire::arch
