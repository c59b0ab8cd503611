// Exit statuses: the program's own, the shell's for what cannot run, and the signal's for what was stopped.
#include <elf.h>

#include <cstring>
#include <string>

#include "commands.h"

namespace quire {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// An ELF header and nothing behind it.
std::string elf_header(unsigned char bits, std::uint16_t machine) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = bits;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = machine;
  header.e_version = EV_CURRENT;
  header.e_ehsize = sizeof header;
  return std::string(reinterpret_cast<const char*>(&header), sizeof header);
}

TEST_F(Commands, WhatCannotRunGivesTheShellsStatus) {
  for (const std::string command : {"run --ram 64M -- ", "record -o t.qtr -- ", "compare --ram 64M -- "}) {
    expect_sentence(quire(command + "./no-such-program"), "./no-such-program: no such program", 127);
    expect_sentence(quire(command + "no-such-program-anywhere"), "no such program in PATH", 127);
    write("text", "no program");
    expect_sentence(quire(command + "./text"), "./text is not executable", 126);
    write_program("script", "no program");
    expect_sentence(quire(command + "./script"), "neither an ELF program nor a script", 126);
    write_program("arm", elf_header(ELFCLASS64, EM_AARCH64));
    expect_sentence(quire(command + "./arm"), "./arm is not a 64-bit x86 program", 126);
    write_program("elf32", elf_header(ELFCLASS32, EM_386));
    expect_sentence(quire(command + "./elf32"), "./elf32 is not a 64-bit x86 program", 126);
    write_program("orphan", "#!/no/such/interpreter\n");
    expect_sentence(quire(command + "./orphan"), "/no/such/interpreter", 126);
  }
  EXPECT_FALSE(std::filesystem::exists(path("t.qtr")));
}

TEST_F(Commands, ADamagedProgramIsWhatIsBlamed) {
  write_program("damaged", elf_header(ELFCLASS64, EM_X86_64));
  const Output output = quire("record -o t.qtr -- ./damaged");
  EXPECT_EQ(output.status, 125);
  EXPECT_THAT(output.err, HasSubstr("ran no instruction of ./damaged: is that file a whole program?"));
  EXPECT_FALSE(std::filesystem::exists(path("t.qtr")));
}

TEST_F(Commands, RunPassesTheProgramsStatusThroughAndReportsIt) {
  const auto first = [](const Output& output) { return json::parse(output.out)["programs"][0]["exit_status"].get<int>(); };
  const Output seven = quire("run --json --ram 64M -- sh -c 'exit 7'");
  EXPECT_EQ(seven.status, 7) << seven.err;
  EXPECT_EQ(first(seven), 7);
  EXPECT_EQ(seven.err, "");
  const Output none = quire("run --json --ram 64M -- true");
  EXPECT_EQ(none.status, 0) << none.err;
  EXPECT_EQ(first(none), 0);
  const Output killed = quire("run --json --ram 64M -- sh -c 'kill -SEGV $$'");
  EXPECT_EQ(killed.status, 139);
  EXPECT_EQ(first(killed), 139);
  EXPECT_THAT(killed.err, HasSubstr("SIGSEGV"));
}

// The signal goes to the recording alone, as `kill` sends it; the program runs until it is stopped, and says so.
constexpr const char* kUntilStopped = "sh -c 'trap \"exit 0\" TERM INT; echo > going; while :; do sleep 0.1; done'";
constexpr const char* kStopWhenGoing =
    " & child=$!; n=0; while [ ! -e going ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n + 1)); done; kill -INT $child; wait $child";

// A shell without job control has its background processes ignore SIGINT, which a recording must not inherit.
std::string in_background(const std::string& words) {
  return std::string("env --default-signal=INT $QUIRE ") + words + kUntilStopped + kStopWhenGoing;
}

TEST_F(Commands, AStoppedRecordingKeepsItsTraceAndIsNoSuccess) {
  const Output stopped = shell(in_background("record -o t.qtr -- "));
  EXPECT_EQ(stopped.status, 130) << stopped.err;
  EXPECT_THAT(stopped.err, HasSubstr("stopped by signal 2 (SIGINT)"));
  const Output info = quire("info --json t.qtr");
  ASSERT_EQ(info.status, 0) << info.err;
  EXPECT_EQ(json::parse(info.out)["complete"], true);
  EXPECT_GT(json::parse(quire("replay --json --ram 64M t.qtr").out)["replay"]["accesses"], 100);
}

TEST_F(Commands, AStoppedRunReportsWhatThereWasAndIsNoSuccess) {
  const Output stopped = shell(in_background("run --json --ram 64M -- "));
  EXPECT_EQ(stopped.status, 130) << stopped.err;
  EXPECT_GT(json::parse(stopped.out)["replay"]["accesses"], 100);
}

TEST_F(Commands, AStoppedComparisonComparesNothing) {
  const Output stopped = shell(in_background("compare --ram 64M,96M -- "));
  EXPECT_EQ(stopped.status, 130) << stopped.err;
  EXPECT_EQ(stopped.out, "");
}

TEST_F(Commands, CompareTellsThatTheProgramFailed) {
  const Output failed = quire("compare --ram 64M -- sh -c 'exit 3'");
  EXPECT_EQ(failed.status, 0) << failed.err;
  EXPECT_THAT(failed.err, HasSubstr("sh ended with status 3"));
  EXPECT_THAT(failed.out, HasSubstr("pgmajfault"));
}

TEST_F(Commands, CompareChecksEverythingBeforeItWorks) {
  expect_sentence(quire("compare --ram 64M,8M -- touch ran"), "--ram 8M: RAM too small", 1);
  EXPECT_FALSE(std::filesystem::exists(path("ran"))) << "the program ran for nothing";
  expect_sentence(quire("compare --ram 64M,96M,128M absent.qtr"), "absent.qtr", 1);
  expect_sentence(shell("TMPDIR=/nonexistent $QUIRE compare --ram 64M -- true"), "TMPDIR=/nonexistent", 1);
}

TEST_F(Commands, ATraceThatBreaksOffIsSaidToWhereverItIsUsed) {
  make_words(60'000);
  ASSERT_EQ(quire("record -o whole.qtr -- sh -c 'sort --parallel=1 -o sorted words; exit 7'").status, 7);
  // Without its end chunk, and without its second half.
  ASSERT_EQ(shell("head -c -10 whole.qtr >tail.qtr; head -c $(($(wc -c <whole.qtr) / 2)) whole.qtr >half.qtr").status, 0);
  for (const std::string trace : {"tail.qtr", "half.qtr"}) {
    const Output info = quire("info " + trace);
    EXPECT_EQ(info.status, 1);
    EXPECT_THAT(info.err, HasSubstr(trace + " breaks off"));
    const Output replayed = quire("replay --ram 64M --json " + trace);
    EXPECT_EQ(replayed.status, 1);
    EXPECT_THAT(replayed.err, HasSubstr(trace + " breaks off"));
    const json report = json::parse(replayed.out);
    EXPECT_EQ(report["programs"][0]["whole"], false);
    EXPECT_EQ(report["programs"][0]["exit_status"], trace == "tail.qtr" ? json(7) : json());
    for (const std::string when : {"", "--at 1000s "}) {
      const Output shown = quire("replay --ram 64M " + when + "--show meminfo " + trace);
      EXPECT_EQ(shown.status, 1) << when;
      EXPECT_THAT(shown.err, HasSubstr(trace + " breaks off")) << when;
      EXPECT_THAT(shown.out, HasSubstr("MemTotal:")) << when;
    }
    const Output compared = quire("compare --ram 64M,96M " + trace);
    EXPECT_EQ(compared.status, 1);
    EXPECT_THAT(compared.out, HasSubstr(trace + " is not whole"));
  }
  EXPECT_EQ(quire("compare --ram 64M whole.qtr").err, "");
  // Before anybody has read so far.
  const Output early = quire("replay --ram 64M --at 1us --show meminfo whole.qtr");
  EXPECT_EQ(early.status, 0) << early.err;
  EXPECT_EQ(early.err, "");
}

}  // namespace
}  // namespace quire
