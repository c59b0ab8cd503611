// Page faults on files: read-around, fault-around, the first write to a shared page.
#include "file_machine.h"

namespace quire::file {
namespace {

using phys::VmEvent;

std::unique_ptr<BackingSource> generated(std::uint64_t size) { return std::make_unique<GeneratedBacking>(size, 3); }

// Faults a page in and lets it go; the cost of the fault.
FaultCost touch(FileMachine& m, File& file, std::uint64_t index, FaultHint hint = FaultHint::kNormal) {
  const Result<FilemapFault> fault = file.sb().fault(file, Pgoff(index), hint);
  EXPECT_TRUE(fault.has_value());
  if (!fault) return FaultCost::kMinor;
  EXPECT_TRUE(phys::folio_test_uptodate(*fault->folio));
  EXPECT_EQ(fault->folio->index, index);
  m.vfs->filemap().folio_put(*fault->folio);
  return fault->cost;
}

TEST(FilemapFault, ReadsAroundTheFault) {
  FileMachine m;
  File& file = m.create("a", generated(kMiB));
  m.run([&] {
    EXPECT_EQ(touch(m, file, 100), FaultCost::kMajor);
    EXPECT_FALSE(m.cached(file, 83));
    EXPECT_TRUE(m.cached(file, 84));
    EXPECT_TRUE(m.cached(file, 115));
    EXPECT_FALSE(m.cached(file, 116));
    EXPECT_EQ(m.marker(file), 108u);
    EXPECT_EQ(touch(m, file, 90), FaultCost::kMinor);
    EXPECT_EQ(touch(m, file, 5), FaultCost::kMajor);
    EXPECT_EQ(m.cache_map(file, 40), "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx........");
  });
  EXPECT_EQ(m.event(VmEvent::kPgmajfault), 2);
}

TEST(FilemapFault, FollowsTheAreasAdvice) {
  FileMachine m;
  File& file = m.create("a", generated(kMiB));
  m.run([&] {
    touch(m, file, 100, FaultHint::kRandom);
    EXPECT_EQ(file.mapping().nrpages(), 1u);
    touch(m, file, 0, FaultHint::kSequential);
    EXPECT_EQ(m.cache_map(file, 34), "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..");
  });
}

TEST(FilemapFault, GivesUpReadAroundAfterManyMisses) {
  FileMachine m({.ram = 128 * kMiB});
  File& file = m.create("a", generated(64 * kMiB));
  m.run([&] {
    for (std::uint64_t i = 0; i < 100; ++i) touch(m, file, 20 + i * 64);
    const std::uint64_t before = file.mapping().nrpages();
    touch(m, file, 20 + 100 * 64);
    touch(m, file, 20 + 101 * 64);
    EXPECT_EQ(file.mapping().nrpages(), before + 2);
  });
}

TEST(FilemapFault, FailsBeyondTheEnd) {
  FileMachine m;
  File& file = m.create("a", generated(kPageSize + 1));
  m.run([&] {
    EXPECT_EQ(file.sb().fault(file, Pgoff(2), FaultHint::kNormal).error(), Errno::kFault);
    touch(m, file, 1);
  });
}

TEST(FilemapMapPages, OffersWhatIsCachedUptodateAndUnmarked) {
  FileMachine m;
  File& file = m.create("a", generated(kMiB));
  m.run([&] {
    touch(m, file, 16);  // pages 0 to 31, the marker at 24
    std::string seen;
    std::vector<phys::Folio*> kept;
    file.sb().map_pages(file, Pgoff(20), Pgoff(40), [&](phys::Folio& folio, Pgoff index) {
      EXPECT_TRUE(phys::folio_test_locked(folio));
      seen += std::to_string(index.value()) + " ";
      if (index.value() != 21) return MapPage::kSkipped;
      kept.push_back(&folio);
      return MapPage::kMapped;
    });
    EXPECT_EQ(seen, "20 21 22 23 25 26 27 28 29 30 31 ");
    ASSERT_EQ(kept.size(), 1u);
    m.lru.lru_add_drain_all();
    EXPECT_EQ(phys::folio_ref_count(*kept[0]), 2);
    m.vfs->filemap().folio_put(*kept[0]);
  });
  m.validate();
}

TEST(PageMkwrite, LocksAndDirtiesAndNoticesTruncation) {
  FileMachine m;
  File& file = m.create("a", generated(3 * kPageSize));
  m.run([&] {
    const Result<FilemapFault> fault = file.sb().fault(file, Pgoff(1), FaultHint::kNormal);
    ASSERT_TRUE(fault.has_value());
    phys::Folio& folio = *fault->folio;
    ASSERT_TRUE(file.sb().page_mkwrite(file, folio));
    EXPECT_TRUE(phys::folio_test_locked(folio));
    EXPECT_TRUE(phys::folio_test_dirty(folio));
    phys::folio_unlock(*m.phys, folio);
    ASSERT_TRUE(m.vfs->ftruncate(file, 0));
    EXPECT_EQ(file.sb().page_mkwrite(file, folio).error(), Errno::kFault);
    m.vfs->filemap().folio_put(folio);
  });
  m.validate();
}

// The upcalls of a floor that maps files.
struct Mappings final : MappingUpcalls {
  void unmap_mapping_pages(AddressSpace&, Pgoff first, std::uint64_t count, EvenCows) override {
    unmapped.push_back({first, count});
  }
  int folio_mkclean(phys::Folio& folio) override {
    ++cleaned;
    return phys::folio_mapped(folio) ? 1 : 0;
  }
  struct Call {
    Pgoff first;
    std::uint64_t count;
  };
  std::vector<Call> unmapped;
  int cleaned = 0;
};

TEST(MappingUpcalls, TruncateUnmapsAndWritingCleans) {
  FileMachine m;
  Mappings mappings;
  m.vfs->filemap().set_upcalls(&mappings);
  File& file = m.create("a", generated(8 * kPageSize));
  MappingNode area;
  {
    const sim::WriteGuard guard(file.mapping().i_mmap_rwsem());
    file.mapping().i_mmap_insert(area, Pgoff(0), 8);
  }
  m.run([&] {
    const Result<FilemapFault> fault = file.sb().fault(file, Pgoff(1), FaultHint::kNormal);
    ASSERT_TRUE(fault.has_value());
    phys::Folio& folio = *fault->folio;
    ++folio.mapcount;
    // Not dirty as far as the cache knows, but a store went through the page table.
    ASSERT_TRUE(m.write(file, 0, FileMachine::pattern(2 * kPageSize, 9)).has_value());
    ASSERT_TRUE(m.vfs->fsync(file, SyncKind::kFsync));
    EXPECT_EQ(mappings.cleaned, 1);
    --folio.mapcount;
    m.vfs->filemap().folio_put(folio);
    ASSERT_TRUE(m.vfs->ftruncate(file, 3 * kPageSize + 5));
  });
  ASSERT_EQ(mappings.unmapped.size(), 2u);
  EXPECT_EQ(mappings.unmapped[0].first, Pgoff(4));
  std::vector<MappingNode*> found;
  {
    const sim::WriteGuard guard(file.mapping().i_mmap_rwsem());
    file.mapping().i_mmap_for_each(Pgoff(7), Pgoff(9), [&](MappingNode& node) { found.push_back(&node); });
    file.mapping().i_mmap_remove(area);
  }
  EXPECT_EQ(found, std::vector<MappingNode*>{&area});
  m.vfs->filemap().set_upcalls(nullptr);
}

// As Linux reckons: a hole that ends within the first page takes all behind it out of its mappings.
TEST(MappingUpcalls, AHoleUnmapsItsWholePagesAndInTheFirstPageAll) {
  FileMachine m;
  Mappings mappings;
  m.vfs->filemap().set_upcalls(&mappings);
  File& file = m.shmem(8 * kPageSize);
  MappingNode area;
  {
    const sim::WriteGuard guard(file.mapping().i_mmap_rwsem());
    file.mapping().i_mmap_insert(area, Pgoff(0), 8);
  }
  const auto punch = [&](std::uint64_t offset, std::uint64_t len) {
    mappings.unmapped.clear();
    EXPECT_TRUE(m.vfs->fallocate(file, FallocateMode::kPunchHole | FallocateMode::kKeepSize, offset, len));
    return mappings.unmapped;
  };
  m.run([&] {
    auto unmapped = punch(kPageSize + 5, 3 * kPageSize);
    ASSERT_EQ(unmapped.size(), 1u);
    EXPECT_EQ(unmapped[0].first, Pgoff(2));
    EXPECT_EQ(unmapped[0].count, 2u);
    EXPECT_TRUE(punch(kPageSize + 5, 100).empty());
    unmapped = punch(5, 100);
    ASSERT_EQ(unmapped.size(), 1u);
    EXPECT_EQ(unmapped[0].first, Pgoff(1));
    EXPECT_GE(unmapped[0].count, 7u);
    unmapped = punch(0, kPageSize);
    ASSERT_EQ(unmapped.size(), 1u);
    EXPECT_EQ(unmapped[0].count, 1u);
  });
  {
    const sim::WriteGuard guard(file.mapping().i_mmap_rwsem());
    file.mapping().i_mmap_remove(area);
  }
  m.vfs->filemap().set_upcalls(nullptr);
}

}  // namespace
}  // namespace quire::file
