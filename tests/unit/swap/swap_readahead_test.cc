#include "swap_machine.h"

namespace quire::swap {
namespace {

using phys::Folio;
using phys::VmEvent;

constexpr phys::Gfp kGfp = phys::Gfp::kHighUserMovable;

std::vector<SwapEntry> swap_out_many(SwapMachine& m, std::uint64_t n) {
  std::vector<SwapEntry> entries;
  for (std::uint64_t i = 0; i < n; ++i) entries.push_back(m.swap_out(m.anon_folio(i)));
  return entries;
}

bool cached(SwapMachine& m, SwapEntry entry) {
  Folio* folio = m.swap->lookup_swap_cache(entry);
  if (folio != nullptr) m.lru.folio_put(*folio);
  return folio != nullptr;
}

void fault(SwapMachine& m, SwapEntry entry, SwapVmaWindow* window = nullptr) {
  Folio* folio = m.swap->lookup_swap_cache(entry, window);
  if (folio == nullptr) folio = m.swap->swapin_readahead(entry, kGfp, window);
  ASSERT_NE(folio, nullptr);
  phys::folio_wait_locked(*m.phys, *folio);
  EXPECT_TRUE(phys::folio_test_uptodate(*folio));
  m.lru.folio_put(*folio);
}

TEST(SwapReadahead, ClusterReadsTheAlignedBlock) {
  SwapMachine m;
  m.add_disk(16 * kMiB, std::nullopt, SwapDeviceFlags::kNone);
  m.run([&] {
    const std::vector<SwapEntry> entries = swap_out_many(m, 64);
    fault(m, entries[20]);  // 4 hits to begin with: a window of 8
    const std::uint64_t first = entries[20].offset & ~std::uint64_t{7};
    for (const SwapEntry e : entries) EXPECT_EQ(cached(m, e), e.offset >= first && e.offset < first + 8) << e.offset;
  });
  EXPECT_EQ(m.event(VmEvent::kSwapRa), 7);
  EXPECT_EQ(m.event(VmEvent::kPswpin), 8);
  m.validate();
}

TEST(SwapReadahead, WindowShrinksWithoutHits) {
  SwapMachine m;
  m.add_disk(16 * kMiB, std::nullopt, SwapDeviceFlags::kNone);
  m.run([&] {
    const std::vector<SwapEntry> entries = swap_out_many(m, 512);
    std::vector<std::int64_t> read;
    for (const std::size_t at : {20u, 100u, 300u, 200u, 400u}) {
      const std::int64_t before = m.event(VmEvent::kPswpin);
      Folio* folio = m.swap->swapin_readahead(entries[at], kGfp);
      ASSERT_NE(folio, nullptr);
      m.lru.folio_put(*folio);
      read.push_back(m.event(VmEvent::kPswpin) - before);
    }
    EXPECT_EQ(read, (std::vector<std::int64_t>{8, 4, 2, 1, 1}));
  });
}

TEST(SwapReadahead, PageClusterZeroReadsOnePage) {
  SwapMachine m;
  m.add_disk(16 * kMiB, std::nullopt, SwapDeviceFlags::kNone);
  m.swap->tunables().page_cluster = 0;
  m.run([&] { fault(m, swap_out_many(m, 64)[20]); });
  EXPECT_EQ(m.event(VmEvent::kPswpin), 1);
}

// A VMA of 512 pages whose page i was swapped out to entries[i].
class Window final : public SwapVmaWindow {
 public:
  explicit Window(const std::vector<SwapEntry>& entries) : entries_(entries) {}
  [[nodiscard]] VirtAddr address() const override { return kBase + at * kPageSize; }
  [[nodiscard]] Range<VirtAddr> bounds() const override { return {kBase, kBase + entries_.size() * kPageSize}; }
  [[nodiscard]] std::optional<SwapEntry> entry_at(VirtAddr va) override { return entries_[(va - kBase) / kPageSize]; }
  [[nodiscard]] std::uint64_t& readahead_info() override { return info_; }
  std::uint64_t at = 0;

 private:
  static constexpr VirtAddr kBase{0x7f0000000000};
  const std::vector<SwapEntry>& entries_;
  std::uint64_t info_ = 0;
};

TEST(SwapReadahead, VmaWindowRunsAheadOfASequence) {
  SwapMachine m;
  m.add_disk(16 * kMiB);
  m.run([&] {
    const std::vector<SwapEntry> entries = swap_out_many(m, 256);
    Window window(entries);
    for (window.at = 0; window.at < 256; ++window.at) fault(m, entries[window.at], &window);
  });
  EXPECT_EQ(m.event(VmEvent::kPswpin), 256);
  // Most faults found their page already there.
  EXPECT_GT(m.event(VmEvent::kSwapRaHit), 200);
  EXPECT_EQ(m.event(VmEvent::kSwapRa), m.event(VmEvent::kSwapRaHit));
  m.validate();
}

TEST(SwapReadahead, VmaWindowStaysInBounds) {
  SwapMachine m;
  m.add_disk(16 * kMiB);
  m.run([&] {
    const std::vector<SwapEntry> entries = swap_out_many(m, 4);
    Window window(entries);
    window.at = 3;
    fault(m, entries[3], &window);
    for (const SwapEntry e : entries) EXPECT_TRUE(cached(m, e));
  });
  EXPECT_EQ(m.event(VmEvent::kPswpin), 4);
}

}  // namespace
}  // namespace quire::swap
