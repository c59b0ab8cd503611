// What was recorded of programs with threads runs on a machine to its last access.
#include <gmock/gmock.h>

#include "quire/engine/replay.h"
#include "quire/kernel/machine.h"
#include "recording.h"

namespace quire::trace::test {
namespace {

class ReplayedTest : public RecordingTest {
 protected:
  // Replays on a machine of 2 CPUs; every recorded access is replayed and inside an area, and the program ends as recorded.
  static void replay(const Recorded& recorded) {
    kernel::MachineConfig config;
    config.ram = 64 * kMiB;
    config.cpus = 2;
    auto machine = kernel::Machine::boot(config);
    ASSERT_TRUE(machine.has_value());
    engine::Replay replay(**machine);
    auto reader = TraceReader::open(recorded.file);
    ASSERT_TRUE(reader.has_value()) << reader.error();
    ASSERT_TRUE(replay.add(std::move(*reader)).has_value());
    const auto done = replay.run();
    ASSERT_TRUE(done.has_value()) << done.error().sentence;
    EXPECT_EQ(replay.stats().accesses, recorded.info.reads + recorded.info.writes + recorded.info.executes);
    EXPECT_EQ(replay.stats().instructions, recorded.info.instructions);
    EXPECT_EQ(replay.stats().stray_accesses, 0u);
    // Of a process that ends while its threads are at work, a call may be numbered and never told of.
    for (const auto& [what, times] : replay.stats().diverged) EXPECT_THAT(what, testing::HasSubstr("missing")) << times;
    const auto outcomes = replay.outcomes();
    EXPECT_EQ(outcomes.front().exit_status, recorded.exit_status);
    EXPECT_TRUE(outcomes.front().whole);
    (*machine)->settle();
    (*machine)->validate();
  }
};

TEST_F(ReplayedTest, ThreadsThatAreJoined) { replay(check({guest("threads")})); }

TEST_F(ReplayedTest, ThreadsThatHandWorkToEachOther) { replay(check({guest("queue")})); }

TEST_F(ReplayedTest, AProgramThatSharesASegmentWithItsChild) {
  const Recorded recorded = check({guest("shm")});
  EXPECT_EQ(recorded.exit_status, 0);
  replay(recorded);
}

// Who was told of a stop has not waited for the end.
TEST_F(ReplayedTest, AProgramThatWaitsForStopsAndEnds) { replay(record_it({guest("waits")})); }

TEST_F(ReplayedTest, ThreadsThatAreStillAtWorkWhenTheProgramEnds) {
  const Recorded recorded = check({guest("queue"), "leave"});
  EXPECT_EQ(recorded.exit_status, 3);
  replay(recorded);
}

}  // namespace
}  // namespace quire::trace::test
