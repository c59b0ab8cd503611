// Threads, signals, descriptors: what a recorded program may do to itself.
#include "recording.h"

namespace quire::trace::test {
namespace {

using ProcessTest = RecordingTest;

TEST_F(ProcessTest, Threads) {
  const Recorded threads = check({guest("threads")});
  ASSERT_EQ(threads.info.tasks.size(), 5u);
  for (std::size_t i = 1; i < 5; ++i) {
    EXPECT_EQ(threads.info.tasks[i].id.pid, 1u);
    EXPECT_EQ(threads.info.tasks[i].parent, (TaskId{1, 1}));
    EXPECT_GT(threads.info.tasks[i].instructions, 2'000'000u);
  }
}

// QEMU forks only when no other thread runs the guest's code, and these are for ever on their way into the recorder.
TEST_F(ProcessTest, ForksWhileOtherThreadsMapMemory) {
  const Recorded forks = check({guest("forks")});
  EXPECT_EQ(forks.output, "8 children\n");
  EXPECT_EQ(forks.info.tasks.size(), 1u + 4 + 8);
}

TEST_F(ProcessTest, DiesOfASignal) {
  const Recorded segv = check({guest("signals"), "segv"});
  EXPECT_EQ(segv.exit_status, 139);
  EXPECT_EQ(segv.info.tasks.at(0).signal, 11);
  EXPECT_GT(segv.info.tasks.at(0).instructions, 1u << 16);
  const Recorded killed = check({guest("signals"), "kill"});
  EXPECT_EQ(killed.exit_status, 137);
  EXPECT_EQ(killed.info.tasks.at(0).signal, 9);
}

TEST_F(ProcessTest, SurvivesAHandledSignal) { EXPECT_EQ(check({guest("signals"), "handler"}).output, "handled\n"); }

TEST_F(ProcessTest, AChildDiesOfASignal) {
  const Recorded recorded = check({guest("signals"), "child"});
  ASSERT_EQ(recorded.info.tasks.size(), 2u);
  EXPECT_NE(recorded.info.tasks[1].end, TaskInfo::End::kUnknown);
}

TEST_F(ProcessTest, ClosesEveryDescriptor) {
  for (const char* how : {"loop", "range", "dup"}) {
    SCOPED_TRACE(how);
    const Recorded recorded = check({guest("descriptors"), how});
    EXPECT_EQ(recorded.output, "closed 0\nchild\n");
    ASSERT_EQ(recorded.info.tasks.size(), 2u);
    EXPECT_NE(find_program(recorded.info, "/echo"), nullptr);
    EXPECT_GT(recorded.info.pages_written, 256u);  // what it wrote after closing
  }
}

TEST_F(ProcessTest, ADescriptorThatWasRandomOnceIsNotForEver) {
  const std::string words = file("words", "the quick brown fox\n");
  for (const char* how : {"close", "range", "dup2"}) {
    SCOPED_TRACE(how);
    EXPECT_EQ(check({guest("random"), how, words}).output, "the quick brown fox\n");
  }
}

TEST_F(ProcessTest, ExecFailures) {
  const Recorded recorded = check({"sh", "-c", "/no/such/program; /etc/passwd; echo $?; exec /no/such"});
  EXPECT_EQ(recorded.exit_status, 127);
}

TEST_F(ProcessTest, DeepTree) {
  const Recorded recorded = check({"sh", "-c", "(sh -c 'sh -c \"echo a; echo b\"; true'; true); (exit 4)"});
  EXPECT_EQ(recorded.exit_status, 4);
  for (std::size_t i = 0; i < recorded.info.tasks.size(); ++i) EXPECT_EQ(recorded.info.tasks[i].id.pid, i + 1);
}

TEST_F(ProcessTest, KeepsTheLoadersVariablesForTheProgram) {
  check({"sh", "-c", "LD_LIBRARY_PATH=/nowhere GLIBC_TUNABLES=x=y sh -c 'echo $LD_LIBRARY_PATH $GLIBC_TUNABLES'"});
}

}  // namespace
}  // namespace quire::trace::test
