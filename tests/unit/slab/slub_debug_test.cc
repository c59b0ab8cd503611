#include "quire/slab/slub_debug.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quire::slab {
namespace {

SlabFlags flags_of(std::string_view text, std::string_view cache) {
  const auto debug = parse_slub_debug(text);
  EXPECT_TRUE(debug) << text;
  return debug ? debug_flags(*debug, cache) : SlabFlags::kNone;
}

constexpr SlabFlags kZP = SlabFlags::kRedZone | SlabFlags::kPoison;

TEST(SlubDebug, LettersAreForEveryCache) {
  EXPECT_EQ(flags_of("FZPU", "dentry"), kDebugDefaultFlags);
  EXPECT_EQ(flags_of("", "dentry"), kDebugDefaultFlags);
  EXPECT_EQ(flags_of("zp", "dentry"), kZP);
  EXPECT_EQ(flags_of("-", "dentry"), SlabFlags::kNone);
  EXPECT_EQ(flags_of("T", "dentry"), SlabFlags::kTrace);
}

TEST(SlubDebug, CachesAreNamedOrBeginWithAName) {
  EXPECT_EQ(flags_of("ZP,dentry", "dentry"), kZP);
  EXPECT_EQ(flags_of("ZP,dentry", "dentry2"), SlabFlags::kNone);
  EXPECT_EQ(flags_of("ZP,dentry", "filp"), SlabFlags::kNone);
  EXPECT_EQ(flags_of(",dentry", "dentry"), kDebugDefaultFlags);
  EXPECT_EQ(flags_of("ZP,filp,kmalloc-*", "kmalloc-64"), kZP);
  EXPECT_EQ(flags_of("ZP,filp,kmalloc-*", "kmalloc"), SlabFlags::kNone);
  EXPECT_EQ(flags_of("ZP,*", "anything"), kZP);
}

TEST(SlubDebug, TheFirstBlockThatNamesACacheCounts) {
  EXPECT_EQ(flags_of("F;ZP,dentry", "dentry"), kZP);
  EXPECT_EQ(flags_of("F;ZP,dentry", "filp"), SlabFlags::kConsistencyChecks);
  EXPECT_EQ(flags_of("T,den*;ZP,dentry", "dentry"), SlabFlags::kTrace);
  EXPECT_EQ(flags_of("FZPU;-,dentry", "dentry"), SlabFlags::kNone);
}

TEST(SlubDebug, WhatIsWrongIsNamed) {
  EXPECT_THAT(parse_slub_debug("FQ").error().sentence, testing::HasSubstr("'Q'"));
  EXPECT_THAT(parse_slub_debug("F-").error().sentence, testing::HasSubstr("'-'"));
  EXPECT_THAT(parse_slub_debug("F,a,,b").error().sentence, testing::HasSubstr("without a name"));
}

}  // namespace
}  // namespace quire::slab
