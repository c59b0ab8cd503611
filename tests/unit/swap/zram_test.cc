#include "swap_machine.h"

namespace quire::swap {
namespace {

using phys::Folio;
using phys::VmEvent;

TEST(Zram, BytesComeBack) {
  SwapMachine m;
  Zram& zram = m.add_zram(32 * kMiB);
  m.run([&] {
    std::vector<SwapEntry> entries;
    for (std::uint64_t i = 0; i < 2000; ++i) entries.push_back(m.swap_out(m.anon_folio(i)));
    m.validate();
    const ZramStats stats = zram.mm_stat();
    EXPECT_EQ(stats.orig_data_size, 2000 * kPageSize);
    EXPECT_LT(stats.compr_data_size, stats.orig_data_size / 2);
    EXPECT_GE(stats.mem_used_total, stats.compr_data_size);
    EXPECT_LT(stats.mem_used_total, stats.compr_data_size * 11 / 10);
    for (std::uint64_t i = 0; i < 2000; ++i) {
      Folio& folio = m.swap_in(entries[i]);
      ASSERT_TRUE(m.holds(folio, i));
      m.put(folio);
    }
  });
  EXPECT_EQ(m.event(VmEvent::kPswpout), 2000);
  EXPECT_GE(m.event(VmEvent::kPswpin), 2000);
  EXPECT_EQ(zram.mm_stat().mem_used_total, 0u);
  EXPECT_EQ(zram.mm_stat().compr_data_size, 0u);
  m.validate();
}

// Each has a pool of its own; the descriptors and handles of all pools come from the same two caches.
TEST(Zram, TwoDevicesLiveSideBySide) {
  SwapMachine m;
  Zram& first = m.add_zram(16 * kMiB, 1);
  auto unused = Zram::create({.disksize = 16 * kMiB}, *m.phys, m.slab, m.scheduler);
  ASSERT_TRUE(unused.has_value());
  unused->reset();
  Zram& second = m.add_zram(16 * kMiB, 1);
  m.run([&] {
    std::vector<SwapEntry> entries;
    for (std::uint64_t i = 0; i < 1000; ++i) entries.push_back(m.swap_out(m.anon_folio(i)));
    EXPECT_GT(first.mm_stat().orig_data_size, 0u);
    EXPECT_GT(second.mm_stat().orig_data_size, 0u);
    m.validate();
    for (std::uint64_t i = 0; i < 1000; ++i) {
      Folio& folio = m.swap_in(entries[i]);
      ASSERT_TRUE(m.holds(folio, i));
      m.put(folio);
    }
  });
  m.validate();
}

TEST(Zram, NoMemoryForAPoolIsAnError) {
  SwapMachine m({.ram = 16 * kMiB});
  std::vector<phys::Page*> taken;
  while (phys::Page* page = m.phys->alloc_page(phys::Gfp::kNoWait | phys::Gfp::kNoWarn)) taken.push_back(page);
  for (int spare = 0; spare < 12; ++spare) {
    const auto made = Zram::create({.disksize = 4 * kMiB}, *m.phys, m.slab, m.scheduler);
    if (!made) {
      EXPECT_EQ(made.error(), Errno::kNoMem);
    }
    m.phys->free_page(*taken.back());
    taken.pop_back();
  }
  for (phys::Page* page : taken) m.phys->free_page(*page);
  m.validate();
}

TEST(Zram, StoreTakesFramesAndGivesThemBack) {
  SwapMachine m;
  Zram& zram = m.add_zram(32 * kMiB);
  m.run([&] {
    // Warm the caches of nodes, handles and descriptors.
    m.put(m.swap_in(m.swap_out(m.anon_folio(1))));
  });
  const std::uint64_t before = m.free_pages();
  std::vector<SwapEntry> entries;
  m.run([&] {
    for (std::uint64_t i = 0; i < 1000; ++i) entries.push_back(m.swap_out(m.anon_folio(i)));
  });
  const std::uint64_t used = zram.mm_stat().mem_used_total >> kPageShift;
  EXPECT_GE(before - m.free_pages(), used);
  EXPECT_EQ(static_cast<std::uint64_t>(m.phys->global_zone_page_state(phys::ZoneStat::kNrZspages)), used);
  m.run([&] {
    for (const SwapEntry e : entries) m.swap->swap_free(e);
  });
  EXPECT_EQ(zram.mm_stat().mem_used_total, 0u);
  EXPECT_EQ(m.phys->global_zone_page_state(phys::ZoneStat::kNrZspages), 0);
  EXPECT_EQ(zram.mm_stat().notify_free, 1001u);
  m.validate();
}

TEST(Zram, SameFilledPageTakesNoObject) {
  SwapMachine m;
  Zram& zram = m.add_zram(16 * kMiB);
  m.run([&] {
    Folio& folio = m.anon_folio(0);
    const std::uint64_t word = 0x0123456789abcdef;
    std::byte* bytes = m.phys->page_address(folio);
    for (std::size_t i = 0; i < kPageSize; i += 8) std::memcpy(bytes + i, &word, 8);
    const SwapEntry entry = m.swap_out(folio);
    EXPECT_EQ(zram.mm_stat().same_pages, 1u);
    EXPECT_EQ(zram.mm_stat().orig_data_size, kPageSize);
    EXPECT_EQ(zram.mm_stat().mem_used_total, 0u);
    Folio& back = m.swap_in(entry);
    std::byte* got = m.phys->page_address(back);
    for (std::size_t i = 0; i < kPageSize; i += 8) ASSERT_EQ(std::memcmp(got + i, &word, 8), 0);
    m.put(back);
  });
  EXPECT_EQ(zram.mm_stat().same_pages, 0u);
}

TEST(Zram, IncompressiblePageTakesAWholeFrame) {
  SwapMachine m;
  Zram& zram = m.add_zram(16 * kMiB);
  m.run([&] {
    Folio& folio = m.anon_folio(0);
    std::array<std::byte, kPageSize> noise;
    Rng rng(99);
    for (std::byte& b : noise) b = static_cast<std::byte>(rng());
    std::memcpy(m.phys->page_address(folio), noise.data(), kPageSize);
    const SwapEntry entry = m.swap_out(folio);
    EXPECT_EQ(zram.mm_stat().huge_pages, 1u);
    EXPECT_EQ(zram.mm_stat().mem_used_total, kPageSize);
    Folio& back = m.swap_in(entry);
    EXPECT_EQ(std::memcmp(m.phys->page_address(back), noise.data(), kPageSize), 0);
    m.put(back);
  });
  m.validate();
}

TEST(Zram, MemLimitFailsTheWriteAndKeepsThePage) {
  SwapMachine m;
  Zram& zram = m.add_zram(16 * kMiB, std::nullopt, {.mem_limit = 8 * kPageSize});
  m.run([&] {
    std::uint64_t i = 0;
    while (zram.mm_stat().failed_writes == 0) {
      Folio& folio = m.anon_folio(i++);
      phys::folio_set_locked(folio);
      ASSERT_TRUE(m.swap->add_to_swap(folio));
      ASSERT_TRUE(m.swap->swap_duplicate(SwapSystem::folio_swap_entry(folio)));
      phys::folio_clear_dirty(folio);
      const Status written = m.swap->swap_writepage(folio);
      EXPECT_FALSE(phys::folio_test_locked(folio));
      EXPECT_FALSE(phys::folio_test_writeback(folio));
      if (!written) {
        EXPECT_EQ(written.error(), Errno::kNoMem);
        EXPECT_TRUE(phys::folio_test_dirty(folio));
        EXPECT_TRUE(phys::folio_test_error(folio));
      }
      ASSERT_LT(i, 100u);
    }
  });
  EXPECT_LE(zram.mm_stat().mem_used_total, 8 * kPageSize);
  EXPECT_EQ(m.swap->write_errors(), 1u);
  m.swap->validate();
}

TEST(Zram, DatalessStoreFollowsTheRatio) {
  SwapMachine m({.data_mode = phys::DataMode::kDataless});
  Zram& zram = m.add_zram(32 * kMiB);
  m.run([&] {
    std::vector<SwapEntry> entries;
    for (std::uint64_t i = 0; i < 3000; ++i) entries.push_back(m.swap_out(m.anon_folio(i)));
    const ZramStats stats = zram.mm_stat();
    EXPECT_EQ(stats.compr_data_size, 3000u * (kPageSize * 1000 / 3000));
    // 1365 bytes and a header: eleven objects to a zspage of four frames.
    EXPECT_EQ(stats.mem_used_total, (3000u + 10) / 11 * 4 * kPageSize);
    for (const SwapEntry e : entries) m.put(m.swap_in(e));
  });
  EXPECT_EQ(zram.mm_stat().mem_used_total, 0u);
  m.validate();
}

TEST(Zram, FaultMayLeaveTheCacheAside) {
  SwapMachine m;
  m.add_zram(16 * kMiB);
  m.run([&] {
    const SwapEntry entry = m.swap_out(m.anon_folio(5));
    ASSERT_TRUE(m.swap->should_skip_swap_cache(entry));
    const auto folio = m.swap->swapin_skip_cache(entry, phys::Gfp::kHighUserMovable);
    ASSERT_TRUE(folio);
    EXPECT_TRUE(phys::folio_test_locked(**folio));
    EXPECT_TRUE(phys::folio_test_uptodate(**folio));
    EXPECT_FALSE(phys::folio_test_swapcache(**folio));
    EXPECT_TRUE(m.holds(**folio, 5));
    // Nobody else gets at the slot meanwhile.
    EXPECT_FALSE(m.swap->should_skip_swap_cache(entry));
    EXPECT_EQ(m.swap->swapin_skip_cache(entry, phys::Gfp::kHighUserMovable).error(), Errno::kExist);
    m.swap->swap_free(entry);
    m.swap->swapcache_clear(entry);
    EXPECT_EQ(m.swap->si_swapinfo().free, m.swap->si_swapinfo().total);
    phys::folio_unlock(*m.phys, **folio);
    m.lru.lru_add_drain();
    m.put(**folio);
  });
  m.validate();
}

TEST(Zram, TimeOfCompressingIsCharged) {
  SwapMachine m;
  m.add_zram(16 * kMiB);
  m.run([&] {
    Folio& folio = m.anon_folio(5);
    const sim::Nanos start = m.scheduler.now();
    m.swap_out(folio);
    EXPECT_GE(m.scheduler.now() - start, m.scheduler.costs().zram_compress_page);
  });
}

TEST(Zram, RefusesSizesThatMakeNoSense) {
  SwapMachine m;
  EXPECT_EQ(Zram::create({.disksize = 0}, *m.phys, m.slab, m.scheduler).error(), Errno::kInval);
  EXPECT_EQ(Zram::create({.disksize = 8193}, *m.phys, m.slab, m.scheduler).error(), Errno::kInval);
  EXPECT_EQ(Zram::create({.disksize = kMiB, .ratio_permille = 999}, *m.phys, m.slab, m.scheduler).error(), Errno::kInval);
  const std::uint64_t free_before = m.free_pages();
  EXPECT_EQ(Zram::create({.disksize = kTiB}, *m.phys, m.slab, m.scheduler).error(), Errno::kNoMem);
  EXPECT_EQ(m.free_pages(), free_before);
}

}  // namespace
}  // namespace quire::swap
