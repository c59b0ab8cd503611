// Two tasks that change the same entries at the same time: one has cleared or cleaned them and given way before its flush, the
// other finds nothing left to do. When the other's call returns, no CPU may use what the first has changed.
#include <gtest/gtest.h>

#include "two_cpus.h"

namespace quire::vm {
namespace {

constexpr std::uint64_t kTablePages = 512;
constexpr VirtAddr kFirst{512 * kMiB};

class NestedGather : public testing::Test {
 protected:
  // Two page tables full of sevens. `first` runs on CPU 0 over both; as soon as the entry of page 0 is as `changed` says and
  // `first` has not yet returned, `second` runs on CPU 1, which has used page 0.
  void interleave(const std::function<void(Range<VirtAddr>)>& first, const std::function<bool(arch::Pte)>& changed,
                  const std::function<void()>& second) {
    two_.run([&] {
      mm_ = &m_.mm_alloc();
      m_.anon(*mm_, 2 * kTablePages, Prot::kRead | Prot::kWrite, MapFlags::kFixed | MapFlags::kPrivate, kFirst);
      for (std::uint64_t i = 0; i < 2 * kTablePages; ++i) ASSERT_TRUE(m_.write(*mm_, kFirst + i * kPageSize, 7).ok());
      two_.touch_on_other(*mm_, kFirst, arch::Access::kWrite);
      bool returned = false;
      bool met = false;
      two_.start_on_other([&] {
        while (!changed(*m_.vm.pgtable().pte_offset(*mm_, kFirst))) two_.pass_time();
        met = !returned;
        second();
      });
      first({kFirst, kFirst + 2 * kTablePages * kPageSize});
      returned = true;
      two_.finish_other();
      EXPECT_TRUE(met) << "the two calls did not overlap";
      after_();
      m_.vm.mmput(*mm_);
      m_.lru.lru_add_drain_all();
    });
    m_.validate();
    EXPECT_TRUE(two_.found.empty()) << two_.found.front();
  }

  TwoCpus two_;
  VmMachine& m_ = two_.m;
  Mm* mm_ = nullptr;
  std::function<void()> after_ = [] {};
};

TEST_F(NestedGather, WhatADiscardFindsDiscardedAlreadyIsZeroWhenItReturns) {
  interleave([&](Range<VirtAddr> all) { EXPECT_TRUE(m_.vm.madvise(*mm_, all.begin, all.size(), Advice::kDontNeed)); },
             [](arch::Pte pte) { return pte.none(); },
             [&] {
               EXPECT_TRUE(m_.vm.madvise(*mm_, kFirst, kPageSize, Advice::kDontNeed));
               EXPECT_EQ(m_.read(*mm_, kFirst), 0);
             });
}

TEST_F(NestedGather, AWriteAfterMadvFreeReturnedIsKept) {
  after_ = [&] {
    m_.lru.lru_add_drain_all();
    if (phys::Page* page = m_.page_at(*mm_, kFirst)) m_.reclaim(phys::page_folio(*page));
    EXPECT_EQ(m_.read(*mm_, kFirst), 9);
  };
  interleave([&](Range<VirtAddr> all) { EXPECT_TRUE(m_.vm.madvise(*mm_, all.begin, all.size(), Advice::kFree)); },
             [](arch::Pte pte) { return !arch::pte_dirty(pte); },
             [&] {
               EXPECT_TRUE(m_.vm.madvise(*mm_, kFirst, kPageSize, Advice::kFree));
               EXPECT_TRUE(m_.write(*mm_, kFirst, 9).ok());
             });
}

}  // namespace
}  // namespace quire::vm
