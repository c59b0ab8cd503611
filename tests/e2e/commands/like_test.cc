// quire capture, quire boot --like, and nodes on the command line.
#include <string>

#include "commands.h"

namespace quire {
namespace {

using nlohmann::json;
using testing::AnyOf;
using testing::HasSubstr;
using testing::Not;

std::string reference(const std::string& name) { return QUIRE_SOURCE "/tests/fidelity/boot/" + name; }

class LikeCommands : public Commands {
 protected:
  void prepare(const std::string& command) const { ASSERT_EQ(shell(command).status, 0) << command; }
};

TEST_F(LikeCommands, AFolderBootsAndItsFiguresAreChecked) {
  const Output equal = quire("boot --like " + reference("k6.1-3nodes-memblock") + " --check");
  EXPECT_EQ(equal.status, 0) << equal.out << equal.err;
  EXPECT_THAT(equal.out, HasSubstr("figures are equal, 0 differ\n"));
  const Output zones = quire("boot --like " + reference("k6.1-3nodes-memblock") + " --show zoneinfo");
  EXPECT_EQ(zones.status, 0);
  EXPECT_THAT(zones.out, HasSubstr("        managed  256394\n"));
  const Output notes = quire("boot --like " + reference("k6.1-1G-tuned") + " --show meminfo");
  EXPECT_THAT(notes.err, HasSubstr("quire: note: vm.min_free_kbytes was set to 20000"));
}

TEST_F(LikeCommands, AFigureThatDiffersIsShownAndFails) {
  prepare("cp -r " + reference("k6.1-192M") + " changed");
  prepare("sed -i 's/swappiness: 60/swappiness: 7000/' changed/sysctl_vm.txt");
  const Output differs = quire("boot --like changed --check");
  EXPECT_EQ(differs.status, 1);
  EXPECT_THAT(differs.out, HasSubstr("vm.swappiness  7000      60\n"));
  EXPECT_THAT(differs.out, HasSubstr("note: vm.swappiness was 7000, which no machine here can have"));
  const Output as_json = quire("boot --like changed --check --json");
  EXPECT_EQ(as_json.status, 1);
  const json checked = json::parse(as_json.out);
  EXPECT_GT(checked["equal"], 80);
  ASSERT_GE(checked["differ"].size(), 1u);
  EXPECT_EQ(checked["differ"].back()["here"], "60");
  EXPECT_FALSE(checked["notes"].empty());
}

TEST_F(LikeCommands, LikeMistakesAreSentences) {
  const std::string folder = reference("k6.1-192M");
  expect_sentence(quire("boot --check"), "give --like DIR", 2);
  expect_sentence(quire("boot --like " + folder + " --check --show nodes"), "leave --show out", 2);
  expect_sentence(quire("boot --like " + folder + " --ram 1G"), "leave --ram out", 2);
  expect_sentence(quire("boot --like " + folder + " --node ram=1G"), "leave --node out", 2);
  expect_sentence(quire("boot --like absent"), "there is no folder 'absent'", 2);
  prepare("mkdir empty");
  expect_sentence(quire("boot --like empty"), "holds no dmesg.txt", 2);
  prepare("mkdir short && head -c 700 " + folder + "/zoneinfo.txt > short/zoneinfo.txt");
  expect_sentence(quire("boot --like short"), "breaks off", 2);
  prepare("mkdir nomap && cp " + folder + "/zoneinfo.txt nomap");
  expect_sentence(quire("boot --like nomap"), "nothing says where its memory lies", 2);
}

// What runs on such a machine is said as for any other.
TEST_F(LikeCommands, TheMachineOfAFolderTakesSwapAndTunables) {
  const Output swap =
      quire("boot --like " + reference("k6.1-192M") + " --swap zram:64M --sysctl vm.min_free_kbytes=4096 --show meminfo");
  EXPECT_EQ(swap.status, 0) << swap.err;
  EXPECT_THAT(swap.out, HasSubstr("SwapTotal:         65532 kB"));
}

TEST_F(LikeCommands, CaptureMakesAFolderOnceAndSaysWhatItSkipped) {
  const Output made = quire("capture here");
  ASSERT_EQ(made.status, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("zoneinfo.txt"));
  EXPECT_EQ(read(path("here/version.txt")), read("/proc/version"));
  expect_sentence(quire("capture here"), "is not empty; name another", 1);
  // This host's own machine boots too, or a sentence says why not; a container may hide the map.
  const Output like = quire("boot --like here --check");
  EXPECT_THAT(like.status, AnyOf(0, 1, 2)) << like.err;
  if (like.status != 2) {
    EXPECT_THAT(like.out, HasSubstr("figures are equal"));
  } else {
    EXPECT_THAT(like.err, HasSubstr("quire: --like:"));
  }
  expect_sentence(quire("capture other --root /no/where"), "there is no such folder", 1);
  EXPECT_THAT(shell("ls").out, Not(HasSubstr("part")));
}

TEST_F(LikeCommands, NodesWithSizesCpusAndDistances) {
  const std::string nodes =
      "--node ram=256M,cpus=0-1,distance=10:17:30 --node ram=0,cpus=2-3,distance=17:10:20 "
      "--node ram=512M,distance=30:20:10";
  const Output shown = quire("boot " + nodes + " --show nodes");
  ASSERT_EQ(shown.status, 0) << shown.err;
  EXPECT_THAT(shown.out, HasSubstr("-- distance\n17 10 20\n-- cpulist\n2-3\n"));
  EXPECT_THAT(shown.out, HasSubstr("Node 1 MemTotal:              0 kB\n"));
  EXPECT_THAT(shown.out, HasSubstr("-- distance\n30 20 10\n-- cpulist\n\n"));
  const Output log = quire("boot " + nodes);
  EXPECT_THAT(log.out, HasSubstr("Initmem setup node 1 as memoryless\n"));
  EXPECT_THAT(log.out, HasSubstr("Fallback order for Node 1: 1 0 2 \n"));
  EXPECT_THAT(log.out, HasSubstr("Fallback order for Node 2: 2 0 \n"));
  // A node with neither memory nor CPUs is possible, not online.
  EXPECT_THAT(quire("boot --node ram=256M --node ram=0 --cpus 1 --show nodes").out, HasSubstr("node0"));

  write("m.toml", "[[node]]\nram = \"256M\"\ncpus = \"0-1\"\n[[node]]\nram = \"64M\"\ncpus = \"2\"\ndistance = []\n");
  EXPECT_THAT(quire("boot --machine m.toml --show nodes").out, HasSubstr("-- distance\n20 10\n-- cpulist\n2\n"));
}

TEST_F(LikeCommands, NodeMistakesAreSentences) {
  const auto mistake = [this](const std::string& nodes) { return quire("boot " + nodes); };
  expect_sentence(mistake("--node cpus=0"), "say how much memory it has", 2);
  expect_sentence(mistake("--node ram=64M,cpu=0"), "unknown word 'cpu=0'; write ram=SIZE, cpus=LIST, distance=N:N", 2);
  expect_sentence(mistake("--node ram=64M,cpus=3-1"), "not '3-1'", 2);
  expect_sentence(mistake("--node ram=64M,distance=ten"), "a distance is a number", 2);
  expect_sentence(mistake("--node ram=64M,cpus=0 --node ram=64M,cpus=0-1"), "CPU 0 is on node 0 and on node 1", 2);
  expect_sentence(mistake("--node ram=64M,cpus=0 --node ram=64M,cpus=2"), "CPU 1 is on no node", 2);
  expect_sentence(mistake("--cpus 2 --node ram=64M,cpus=0-2"), "the machine's CPUs are 0 to 1", 2);
  expect_sentence(mistake("--node ram=64M,distance=10:20 --node ram=64M"), "node 1 names 0 distances, but there are 2 nodes",
                  2);
  expect_sentence(mistake("--node ram=64M,distance=20:10 --node ram=64M,distance=10:20"), "it must be 10", 2);
  expect_sentence(mistake("--node ram=64M,distance=10:9 --node ram=64M,distance=20:10"), "from node 0 to node 1 is 9", 2);
  expect_sentence(mistake("--node ram=0"), "no node has memory", 2);
  expect_sentence(mistake("--node ram=64M --nodes 1"), "leave --nodes and --node-ram out", 2);
  expect_sentence(mistake("--node ram=64M --ram 64M"), "leave --ram out", 2);
  expect_sentence(mistake("--node ram=100"), "whole pages", 2);
}

}  // namespace
}  // namespace quire
