// --json gives JSON and nothing else on standard output, whatever programs print and files are called.
#include <string>

#include "commands.h"

namespace quire {
namespace {

using nlohmann::json;
using testing::HasSubstr;

TEST_F(Commands, NamesNeedNotBeUtf8) {
  ASSERT_EQ(shell("cp /bin/true \"$(printf 'n\\377me')\" && $QUIRE record -o t.qtr -- \"./$(printf 'n\\377me')\"").status, 0);
  for (const std::string words : {"info --json t.qtr", "replay --json --ram 64M t.qtr"}) {
    const Output output = quire(words);
    EXPECT_EQ(output.status, 0) << output.err;
    EXPECT_TRUE(json::accept(output.out)) << words;
    EXPECT_THAT(output.out, HasSubstr("n\uFFFDme")) << words;
  }
}

}  // namespace
}  // namespace quire
