// Views of a machine that stands in the middle of something.
#include "quire/cli/views.h"

#include "../kernel/small_machine.h"
#include "quire/sim/lock_guards.h"
#include "quire/sim/wait_queue.h"

namespace quire::cli {
namespace {

using kernel::Machine;
using kernel::Process;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class ViewsTest : public ::testing::Test {
 protected:
  // A process that changes its areas for so long, then does something else, and sleeps for a while.
  void start_changing(sim::Nanos time, const std::function<void(Process&)>& then = {}) {
    kernel::start(*machine_, "changing", [this, time, then](Process& self) {
      {
        const sim::WriteGuard guard(self.mm->mmap_lock);
        machine_->scheduler().sleep_for(time);
      }
      if (then) then(self);
      machine_->scheduler().sleep_for(sim::kMillisecond);
    });
  }
  // A second task that wants to change the areas of the process, and takes memory when it does.
  void change_in_a_thread_of(Process& self) {
    machine_->scheduler().spawn("changing", [this, &self] {
      machine_->scheduler().sleep_for(10 * sim::kMicrosecond);
      using vm::Prot;
      EXPECT_TRUE(machine_->vm().mmap(*self.mm, VirtAddr(0), kPageSize, Prot::kRead | Prot::kWrite,
                                      vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous | vm::MapFlags::kPopulate, nullptr, 0));
    });
  }
  // A process whose areas one task reads for so long, and another would change meanwhile.
  void start_reading(sim::Nanos time) {
    kernel::start(*machine_, "reading", [this, time](Process& self) {
      change_in_a_thread_of(self);
      {
        const sim::ReadGuard guard(self.mm->mmap_lock);
        machine_->scheduler().sleep_for(time);
      }
      machine_->scheduler().sleep_for(sim::kMillisecond);
    });
  }
  void run_until(sim::Nanos when) { static_cast<void>(machine_->scheduler().run_until(when).done()); }

  struct Shown {
    int status = -1;
    std::string out, err;
  };
  Shown show(const std::vector<std::string>& names) {
    const auto views = find_views(names, Shows::kProcessesToo);
    EXPECT_TRUE(views) << views.error().sentence;
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    Shown shown;
    shown.status = show_views(*machine_, *views, false);
    std::fflush(stdout);
    shown.out = ::testing::internal::GetCapturedStdout();
    shown.err = ::testing::internal::GetCapturedStderr();
    return shown;
  }
  std::string now(const std::string& name) { return find_views({name}, Shows::kProcessesToo)->front().text(*machine_).value(); }

  std::unique_ptr<Machine> machine_ = kernel::boot_small();
  sim::WaitQueue never_{machine_->scheduler(), "never"};
};

// The second process keeps the machine running for a while, in which the first goes on: it is shown as it is afterwards.
TEST_F(ViewsTest, SeveralAreOfOneMoment) {
  kernel::start(*machine_, "busy", [this](Process&) {
    for (int i = 0; i < 100; ++i) machine_->scheduler().sleep_for(10 * sim::kMicrosecond);
  });
  start_changing(500 * sim::kMicrosecond);
  run_until(100 * sim::kMicrosecond);
  const std::string before = now("status:1");
  const Shown shown = show({"status:1", "maps:2"});
  EXPECT_EQ(shown.status, 0) << shown.err;
  EXPECT_EQ(shown.out, "==> status:1 <==\n" + now("status:1") + "==> maps:2 <==\n" + now("maps:2"));
  EXPECT_NE(now("status:1"), before);
  EXPECT_TRUE(machine_->run().done());
}

TEST_F(ViewsTest, AChangeThatDoesNotEndIsSaid) {
  start_changing(1000 * sim::kSecond);
  run_until(sim::kMillisecond);
  const Shown shown = show({"maps:1"});
  EXPECT_EQ(shown.status, 1);
  EXPECT_THAT(shown.err, StartsWith("quire: --show maps:1: process 1 is changing its areas and has not finished 10."));
  EXPECT_TRUE(machine_->run().done());
}

// Whoever would change areas waits for one who reads them, as a fault does that waits for a disk.
TEST_F(ViewsTest, AChangeThatIsQueuedBehindAReaderIsWaitedForToo) {
  start_reading(500 * sim::kMicrosecond);
  run_until(100 * sim::kMicrosecond);
  const std::string before = now("zoneinfo");
  const Shown shown = show({"zoneinfo", "maps:1"});
  EXPECT_EQ(shown.status, 0) << shown.err;
  EXPECT_EQ(shown.out, "==> zoneinfo <==\n" + now("zoneinfo") + "==> maps:1 <==\n" + now("maps:1"));
  EXPECT_NE(now("zoneinfo"), before);
  EXPECT_TRUE(machine_->run().done());
}

TEST_F(ViewsTest, AQueueThatDoesNotMoveIsSaid) {
  start_reading(1000 * sim::kSecond);
  run_until(sim::kMillisecond);
  EXPECT_THAT(show({"maps:1"}).err,
              StartsWith("quire: --show maps:1: process 1 is changing its areas and has not finished 10."));
  EXPECT_TRUE(machine_->run().done());
}

// Nothing runs that could give the lock back.
TEST_F(ViewsTest, AQueueInAMachineThatStandsStillIsSaid) {
  kernel::start(*machine_, "reading", [this](Process& self) {
    change_in_a_thread_of(self);
    const sim::ReadGuard guard(self.mm->mmap_lock);
    never_.wait();
  });
  run_until(sim::kMillisecond);
  const Shown shown = show({"maps:1"});
  EXPECT_EQ(shown.status, 1);
  EXPECT_THAT(shown.err, StartsWith("quire: --show maps:1: process 1 is changing its areas and has not finished "));
}

TEST_F(ViewsTest, WhatIsKnownSaysWhatNeedsANumber) {
  for (const char* name : {"", ":1", "xyzzy"}) {
    EXPECT_THAT(find_views({name}, Shows::kProcessesToo).error().sentence,
                EndsWith(": known are zoneinfo, buddyinfo, pagetypeinfo, extfrag_index, unusable_index, meminfo, slabinfo, "
                         "vmallocinfo, iomem, nodes, memblock; of a process, by its number as in maps:1: maps, smaps, "
                         "smaps_rollup, status, statm, pagemap"));
  }
  EXPECT_THAT(find_views({"xyzzy"}, Shows::kMachine).error().sentence, EndsWith(" iomem, nodes, memblock"));
}

TEST_F(ViewsTest, AProcessMayEndWhileItsChangeIsWaitedFor) {
  start_changing(sim::kMillisecond, [this](Process& self) { machine_->processes().kill(self, 9); });
  run_until(sim::kMillisecond / 2);
  EXPECT_EQ(show({"status:1"}).status, 0);
  EXPECT_TRUE(machine_->run().done());
  EXPECT_THAT(show({"maps:1"}).err, HasSubstr("process 1 ended at 0.0"));
}

TEST_F(ViewsTest, AnotherAddressSpaceMayTakeThePlaceOfTheOneThatWasChanged) {
  start_changing(sim::kMillisecond, [this](Process& self) {
    ASSERT_TRUE(machine_->processes().exec(self, "other"));
    const sim::WriteGuard guard(self.mm->mmap_lock);
    machine_->scheduler().sleep_for(sim::kMillisecond);
  });
  run_until(sim::kMillisecond / 2);
  EXPECT_EQ(show({"status:1"}).status, 0);
  EXPECT_TRUE(machine_->run().done());
}

TEST_F(ViewsTest, OfAZombieThereIsTheStatusAlone) {
  kernel::start(*machine_, "parent", [this](Process& self) {
    kernel::ProcessTable& table = machine_->processes();
    Process* child = table.fork(self, [&table](kernel::Thread& thread) { table.exit_thread(thread, {}); }).value();
    machine_->scheduler().sleep_for(sim::kSecond);
    EXPECT_TRUE(table.wait(self, *child));
  });
  run_until(sim::kSecond / 2);
  const Shown status = show({"status:2"});
  EXPECT_EQ(status.status, 0) << status.err;
  EXPECT_THAT(status.out, HasSubstr("State:\tZ (zombie)\n"));
  EXPECT_THAT(show({"maps:2"}).err, HasSubstr("--show maps:2: process 2 ended at 0.0"));
  EXPECT_TRUE(machine_->run().done());
  EXPECT_THAT(show({"status:2"}).err, HasSubstr("look earlier, for instance with --at "));
}

}  // namespace
}  // namespace quire::cli
