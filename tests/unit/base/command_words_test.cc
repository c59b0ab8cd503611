#include "quire/base/command_words.h"

#include <gmock/gmock.h>

namespace quire {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> joined(std::string_view cmdline) {
  std::vector<std::string> out;
  for (const auto& [text, name, value] : command_words(cmdline)) {
    out.push_back(std::string(text) + "|" + std::string(name) + "|" + std::string(value));
  }
  return out;
}

TEST(CommandWords, BlanksOfEveryKindAndNumberAreBetweenWords) {
  EXPECT_THAT(joined(""), IsEmpty());
  EXPECT_THAT(joined(" \t\n "), IsEmpty());
  EXPECT_THAT(joined("  quiet\tmem=64M \n"), ElementsAre("quiet|quiet|", "mem=64M|mem|64M"));
}

TEST(CommandWords, TheFirstEqualsSignEndsTheName) {
  EXPECT_THAT(joined("a=b=c x= ="), ElementsAre("a=b=c|a|b=c", "x=|x|", "=||"));
}

TEST(CommandWords, QuotesKeepBlanksTogether) {
  EXPECT_THAT(joined("a=\"b mem=1\" c"), ElementsAre("a=\"b mem=1\"|a|b mem=1", "c|c|"));
  EXPECT_THAT(joined("a=\"b"), ElementsAre("a=\"b|a|b"));
}

TEST(CommandWords, WhatFollowsTwoDashesIsInits) { EXPECT_THAT(joined("a -- mem=1"), ElementsAre("a|a|")); }

}  // namespace
}  // namespace quire
