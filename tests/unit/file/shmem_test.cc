// Memory files: holes, swapping out and in, limits.
#include "file_machine.h"

namespace quire::file {
namespace {

using phys::NodeStat;

TEST(Shmem, AHoleReadsAsZeroesAndTakesNoPage) {
  FileMachine m;
  File& file = m.shmem(10 * kPageSize);
  m.run([&] {
    EXPECT_EQ(m.read(file, 0, 10 * kPageSize), std::vector<std::byte>(10 * kPageSize));
    EXPECT_EQ(m.node_stat(NodeStat::kNrShmem), 0);
    const Result<FilemapFault> fault = file.sb().fault(file, Pgoff(3), FaultHint::kNormal);
    ASSERT_TRUE(fault.has_value());
    EXPECT_EQ(fault->cost, FaultCost::kMinor);
    m.vfs->filemap().folio_put(*fault->folio);
    EXPECT_EQ(m.node_stat(NodeStat::kNrShmem), 1);
    EXPECT_EQ(m.node_stat(NodeStat::kNrFilePages), 1);
    EXPECT_EQ(file.sb().fault(file, Pgoff(10), FaultHint::kNormal).error(), Errno::kFault);
  });
  m.validate();
}

class ShmemSwap : public testing::TestWithParam<SwapDeviceKind> {};
INSTANTIATE_TEST_SUITE_P(Devices, ShmemSwap, testing::Values(SwapDeviceKind::kZram, SwapDeviceKind::kDisk));

TEST_P(ShmemSwap, BytesSurviveTheWayOutAndIn) {
  FileMachine m({.swap = GetParam()});
  File& file = m.shmem(0);
  const auto bytes = FileMachine::pattern(20 * kPageSize, 5);
  m.run([&] {
    EXPECT_TRUE(m.write(file, 0, bytes).has_value());
    for (std::uint64_t i = 0; i < 20; ++i) m.reclaim(file.mapping(), i);
    m.scheduler.sleep_for(sim::kSecond);
    auto& inode = static_cast<ShmemInode&>(file.inode());
    EXPECT_EQ(inode.swapped, 20u);
    EXPECT_EQ(file.mapping().nrpages(), 0u);
    EXPECT_EQ(m.node_stat(NodeStat::kNrShmem), 0);
    EXPECT_EQ(m.event(phys::VmEvent::kPswpout), 20);
    EXPECT_EQ(m.vfs->shmem().shmem_swap_usage(inode, Pgoff(5), Pgoff(9)), 5u);
    m.vfs->validate();
    m.swap->validate();
    EXPECT_EQ(m.read(file, 0, 20 * kPageSize), bytes);
    EXPECT_EQ(inode.swapped, 0u);
    EXPECT_EQ(m.node_stat(NodeStat::kNrShmem), 20);
  });
  EXPECT_EQ(m.swap->get_nr_swap_pages(), m.swap->total_swap_pages());
  m.validate();
}

TEST_P(ShmemSwap, TheEndOfAFileFreesItsSlots) {
  FileMachine m({.swap = GetParam()});
  m.run([&] {
    File& file = m.shmem(0);
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(9 * kPageSize, 5)).has_value());
    for (std::uint64_t i = 0; i < 9; ++i) m.reclaim(file.mapping(), i);
    m.scheduler.sleep_for(sim::kSecond);
    ASSERT_TRUE(m.vfs->ftruncate(file, 4 * kPageSize + 100));
    EXPECT_EQ(static_cast<ShmemInode&>(file.inode()).swapped, 4u);  // the cut page came back to be zeroed
    auto expected = FileMachine::pattern(4 * kPageSize + 100, 5);
    expected.resize(6 * kPageSize);
    ASSERT_TRUE(m.vfs->ftruncate(file, 6 * kPageSize));
    EXPECT_EQ(m.read(file, 0, 6 * kPageSize), expected);
    m.vfs->fput(file);
  });
  m.lru.lru_add_drain_all();
  EXPECT_EQ(m.swap->get_nr_swap_pages(), m.swap->total_swap_pages());
  EXPECT_EQ(m.vfs->shmem().used_blocks(), 0u);
  EXPECT_EQ(m.node_stat(NodeStat::kNrShmem), 0);
  m.validate();
}

TEST(ShmemLimit, IsReportedAndGivenBack) {
  FileMachine m;
  m.vfs->shmem().set_max_blocks(4);
  File& file = m.shmem(100 * kPageSize);
  m.run([&] {
    EXPECT_EQ(m.write(file, 0, FileMachine::pattern(6 * kPageSize, 5)).value(), 4 * kPageSize);
    EXPECT_EQ(m.write(file, 4 * kPageSize, FileMachine::pattern(1, 5)).error(), Errno::kNoSpc);
    EXPECT_EQ(file.sb().fault(file, Pgoff(50), FaultHint::kNormal).error(), Errno::kNoSpc);
    ASSERT_TRUE(m.vfs->fallocate(file, FallocateMode::kPunchHole | FallocateMode::kKeepSize, 0, kPageSize));
    EXPECT_EQ(m.write(file, 4 * kPageSize, FileMachine::pattern(1, 5)).value(), 1u);
    EXPECT_EQ(m.vfs->fallocate(file, FallocateMode::kNone, 0, 3 * kPageSize).error(), Errno::kNoSpc);
  });
  m.validate();
}

TEST(ShmemLimit, NoSwapKeepsThePage) {
  FileMachine m;
  File& file = m.shmem(0);
  m.run([&] {
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(kPageSize, 5)).has_value());
    EXPECT_FALSE(m.reclaim(file.mapping(), 0));
    EXPECT_EQ(m.read(file, 0, kPageSize), FileMachine::pattern(kPageSize, 5));
  });
  m.validate();
}

TEST(Shmem, ACleanZeroPageIsDroppedAndTheChargeFollows) {
  FileMachine m({.swap = SwapDeviceKind::kZram});
  File& file = m.shmem(kPageSize);
  m.run([&] {
    const Result<FilemapFault> fault = file.sb().fault(file, Pgoff(0), FaultHint::kNormal);
    ASSERT_TRUE(fault.has_value());
    m.vfs->filemap().folio_put(*fault->folio);
    EXPECT_TRUE(m.reclaim(file.mapping(), 0));
    EXPECT_EQ(m.event(phys::VmEvent::kPswpout), 0);
    m.validate();
    m.vfs->fput(file);
  });
  EXPECT_EQ(m.vfs->shmem().used_blocks(), 0u);
}

TEST(Shmem, HolesAreFoundBySeeking) {
  FileMachine m;
  File& file = m.shmem(10 * kPageSize);
  m.run([&] {
    EXPECT_TRUE(m.write(file, 3 * kPageSize, FileMachine::pattern(2 * kPageSize, 5)).has_value());
    SuperBlock& sb = file.sb();
    Inode& inode = file.inode();
    EXPECT_EQ(sb.seek(inode, 0, SeekKind::kData).value(), 3 * kPageSize);
    EXPECT_EQ(sb.seek(inode, 3 * kPageSize + 7, SeekKind::kData).value(), 3 * kPageSize + 7);
    EXPECT_EQ(sb.seek(inode, 3 * kPageSize, SeekKind::kHole).value(), 5 * kPageSize);
    EXPECT_EQ(sb.seek(inode, 1, SeekKind::kHole).value(), 1u);
    EXPECT_EQ(sb.seek(inode, 5 * kPageSize, SeekKind::kData).error(), Errno::kNxio);
    EXPECT_EQ(sb.seek(inode, 10 * kPageSize, SeekKind::kHole).error(), Errno::kNxio);
  });
}

// What a mapping stores behind the end becomes part of the file when it grows (6.1 and 6.18, seen on both); a truncation, to
// the same size too, zeroes it.
TEST(Shmem, GrowthKeepsWhatLiesBehindTheEndTruncationZeroesIt) {
  FileMachine m;
  File& file = m.shmem(100);
  m.run([&] {
    const Result<FilemapFault> fault = file.sb().fault(file, Pgoff(0), FaultHint::kNormal);
    ASSERT_TRUE(fault.has_value());
    phys::Folio& folio = *fault->folio;
    const auto store = [&] { m.phys->page_address(folio)[200] = std::byte{7}; };
    const auto behind = [&] { return m.phys->page_address(folio)[200]; };
    store();
    EXPECT_TRUE(m.vfs->ftruncate(file, 3 * kPageSize));
    EXPECT_EQ(behind(), std::byte{7});
    EXPECT_FALSE(phys::folio_test_dirty(folio));  // nobody marked it: it was not written through a mapping
    EXPECT_TRUE(m.vfs->ftruncate(file, 100));
    EXPECT_EQ(behind(), std::byte{0});
    EXPECT_TRUE(phys::folio_test_dirty(folio));
    store();
    EXPECT_TRUE(m.vfs->ftruncate(file, 100));
    EXPECT_EQ(behind(), std::byte{0});
    store();
    EXPECT_EQ(m.write(file, 8000, FileMachine::pattern(1, 5)).value(), 1u);
    EXPECT_EQ(behind(), std::byte{7});
    EXPECT_TRUE(m.vfs->ftruncate(file, 100));
    store();
    EXPECT_TRUE(m.vfs->fallocate(file, FallocateMode::kNone, 0, 2 * kPageSize));
    EXPECT_EQ(behind(), std::byte{7});
    m.vfs->filemap().folio_put(folio);
  });
  m.validate();
}

// Pages of fallocate are promised, not there: zeroed at the first touch, a hole until then.
TEST(Shmem, FallocatedPagesAreHolesUntilTouched) {
  FileMachine m;
  File& file = m.shmem(0);
  m.run([&] {
    ASSERT_TRUE(m.vfs->fallocate(file, FallocateMode::kNone, 0, 4 * kPageSize));
    EXPECT_EQ(m.vfs->shmem().used_blocks(), 4u);
    EXPECT_EQ(m.node_stat(NodeStat::kNrShmem), 4);
    SuperBlock& sb = file.sb();
    Inode& inode = file.inode();
    EXPECT_EQ(sb.seek(inode, 0, SeekKind::kData).error(), Errno::kNxio);
    EXPECT_EQ(sb.seek(inode, 0, SeekKind::kHole).value(), 0u);
    EXPECT_EQ(m.read(file, 0, 4 * kPageSize), std::vector<std::byte>(4 * kPageSize));
    EXPECT_EQ(sb.seek(inode, 0, SeekKind::kData).error(), Errno::kNxio);  // reading does not fill it

    const auto bytes = FileMachine::pattern(10, 5);
    EXPECT_EQ(m.write(file, 2 * kPageSize + 5, bytes).value(), 10u);
    EXPECT_EQ(sb.seek(inode, 0, SeekKind::kData).value(), 2 * kPageSize);
    EXPECT_EQ(sb.seek(inode, 2 * kPageSize, SeekKind::kHole).value(), 3 * kPageSize);
    std::vector<std::byte> expected(kPageSize);
    std::ranges::copy(bytes, expected.begin() + 5);
    EXPECT_EQ(m.read(file, 2 * kPageSize, kPageSize), expected);

    const Result<FilemapFault> fault = sb.fault(file, Pgoff(1), FaultHint::kNormal);
    ASSERT_TRUE(fault.has_value());
    EXPECT_TRUE(phys::folio_test_uptodate(*fault->folio));
    m.vfs->filemap().folio_put(*fault->folio);
    EXPECT_EQ(sb.seek(inode, 0, SeekKind::kData).value(), kPageSize);
    // Once more: the first promise must survive a failure of the second, so that these are pages now.
    ASSERT_TRUE(m.vfs->fallocate(file, FallocateMode::kNone, 3 * kPageSize, kPageSize));
    EXPECT_EQ(sb.seek(inode, 3 * kPageSize, SeekKind::kData).value(), 3 * kPageSize);
  });
  m.validate();
}

TEST_P(ShmemSwap, FallocatedPagesGoToSwapAsZeroes) {
  FileMachine m({.swap = GetParam()});
  File& file = m.shmem(0);
  m.run([&] {
    // What the frames hold from before must not be seen.
    EXPECT_TRUE(m.write(file, 0, FileMachine::pattern(6 * kPageSize, 5)).has_value());
    ASSERT_TRUE(m.vfs->ftruncate(file, 0));
    ASSERT_TRUE(m.vfs->fallocate(file, FallocateMode::kNone, 0, 6 * kPageSize));
    for (std::uint64_t i = 0; i < 6; ++i) m.reclaim(file.mapping(), i);
    m.scheduler.sleep_for(sim::kSecond);
    EXPECT_EQ(static_cast<ShmemInode&>(file.inode()).swapped, 6u);
    EXPECT_EQ(m.read(file, 0, 6 * kPageSize), std::vector<std::byte>(6 * kPageSize));
  });
  m.validate();
}

TEST(ShmemLimit, AFallocateThatFailsGivesBackWhatItMadeAndNothingElse) {
  FileMachine m;
  m.vfs->shmem().set_max_blocks(6);
  File& file = m.shmem(100 * kPageSize);
  m.run([&] {
    EXPECT_EQ(m.write(file, 2 * kPageSize, FileMachine::pattern(kPageSize, 5)).value(), kPageSize);
    ASSERT_TRUE(m.vfs->fallocate(file, FallocateMode::kNone, 3 * kPageSize, kPageSize));
    EXPECT_EQ(m.write(file, 50 * kPageSize, FileMachine::pattern(kPageSize, 6)).value(), kPageSize);
    EXPECT_EQ(m.vfs->fallocate(file, FallocateMode::kNone, 0, 6 * kPageSize).error(), Errno::kNoSpc);
    EXPECT_EQ(m.vfs->shmem().used_blocks(), 3u);
    EXPECT_EQ(m.cache_map(file, 6), "..xx..");
    EXPECT_EQ(m.read(file, 2 * kPageSize, kPageSize), FileMachine::pattern(kPageSize, 5));
    EXPECT_EQ(m.read(file, 3 * kPageSize, kPageSize), std::vector<std::byte>(kPageSize));
  });
  m.validate();
}

TEST(Shmem, ASwapReadErrorIsEioAndThePageStaysInItsSlot) {
  FileMachine m({.swap = SwapDeviceKind::kDisk});
  m.swap->set_fault_injection(&m.faults);
  File& file = m.shmem(0);
  const auto bytes = FileMachine::pattern(kPageSize, 5);
  m.run([&] {
    EXPECT_TRUE(m.write(file, 0, bytes).has_value());
    m.reclaim(file.mapping(), 0);
    m.scheduler.sleep_for(sim::kSecond);
    m.lru.lru_add_drain_all();
    phys::Folio* cached =
        m.swap->lookup_swap_cache(swap::SwapEntry::from_value(file.mapping().i_pages().load(0).value().value()));
    ASSERT_NE(cached, nullptr);
    // Out of the swap cache, so that the next touch reads the disk.
    phys::folio_lock(*m.phys, *cached);
    m.swap->delete_from_swap_cache(*cached);
    phys::folio_unlock(*m.phys, *cached);
    m.lru.folio_put(*cached);
    m.faults.set(sim::FaultPoint::kIoRead, {.probability = 100});
    EXPECT_EQ(file.sb().fault(file, Pgoff(0), FaultHint::kNormal).error(), Errno::kIo);
    m.faults.set(sim::FaultPoint::kIoRead, {});
    EXPECT_EQ(static_cast<ShmemInode&>(file.inode()).swapped, 1u);
  });
  m.validate();
}

}  // namespace
}  // namespace quire::file
