// What the commands say to words that make no sense: one sentence, with the mend in it.
#include <string>

#include "commands.h"

namespace quire {
namespace {

using testing::HasSubstr;
using testing::Lt;

TEST_F(Commands, AMistypedOptionGetsAGuessAndTheCommandsOwnHelp) {
  expect_sentence(quire("boot --rom 64M"), "no option '--rom', did you mean '--ram'?", 2);
  expect_sentence(quire("boot --rom=64M"), "no option '--rom', did you mean '--ram'?", 2);
  expect_sentence(quire("replay --swop zram:1M t.qtr"), "did you mean '--swap'?; see quire replay --help", 2);
  expect_sentence(quire("run --cpu 2 -- true"), "did you mean '--cpus'?", 2);
  expect_sentence(quire("boot --zzzzzzzzzz"), "no option '--zzzzzzzzzz'; see quire boot --help", 2);
  expect_sentence(quire("boot -q"), "no option '-q'; see quire boot --help", 2);
  expect_sentence(quire("boot --ram"), "see quire boot --help", 2);
}

TEST_F(Commands, AForgottenDashDashIsSaidWithTheLineAsItShouldBe) {
  expect_sentence(quire("run --ram 64M true"), "write the program behind --: quire run --ram 64M -- true", 2);
  expect_sentence(quire("record -o t.qtr sort -o sorted 'my words'"), ": quire record -o t.qtr -- sort -o sorted 'my words'",
                  2);
  expect_sentence(quire("run --json sh -c 'exit 3'"), ": quire run --json -- sh -c 'exit 3'", 2);
  EXPECT_FALSE(std::filesystem::exists(path("t.qtr")));
}

TEST_F(Commands, OneSizeOfRamLeavesTheTracesAlone) {
  write("t.lackey", "I  00400000,4\n S 00601000,8\n");
  ASSERT_EQ(quire("import t.lackey -o a.qtr && cp a.qtr b.qtr").status, 0);
  const Output replay = quire("replay --json --ram 64M a.qtr b.qtr");
  ASSERT_EQ(replay.status, 0) << replay.err;
  EXPECT_EQ(nlohmann::json::parse(replay.out)["programs"].size(), 2u);
  expect_sentence(quire("boot --ram 64M 32M"), "32M", 2);
}

TEST_F(Commands, AMomentIsATimeWithItsUnit) {
  write("t.lackey", "I  00400000,4\n S 00601000,8\n");
  ASSERT_EQ(quire("import t.lackey -o t.qtr").status, 0);
  const std::string words = "replay --ram 64M t.qtr --show meminfo --at ";
  for (const std::string wrong :
       {"20", "1e30s", "1e3s", "-3ms", "0x10ms", "5days", "s", "inf", "infs", "nans", "1000001s", "1.5 s "}) {
    expect_sentence(
        quire(words + "'" + wrong + "'"),
        "--at " + wrong + ": write a time of at most 1000000 seconds with its unit (s, ms, us or ns), as in 1.5s or 20ms", 2);
  }
  for (const std::string right : {"0s", "1000000s", "1.5s", "20ms", "0.25us", "7ns"})
    EXPECT_EQ(quire(words + right).status, 0) << right;
}

TEST_F(Commands, NumbersOutOfBoundsAreSaidWithTheBounds) {
  const auto says = [this](const std::string& words, const std::string& part) {
    const Output output = quire(words);
    expect_sentence(output, part, 2);
    EXPECT_THAT(output.err.size(), Lt(160u)) << output.err;
  };
  says("record --window 0 -o t.qtr -- true",
       "--window 0: write a whole number of instructions from 1 to 1000000000000; --unfiltered");
  says("run --window -1 -- true", "--window -1: write a whole number");
  says("record --window 18446744073709551615 -o t.qtr -- true", "from 1 to 1000000000000");
  says("import t.lackey -o t.qtr --window -1", "--window -1: write a whole number of instructions from 0 to");
  says("boot --seed -1", "--seed -1: write a whole number from 0 to 9223372036854775807");
  says("boot --seed 99999999999999999999", "--seed 99999999999999999999: write a whole number");
  says("boot --seed 0x10", "--seed 0x10: write a whole number");
  says("boot --cpus 257", "--cpus 257: write a whole number of CPUs from 1 to 256");
  says("boot --cpus -1", "--cpus -1: write a whole number of CPUs from 1 to 256");
  says("boot --preempt 1001", "from 0 to 1000");
  EXPECT_EQ(quire("boot --ram 64M --cpus 256 --seed 9223372036854775807").status, 0);
}

TEST_F(Commands, MachinesThatCannotBeAreSaidWithTheMend) {
  expect_sentence(quire("boot --ram 64M --nodes 64"), "give --ram 145M or more, or fewer nodes", 2);
  expect_sentence(quire("boot --ram 1K"), "1024 bytes holds no kernel: write the unit as well", 2);
  write("bytes.toml", "ram = 64\n");
  expect_sentence(quire("boot --machine bytes.toml"), "64 bytes holds no kernel: write the unit as well", 2);
  expect_sentence(quire("boot --machine ."), "'.' is a folder", 2);
  for (const std::string machine :
       {"--ram 24M --sysctl vm.min_free_kbytes=100000000", "--ram 24M --sysctl vm.min_free_kbytes=1000000",
        "--ram 64M --sysctl vm.min_free_kbytes=50000"}) {
    expect_sentence(quire("boot " + machine), "vm.min_free_kbytes", 2);
  }
}

}  // namespace
}  // namespace quire
