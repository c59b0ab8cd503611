// --json gives JSON and nothing else on standard output, whatever programs print and files are called.
#include <string>

#include "commands.h"

namespace quire {
namespace {

using nlohmann::json;
using testing::HasSubstr;

TEST_F(Commands, JsonIsAllThereIsOnStandardOutput) {
  const Output run = quire("run --json --ram 64M -- sh -c 'echo from the program; exit 4'");
  EXPECT_EQ(run.status, 4);
  ASSERT_TRUE(json::accept(run.out)) << run.out;
  EXPECT_THAT(run.err, HasSubstr("from the program"));
  const json host = json::parse(run.out)["host"];
  EXPECT_EQ(host["includes_recording"], true);
  EXPECT_FALSE(host.contains("accesses_per_second")) << "the time is the recording's";
  const Output compared = quire("compare --json --ram 64M -- echo from the program");
  EXPECT_EQ(compared.status, 0) << compared.err;
  ASSERT_TRUE(json::accept(compared.out)) << compared.out;
  EXPECT_THAT(compared.err, HasSubstr("from the program"));
}

TEST_F(Commands, RunSaysWhatItsHostTimeIs) {
  const Output run = quire("run --ram 64M -- echo from the program");
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_TRUE(run.out.starts_with("from the program\n")) << run.out;
  EXPECT_THAT(run.out, HasSubstr("most of it to record the program"));
}

TEST_F(Commands, NamesNeedNotBeUtf8) {
  ASSERT_EQ(shell("cp /bin/true \"$(printf 'n\\377me')\" && $QUIRE record -o t.qtr -- \"./$(printf 'n\\377me')\"").status, 0);
  for (const std::string words : {"info --json t.qtr", "replay --json --ram 64M t.qtr", "compare --json --ram 64M t.qtr"}) {
    const Output output = quire(words);
    EXPECT_EQ(output.status, 0) << output.err;
    EXPECT_TRUE(json::accept(output.out)) << words;
    EXPECT_THAT(output.out, HasSubstr("n\uFFFDme")) << words;
  }
}

}  // namespace
}  // namespace quire
