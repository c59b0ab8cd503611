#include "quire/file/backing.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace quire::file {
namespace {

using Page = std::array<std::byte, kPageSize>;

Page page_of(Backing& backing, std::uint64_t index) {
  Page page;
  EXPECT_TRUE(backing.read_page(Pgoff(index), page));
  return page;
}

TEST(Backing, ShowsItsSourceAndZeroesBehindIt) {
  GeneratedBacking source(kPageSize + 100, 7);
  Backing backing(std::make_unique<GeneratedBacking>(kPageSize + 100, 7));
  const Page second = page_of(backing, 1);
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(second[i], source.byte_at(kPageSize + i));
  for (std::uint64_t i = 100; i < kPageSize; ++i) EXPECT_EQ(second[i], std::byte{0});
  EXPECT_EQ(page_of(backing, 2), Page{});
}

TEST(Backing, WritesGoToTheOverlay) {
  Backing backing(std::make_unique<GeneratedBacking>(3 * kPageSize, 7));
  Page ones;
  ones.fill(std::byte{1});
  backing.write_page(Pgoff(1), ones);
  EXPECT_EQ(page_of(backing, 1), ones);
  EXPECT_EQ(page_of(backing, 2)[0], GeneratedBacking(1, 7).byte_at(2 * kPageSize));
  EXPECT_EQ(backing.overlay_pages(), 1u);
}

TEST(Backing, WhatTruncateCutOffComesBackAsZeroes) {
  Backing backing(std::make_unique<GeneratedBacking>(3 * kPageSize, 7));
  Page ones;
  ones.fill(std::byte{1});
  backing.write_page(Pgoff(1), ones);
  backing.write_page(Pgoff(2), ones);
  backing.truncate(kPageSize + 10);
  const Page cut = page_of(backing, 1);
  EXPECT_EQ(cut[9], std::byte{1});
  EXPECT_EQ(cut[10], std::byte{0});
  EXPECT_EQ(page_of(backing, 2), Page{});
  backing.truncate(5);
  EXPECT_EQ(page_of(backing, 0)[4], GeneratedBacking(1, 7).byte_at(4));
  EXPECT_EQ(page_of(backing, 0)[5], std::byte{0});
}

TEST(Backing, HolesHideTheSource) {
  Backing backing(std::make_unique<GeneratedBacking>(4 * kPageSize, 7));
  backing.punch_hole(Pgoff(1), Pgoff(3));
  EXPECT_EQ(page_of(backing, 1), Page{});
  EXPECT_EQ(page_of(backing, 2), Page{});
  EXPECT_EQ(page_of(backing, 3)[0], GeneratedBacking(1, 7).byte_at(3 * kPageSize));
}

TEST(Backing, AHoleOfATerabyteIsOneHole) {
  constexpr std::uint64_t kPages = kTiB / kPageSize;
  Backing backing(std::make_unique<GeneratedBacking>(kTiB, 7));
  Page ones;
  ones.fill(std::byte{1});
  for (const std::uint64_t i : {std::uint64_t{1}, std::uint64_t{5000}, kPages - 1}) backing.write_page(Pgoff(i), ones);
  backing.punch_hole(Pgoff(2), Pgoff(kPages));
  EXPECT_EQ(backing.holes(), 1u);
  EXPECT_EQ(backing.overlay_pages(), 1u);
  EXPECT_EQ(page_of(backing, 1), ones);
  for (const std::uint64_t i : {std::uint64_t{2}, std::uint64_t{5000}, kPages - 1}) EXPECT_EQ(page_of(backing, i), Page{});
  backing.write_page(Pgoff(5000), ones);
  EXPECT_EQ(page_of(backing, 5000), ones);
  EXPECT_EQ(page_of(backing, 5001), Page{});
  EXPECT_EQ(page_of(backing, 0)[0], GeneratedBacking(1, 7).byte_at(0));
  backing.punch_hole(Pgoff(0), Pgoff(2));
  EXPECT_EQ(backing.holes(), 1u);
  EXPECT_EQ(page_of(backing, 1), Page{});
}

TEST(Backing, HolesApartStayApartUntilOneJoinsThem) {
  Backing backing(std::make_unique<GeneratedBacking>(20 * kPageSize, 7));
  backing.punch_hole(Pgoff(2), Pgoff(4));
  backing.punch_hole(Pgoff(8), Pgoff(10));
  backing.punch_hole(Pgoff(12), Pgoff(100));
  EXPECT_EQ(backing.holes(), 3u);
  EXPECT_NE(page_of(backing, 5), Page{});
  backing.punch_hole(Pgoff(3), Pgoff(9));
  EXPECT_EQ(backing.holes(), 2u);
  EXPECT_EQ(page_of(backing, 5), Page{});
  EXPECT_NE(page_of(backing, 10), Page{});
  backing.truncate(9 * kPageSize);
  EXPECT_EQ(backing.holes(), 1u);
  EXPECT_NE(page_of(backing, 1), Page{});
}

TEST(HostFileBacking, ReadsAFileAndNamesTheErrorOtherwise) {
  const std::string path = testing::TempDir() + "quire_backing_test";
  std::ofstream(path) << "hello, page";
  auto source = HostFileBacking::open(path);
  ASSERT_TRUE(source.has_value());
  EXPECT_EQ((*source)->size(), 11u);
  Backing backing(std::move(*source));
  const Page page = page_of(backing, 0);
  EXPECT_EQ(std::memcmp(page.data(), "hello, page\0", 12), 0);
  std::remove(path.c_str());
  EXPECT_EQ(HostFileBacking::open(path).error(), Errno::kNoEnt);
  EXPECT_EQ(HostFileBacking::open(testing::TempDir()).error(), Errno::kIsDir);
}

}  // namespace
}  // namespace quire::file
