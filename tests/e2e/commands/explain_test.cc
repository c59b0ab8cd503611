// quire explain alloc, and machines whose allocation is another kernel's.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "effort.h"

namespace quire {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Explain : public Commands {
 protected:
  [[nodiscard]] nlohmann::json json(const std::string& words) const {
    const Output output = quire("explain alloc --json " + words);
    EXPECT_EQ(output.status, 0) << output.err;
    return nlohmann::json::parse(output.out);
  }
  static std::vector<std::string> events(const nlohmann::json& answer) {
    std::vector<std::string> names;
    for (const auto& event : answer["events"]) names.push_back(event["event"]);
    return names;
  }
};

TEST_F(Explain, TheShortCutIsALineOrTwo) {
  const Output output = quire("explain alloc --ram 64M");
  EXPECT_EQ(output.status, 0) << output.err;
  EXPECT_THAT(output.out, AllOf(HasSubstr("one allocation of order 0 (1 page), GFP_KERNEL, policy linux-6\n"),
                                HasSubstr("fast path [ALLOC_WMARK_LOW"), HasSubstr("result: pfn 0x")));
}

TEST_F(Explain, EachPolicyGoesItsOwnWay) {
  const std::string state = "--order 4 --ram 64M --fill 90 --fragment --swap zram:64M ";
  for (const std::string policy : {"linux-2.4", "linux-4.0", "linux-6"}) {
    const Output output = quire("explain alloc " + state + "--alloc-policy " + policy);
    EXPECT_EQ(output.status, 0) << policy << ": " << output.err;
    EXPECT_THAT(output.out, AllOf(HasSubstr("policy " + policy), HasSubstr("wake kswapd"), HasSubstr("result: "))) << policy;
  }
  EXPECT_THAT(quire("explain alloc " + state + "--alloc-policy linux-4.0").out, HasSubstr("ALLOC_FAIR"));
  EXPECT_THAT(quire("explain alloc " + state + "--alloc-policy linux-2.4").out,
              HasSubstr("free and inactive-clean pages together"));
  EXPECT_THAT(quire("explain alloc " + state).out, HasSubstr("compaction (async)"));
}

TEST_F(Explain, FragmentLeavesNoBlockOfTheOrder) {
  for (const int order : {1, 4, 9}) {
    const auto answer = json("--ram 64M --fill 80 --fragment --order " + std::to_string(order));
    const auto& before = answer["before"];
    EXPECT_LT(before["largest_free_order"], order);
    EXPECT_NEAR(before["free"].get<double>(), before["managed"].get<double>() * 0.2, before["managed"].get<double>() * 0.02);
  }
}

TEST_F(Explain, FillReachesWhatIsAskedWithAMixOfPages) {
  for (const int percent : {30, 60, 90, 99}) {
    const auto before = json("--ram 128M --fill " + std::to_string(percent))["before"];
    const double managed = before["managed"].get<double>();
    EXPECT_NEAR(before["free"].get<double>(), managed * (100 - percent) / 100, managed * 0.01) << percent;
    for (const char* kind : {"page_cache", "anonymous", "kernel"}) EXPECT_GT(before[kind], 100) << percent << " " << kind;
  }
}

TEST_F(Explain, AFullMachineReclaimsAndTheStepsSaySo) {
  const auto answer = json("--ram 64M --fill 100 --order 3 --gfp 'gfp_kernel|__gfp_zero'");
  EXPECT_EQ(answer["gfp"], "GFP_KERNEL|__GFP_ZERO");
  EXPECT_FALSE(answer["pfn"].is_null());
  const auto names = events(answer);
  for (const char* name : {"alloc_begin", "alloc_pass", "alloc_zone", "alloc_step", "mm_vmscan_wakeup_kswapd",
                           "mm_vmscan_direct_reclaim_begin", "mm_vmscan_direct_reclaim_end", "alloc_taken", "mm_page_alloc"}) {
    EXPECT_THAT(names, testing::Contains(name));
  }
  EXPECT_EQ(names.front(), "alloc_begin");
  EXPECT_EQ(names.back(), "mm_page_alloc");
}

TEST_F(Explain, WhoMayNotWaitGetsNothingAndAReport) {
  const Output output = quire("explain alloc --ram 64M --fill 95 --fragment --order 6 --gfp GFP_NOWAIT");
  EXPECT_EQ(output.status, 0) << output.err;
  EXPECT_THAT(output.out, AllOf(HasSubstr("gives up: the caller may not wait"), HasSubstr("result: NULL"),
                                HasSubstr("page allocation failure: order:6, mode:0x800(GFP_NOWAIT)"), HasSubstr("Mem-Info:")));
  EXPECT_THAT(quire("explain alloc --ram 64M --fill 95 --fragment --order 6 --gfp 'GFP_NOWAIT|__GFP_NOWARN'").out,
              Not(HasSubstr("Mem-Info:")));
}

TEST_F(Explain, TheNodeAskedFirstAndZoneReclaim) {
  EXPECT_THAT(quire("explain alloc --ram 256M --nodes 2 --on-node 1").out, HasSubstr("node 1 DMA32    gives pfn"));
  const std::string full = "explain alloc --ram 256M --nodes 2 --fill 97 ";
  EXPECT_THAT(quire(full + "--sysctl vm.zone_reclaim_mode=1").out, HasSubstr("node reclaim"));
  EXPECT_THAT(quire(full).out, Not(HasSubstr("node reclaim")));
}

TEST_F(Explain, TheSameSeedTellsTheSame) {
  const std::string words = "explain alloc --ram 64M --fill 99 --fragment --order 3 --seed 3 --alloc-policy linux-4.0";
  EXPECT_EQ(quire(words).out, quire(words).out);
}

TEST_F(Explain, ARequestThatTriesForEverIsLeftAtThat) {
  if (kEveryCheckIsOn) GTEST_SKIP() << "a million steps: seconds in the optimised build, which runs it, and minutes here";
  const std::string words = "explain alloc --ram 64M --gfp 'GFP_KERNEL|__GFP_NOFAIL|GFP_DMA' --order 10 --fill 100 ";
  const Output output = quire(words);
  EXPECT_EQ(output.status, 1);
  EXPECT_THAT(output.out, AllOf(HasSubstr("retry: __GFP_NOFAIL"), HasSubstr("result: still trying after "),
                                HasSubstr("__GFP_NOFAIL forbids it to give up"), Not(HasSubstr("result: NULL"))));
  EXPECT_LT(std::ranges::count(output.out, '\n'), 60);
}

TEST_F(Explain, JsonSaysThatItIsDone) {
  const auto answer = json("--ram 64M");
  EXPECT_EQ(answer["done"], true);
  EXPECT_EQ(answer["events_left_out"], 0);
  EXPECT_EQ(answer["steps"], answer["events"].size());
}

TEST_F(Explain, MistakesAreNamed) {
  expect_sentence(quire("explain alloc --order 11"), "log2 pages from 0 to 10", 2);
  expect_sentence(quire("explain alloc --order -1"), "--order -1", 2);
  expect_sentence(quire("explain alloc --gfp GFP_KERNAL"), "did you mean 'GFP_KERNEL'?", 2);
  expect_sentence(quire("explain alloc --alloc-policy linux-5"), "there are: linux-2.4, linux-4.0, linux-6", 2);
  expect_sentence(quire("explain alloc --fill 101"), "percent from 0 to 100", 2);
  expect_sentence(quire("explain alloc --fragment"), "--order 1 or more", 2);
  expect_sentence(quire("explain alloc --nodes 2 --on-node 2"), "from 0 to 1", 2);
  expect_sentence(quire("explain alloc --ram 64M --fill 1 --swap zram:1G"), "ask for more", 1);
}

TEST_F(Explain, ThePolicyStandsInAMachineFileToo) {
  write("old.toml", "ram = \"64M\"\nalloc_policy = \"linux-2.4\"\n");
  EXPECT_THAT(quire("explain alloc --machine old.toml").out, HasSubstr("policy linux-2.4"));
  EXPECT_THAT(quire("boot --machine old.toml").out, AllOf(HasSubstr("Bootmem: node 0"), HasSubstr("mobility grouping off")));
  write("bad.toml", "alloc_policy = \"linux-2.2\"\n");
  expect_sentence(quire("boot --machine bad.toml"), "unknown allocation policy 'linux-2.2'", 2);
}

TEST_F(Explain, I386HasItsOwnZonesAndRunsNoPrograms) {
  const Output boot = quire("boot --arch i386 --ram 2G --show zoneinfo");
  EXPECT_EQ(boot.status, 0) << boot.err;
  EXPECT_THAT(boot.out,
              AllOf(HasSubstr("zone  HighMem"), HasSubstr("zone   Normal"), Not(HasSubstr("DMA32")), Not(HasSubstr("Device"))));
  EXPECT_THAT(quire("boot --arch i386 --ram 2G --show meminfo").out, HasSubstr("HighTotal:"));
  EXPECT_THAT(quire("explain alloc --arch i386 --ram 2G --gfp GFP_HIGHUSER").out, HasSubstr("node 0 HighMem"));
  expect_sentence(quire("run --arch i386 -- true"), "no program runs on it", 2);
  expect_sentence(quire("boot --arch i368"), "did you mean 'i386'?", 2);
  expect_sentence(quire("boot --arch i386 --nodes 2 --ram 512M"), "one node", 2);
  // x86-64 shows nothing of it.
  const Output other = quire("boot --ram 64M --show zoneinfo,meminfo");
  EXPECT_THAT(other.out, AllOf(Not(HasSubstr("High")), HasSubstr("protection: (0, ")));
}

}  // namespace
}  // namespace quire
