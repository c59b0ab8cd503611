// The commands as a person types them: what they print, what they return, and what they say to bad input.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "commands.h"
#include "effort.h"

namespace quire {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

TEST_F(Commands, BootPrintsLogAndZones) {
  const Output output =
      quire("boot --ram 64M --cpus 2 --nodes 2 --swap zram:128M --profile linux-6 --seed 7 --kernel-reserved 16M");
  EXPECT_EQ(output.status, 0) << output.err;
  EXPECT_THAT(output.out,
              AllOf(HasSubstr("BIOS-e820"), HasSubstr("DMA32"), HasSubstr("managed"), HasSubstr("min_free_kbytes")));
  const json zones = json::parse(quire("boot --ram 64M --json").out)["zones"];
  ASSERT_EQ(zones.size(), 2u);
  EXPECT_EQ(zones[0]["zone"], "DMA");
}

TEST_F(Commands, AMachineFileSaysTheSameAsTheOptions) {
  std::ofstream(path("m.toml")) << "ram = \"96M\"\ncpus = 2\nswap = [\"zram:64M\"]\nvm.swappiness = 10\n";
  const Output file = quire("boot --json --machine m.toml");
  ASSERT_EQ(file.status, 0) << file.err;
  EXPECT_EQ(file.out, quire("boot --json --ram 96M --cpus 2 --swap zram:64M --sysctl vm.swappiness=10").out);
  EXPECT_EQ(quire("boot --json --machine m.toml --ram 64M").out, quire("boot --json --ram 64M --cpus 2 --swap zram:64M").out);
}

TEST_F(Commands, BadWordsGetOneSentence) {
  expect_sentence(quire("boot --ram 64Q"), "64Q");
  expect_sentence(quire("boot --ram -1"), "-1");
  expect_sentence(quire("boot --ram 1M"), "RAM");
  expect_sentence(quire("boot --ram 64M --swap floppy:1M"), "zram or disk");
  expect_sentence(quire("boot --ram 64M --cpus 0"), "--cpus 0");
  expect_sentence(quire("boot --ram 64M --nodes 100"), "--nodes 100");
  expect_sentence(quire("boot --ram 64M --profile linux-7"), "did you mean");
  expect_sentence(quire("boot --ram 64M --sysctl vm.swapiness=3"), "did you mean 'vm.swappiness'");
  expect_sentence(quire("boot --ram 64M --sysctl vm.swappiness"), "NAME=NUMBER");
  expect_sentence(quire("boot --ram 64M --cost clear_pag=3"), "did you mean 'clear_page'");
  expect_sentence(quire("boot --machine absent.toml"), "absent.toml");
  expect_sentence(quire("boot --rum 64M"), "--rum");
  expect_sentence(quire("bot"), "bot");
  expect_sentence(quire(""), "subcommand");
  expect_sentence(quire("replay"), "traces");
  expect_sentence(quire("replay absent.qtr"), "absent.qtr");
  expect_sentence(quire("info absent.qtr"), "absent.qtr");
  expect_sentence(quire("run --ram 64M"), "behind --");
  expect_sentence(quire("run --ram 4M -- true"), "RAM");
  expect_sentence(quire("record -o t.qtr"), "behind --");
  expect_sentence(quire("compare --ram 64M"), "name either traces");
  std::ofstream(path("text.qtr")) << "this is no trace at all, only words";
  expect_sentence(quire("replay text.qtr"), "text.qtr");
  expect_sentence(quire("info text.qtr"), "text.qtr");
}

// A machine in the middle of a program: its process as /proc shows it, its kernel objects, and the same files at the end.
TEST_F(Commands, ReplayShowsTheMachineAtAnyMoment) {
  make_words();
  ASSERT_EQ(quire("record -o sort.qtr -- sort --parallel=1 -o sorted words").status, 0);
  const std::string words = "replay --ram 32M sort.qtr --at 5ms --show ";
  const Output maps = quire(words + "maps:1");
  ASSERT_EQ(maps.status, 0) << maps.err;
  EXPECT_THAT(maps.out, AllOf(HasSubstr(" rw-p 00000000 00:00 0 "), HasSubstr("[stack]\n"), HasSubstr(" r-xp ")));
  EXPECT_EQ(maps.out, quire(words + "maps:1").out);
  EXPECT_THAT(quire(words + "status:1").out,
              AllOf(HasSubstr("Name:\tsort\n"), HasSubstr("\nVmRSS:\t    "), Not(HasSubstr("VmExe:\t       0 kB"))));
  EXPECT_THAT(quire(words + "pagemap:1").out, HasSubstr(" present file "));
  const json seen = json::parse(quire(words + "slabinfo,vmallocinfo,meminfo --json").out);
  EXPECT_THAT(seen["vmallocinfo"].get<std::string>(), HasSubstr("dup_task_struct pages=4 vmalloc"));
  EXPECT_THAT(seen["meminfo"].get<std::string>(), HasSubstr("KernelStack:          16 kB\n"));
  EXPECT_THAT(seen["slabinfo"].get<std::string>(), HasSubstr("\nvm_area_struct "));
  EXPECT_THAT(quire("replay --ram 32M sort.qtr --show meminfo").out, HasSubstr("KernelStack:           0 kB\n"));

  expect_sentence(quire("replay sort.qtr --at 5ms"), "--show");
  expect_sentence(quire("replay sort.qtr --at 5days --show meminfo"), "--at");
  expect_sentence(quire(words + "maps"), "maps:1");
  expect_sentence(quire(words + "maps:7"), "no process 7 has begun; there are 1 (sort)");
  expect_sentence(quire(words + "mapz:1"), "did you mean 'maps'");
  for (const std::string wrong : {"maps:99999999999", "maps:1:2", "maps:", "maps:-1"}) {
    expect_sentence(quire(words + wrong), "is no process number: write one from 1 to 2147483647", 2);
  }
  expect_sentence(quire(words + "meminfo:1"), "meminfo is the whole machine's, not a process's: write meminfo alone", 2);
  expect_sentence(quire("boot --ram 64M --show maps:1"), "has no processes: give quire replay a trace", 2);
  EXPECT_THAT(quire("boot --help").out, AllOf(HasSubstr("zoneinfo"), Not(HasSubstr("smaps_rollup"))));

  // When all is over, the sentence says where to look.
  const Output over = quire("replay --ram 32M sort.qtr --show maps:1");
  expect_sentence(over, "process 1 ended at 0.", 1);
  const std::string_view when = std::string_view(over.err).substr(over.err.find("--at "));
  const Output earlier = quire("replay --ram 32M sort.qtr --show maps:1 " + std::string(when));
  EXPECT_EQ(earlier.status, 0) << earlier.err;
  EXPECT_EQ(std::count(earlier.err.begin(), earlier.err.end(), '\n'), 0) << earlier.err;
  expect_sentence(quire("replay --ram 32M sort.qtr --show maps:7"), "no process 7 has begun; all that did have ended", 1);
}

TEST_F(Commands, RecordThenReplayTwiceGivesTheSame) {
  make_words();
  const Output recorded = quire("record -o sort.qtr -- sort --parallel=1 -o sorted words");
  ASSERT_EQ(recorded.status, 0) << recorded.err;
  EXPECT_EQ(shell("sort -c sorted && wc -l <sorted").out, "20000\n");
  const std::string words = "replay --json --ram 32M --kernel-reserved 4M --cpus 2 --swap zram:64M --seed 3 sort.qtr";
  const Output first = quire(words);
  ASSERT_EQ(first.status, 0) << first.err;
  const json report = without_host(first.out);
  EXPECT_EQ(report, without_host(quire(words).out));
  EXPECT_EQ(report["programs"][0]["exit_status"], 0);
  EXPECT_EQ(report["replay"]["diverged_calls"], 0) << report["replay"].dump();
  EXPECT_GT(report["replay"]["accesses"], 1000);
  EXPECT_EQ(report["vmstat"]["oom_kill"], 0);
  // Stray accesses would mean that the trace does not tell of memory the program used.
  EXPECT_LE(report["replay"]["stray_accesses"].get<double>(), report["replay"]["accesses"].get<double>() / 1000);
}

TEST_F(Commands, ATraceReplaysOnFiveLevelsOfTablesAndOnASmallTlb) {
  make_words(2000);
  ASSERT_EQ(quire("record -o sort.qtr -- sort --parallel=1 -o sorted words").status, 0);
  const auto replayed = [this](const std::string& options) {
    const Output out = quire("replay --json --ram 32M --kernel-reserved 4M " + options + " sort.qtr");
    EXPECT_EQ(out.status, 0) << out.err;
    return without_host(out.out);
  };
  const json four = replayed("");
  const json five = replayed("--arch x86-64-la57");
  EXPECT_EQ(five["programs"][0]["exit_status"], 0);
  EXPECT_EQ(five["replay"]["diverged_calls"], 0);
  EXPECT_EQ(five["vmstat"]["pgfault"], four["vmstat"]["pgfault"]);
  // One table more for the process: the fifth level's.
  EXPECT_NE(five["vmstat"]["pgfree"], four["vmstat"]["pgfree"]);
  const json small = replayed("--tlb l1_4k=4x4,l2=16x4");
  EXPECT_EQ(small["replay"]["diverged_calls"], 0);
  EXPECT_EQ(small["vmstat"]["pgfault"], four["vmstat"]["pgfault"]);
  EXPECT_GT(four["tlb"]["l1_hits"], four["tlb"]["misses"]);
  EXPECT_GT(small["tlb"]["misses"], four["tlb"]["misses"]);
  EXPECT_GT(small["tlb"]["evictions"], four["tlb"]["evictions"]);
  expect_sentence(quire("replay --tlb l2=10x4 sort.qtr"), "power of two", 2);
  expect_sentence(quire("replay --arch x86-64-la75 sort.qtr"), "did you mean 'x86-64-la57'?", 2);
}

TEST_F(Commands, RunTwiceGivesTheSameAndTheProgramsOwnOutputFiles) {
  make_words(2000);
  const std::string words = "run --json --ram 64M --kernel-reserved 8M -- sort --parallel=1 -o sorted words";
  const Output first = quire(words);
  ASSERT_EQ(first.status, 0) << first.err;
  EXPECT_EQ(shell("sort -c sorted").status, 0);
  EXPECT_EQ(without_host(first.out), without_host(quire(words).out));
}

TEST_F(Commands, CompareMoreMemoryNeverFaultsMore) {
  make_words(60'000);
  ASSERT_EQ(quire("record -o sort.qtr -- sort --parallel=1 -S 8M -o sorted words").status, 0);
  const std::string machine = "--kernel-reserved 2M --swap zram:64M sort.qtr";
  const Output table = quire("compare --ram 10M,14M,20M,32M " + machine);
  ASSERT_EQ(table.status, 0) << table.err;
  EXPECT_THAT(table.out, AllOf(HasSubstr("pgmajfault"), HasSubstr("major faults"), HasSubstr("estimated run time")));
  std::istringstream lines(quire("compare --json --ram 10M,14M,20M,32M " + machine).out);
  std::vector<std::int64_t> faults;
  for (std::string line; std::getline(lines, line);) faults.push_back(json::parse(line)["vmstat"]["pgmajfault"]);
  ASSERT_EQ(faults.size(), 4u);
  EXPECT_TRUE(std::is_sorted(faults.rbegin(), faults.rend())) << testing::PrintToString(faults);
  EXPECT_GT(faults.front(), faults.back());
}

// A trace without the recorder's filter faults as often. Which page is reclaimed when hangs on the timing of single accesses,
// so one size may be off by chance where another agrees to the digit (docs/fidelity.md has the figures): sizes are summed.
TEST_F(Commands, TheFilterKeepsFaultCountsUnderPressure) {
  if (kEveryCheckIsOn) GTEST_SKIP() << "half a minute of replay in the optimised build, which runs it, and ten times that here";
  make_words(100'000);
  const std::string program = "-- sort --parallel=1 -S 12M -o sorted words";
  ASSERT_EQ(quire("record -o filtered.qtr " + program).status, 0);
  ASSERT_EQ(quire("record --unfiltered -o whole.qtr " + program).status, 0);
  std::map<std::string, double> filtered, whole;
  for (const std::string ram : {"14M", "16M"}) {
    const auto add = [&](const std::string& trace, std::map<std::string, double>& sums) {
      const json report =
          json::parse(quire("replay --json --ram " + ram + " --kernel-reserved 4M --swap zram:64M " + trace).out);
      for (const std::string counter : {"pgfault", "pgmajfault"}) sums[counter] += report["vmstat"][counter].get<double>();
      sums["accesses"] += report["replay"]["accesses"].get<double>();
    };
    add("filtered.qtr", filtered);
    add("whole.qtr", whole);
  }
  EXPECT_GT(whole["accesses"], 50 * filtered["accesses"]);
  EXPECT_GT(whole["pgmajfault"], 500);
  EXPECT_NEAR(filtered["pgfault"], whole["pgfault"], whole["pgfault"] * 0.08);
  EXPECT_NEAR(filtered["pgmajfault"], whole["pgmajfault"], whole["pgmajfault"] * 0.15);
}

TEST_F(Commands, TracesCompeteOnOneMachine) {
  make_words(5000);
  ASSERT_EQ(quire("record -o a.qtr -- sort --parallel=1 -o sorted words").status, 0);
  ASSERT_EQ(quire("record -o b.qtr -- gzip -k words").status, 0);
  const Output both = quire("replay --json --ram 48M --kernel-reserved 8M --cpus 2 a.qtr b.qtr");
  ASSERT_EQ(both.status, 0) << both.err;
  const json report = json::parse(both.out);
  ASSERT_EQ(report["programs"].size(), 2u);
  EXPECT_GE(report["processes"].size(), 2u);
}

TEST_F(Commands, ImportsLackeyText) {
  std::ofstream(path("t.lackey"))
      << "==1== lackey\nI  00400000,4\n S 00601000,8\nI  00400004,4\n L 00601008,8\n M 00602000,4\n";
  ASSERT_EQ(quire("import t.lackey -o t.qtr").status, 0);
  const json info = json::parse(quire("info --json t.qtr").out);
  EXPECT_EQ(info["complete"], true);
  EXPECT_EQ(quire("replay --ram 64M t.qtr").status, 0);
  std::ofstream(path("bad.lackey")) << "I  00400000,4\n S zebra,8\n";
  const Output bad = quire("import bad.lackey -o bad.qtr");
  EXPECT_NE(bad.status, 0);
  EXPECT_THAT(bad.err, HasSubstr("2"));
  EXPECT_FALSE(std::filesystem::exists(path("bad.qtr")));
}

}  // namespace
}  // namespace quire
