#include "quire/base/size.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/types.h"

namespace quire {
namespace {

std::string sentence(std::string_view text) {
  const auto size = parse_size(text);
  return size ? "no error" : size.error().sentence;
}

TEST(ParseSize, ReadsWhatLinuxReads) {
  EXPECT_EQ(parse_size("0").value(), 0u);
  EXPECT_EQ(parse_size("4096").value(), 4096u);
  EXPECT_EQ(parse_size("64M").value(), 64 * kMiB);
  EXPECT_EQ(parse_size("64m").value(), 64 * kMiB);
  EXPECT_EQ(parse_size("2K").value(), 2 * kKiB);
  EXPECT_EQ(parse_size("3g").value(), 3 * kGiB);
  EXPECT_EQ(parse_size("1T").value(), kTiB);
  EXPECT_EQ(parse_size("0x1000").value(), 4096u);
  EXPECT_EQ(parse_size("0x10M").value(), 16 * kMiB);
  EXPECT_EQ(parse_size("15E").value(), std::uint64_t{15} << 60);
}

TEST(ParseSize, ReadsUnitsSpeltOutAndFractions) {
  EXPECT_EQ(parse_size("64MiB").value(), 64 * kMiB);
  EXPECT_EQ(parse_size("64MB").value(), 64 * kMiB);
  EXPECT_EQ(parse_size("12kB").value(), 12 * kKiB);
  EXPECT_EQ(parse_size("512B").value(), 512u);
  EXPECT_EQ(parse_size("1.5G").value(), kGiB + kGiB / 2);
  EXPECT_EQ(parse_size("0.25K").value(), 256u);
}

TEST(ParseSize, SaysWhatIsWrong) {
  EXPECT_THAT(sentence(""), testing::HasSubstr("empty"));
  EXPECT_THAT(sentence("-5M"), testing::AllOf(testing::HasSubstr("'-5M'"), testing::HasSubstr("negative")));
  EXPECT_THAT(sentence("many"), testing::HasSubstr("does not begin with a digit"));
  EXPECT_THAT(sentence("64Q"), testing::AllOf(testing::HasSubstr("'Q'"), testing::HasSubstr("no unit")));
  EXPECT_THAT(sentence("64M "), testing::HasSubstr("no unit"));
  EXPECT_THAT(sentence("64MiBs"), testing::HasSubstr("no unit"));
  EXPECT_THAT(sentence("16E"), testing::HasSubstr("larger than 16E"));
  EXPECT_THAT(sentence("99999999999999999999"), testing::HasSubstr("larger than 16E"));
  EXPECT_THAT(sentence("1.5"), testing::HasSubstr("whole number of bytes"));
  EXPECT_THAT(sentence("1.M"), testing::HasSubstr("no digit after its point"));
  EXPECT_THAT(sentence("1.0000000000001M"), testing::HasSubstr("too many decimals"));
  EXPECT_THAT(sentence("0x"), testing::HasSubstr("no unit"));
}

TEST(FormatSize, IsReadBackTheSame) {
  EXPECT_EQ(format_size(0), "0");
  EXPECT_EQ(format_size(4097), "4097");
  EXPECT_EQ(format_size(64 * kMiB), "64M");
  EXPECT_EQ(format_size(1536 * kKiB), "1536K");
  for (const std::uint64_t bytes : {std::uint64_t{1}, 5 * kKiB, 3 * kGiB, ~std::uint64_t{0}, std::uint64_t{1} << 60}) {
    EXPECT_EQ(parse_size(format_size(bytes)).value(), bytes);
  }
}

}  // namespace
}  // namespace quire
