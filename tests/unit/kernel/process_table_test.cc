#include "quire/kernel/process_table.h"

#include <set>

#include "quire/reclaim/oom.h"
#include "small_machine.h"

namespace quire::kernel {
namespace {

using sim::FaultPoint;

TEST(ProcessTable, AProcessThatCouldNotBeMadeLeavesNothingBehind) {
  const auto machine = boot_small();
  ProcessTable& table = machine->processes();
  unsigned failed = 0;
  std::size_t made = 1;
  start(*machine, "parent", [&](Process& parent) {
    const auto child = [&table](Thread& thread) { table.exit_thread(thread, {}); };
    const auto try_all = [&](auto&& make) {
      for (std::uint64_t nth = 1; nth <= 16; ++nth) {
        machine->faults().set(FaultPoint::kPageAlloc, {.nth = nth});
        const Result<Process*> process = make();
        machine->faults().set(FaultPoint::kPageAlloc, {});
        process ? ++made : ++failed;
        ASSERT_EQ(table.all().size(), made);
      }
    };
    try_all([&] { return table.create("created", child); });
    try_all([&] { return table.fork(parent, child); });
    try_all([&] { return table.vfork(parent, child); });
  });
  ASSERT_TRUE(machine->run().done());
  EXPECT_GT(failed, 3u);
  std::set<int> pids;
  for (const auto& process : table.all()) EXPECT_TRUE(pids.insert(process->pid).second) << process->pid;
}

// From the kill until its pages are free the victim is the reason to kill nobody else.
TEST(ProcessTable, AVictimCountsUntilItsMemoryIsFree) {
  const auto machine = boot_small(32 * kMiB, 2);
  ProcessTable& table = machine->processes();
  vm::Vm& vm = machine->vm();
  constexpr std::uint64_t kPages = 2000;
  const auto anon_pages = [&] { return machine->phys().global_node_page_state(phys::NodeStat::kNrAnonPages); };
  Process& victim = start(*machine, "victim", [&](Process& self) {
    const VirtAddr at = *vm.mmap(*self.mm, VirtAddr(0), kPages * kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                                 vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0);
    EXPECT_EQ(vm.touch_user(*self.mm, at, kPages * kPageSize, arch::Access::kWrite), kPages * kPageSize);
    machine->scheduler().sleep_for(sim::kSecond);
  });
  unsigned while_dying = 0;
  start(*machine, "bystander", [&](Process&) {
    machine->scheduler().sleep_for(500 * sim::kMillisecond);
    table.oom_kill_process(static_cast<std::uint64_t>(victim.pid), 0);
    while (victim.state == ProcessState::kRunning) {
      const reclaim::OomChoice choice = reclaim::select_bad_process(table, 8192);
      if (anon_pages() > 100) {
        ++while_dying;
        ASSERT_EQ(choice.kind, reclaim::OomChoice::Kind::kAlreadyDying) << anon_pages();
      }
      machine->scheduler().charge(sim::kMicrosecond);
      machine->scheduler().sync_point();
    }
  });
  ASSERT_TRUE(machine->run().done());
  EXPECT_GT(while_dying, 10u);
  EXPECT_EQ(anon_pages(), 0);
}

// The whole way: processes that want more than there is, the allocator's cry for help, one killed at a time.
TEST(ProcessTable, TheOomKillerTakesTheLargestAndTheOthersEndWell) {
  const auto machine = boot_small(32 * kMiB, 2);
  vm::Vm& vm = machine->vm();
  const auto eater = [&](std::uint64_t pages) {
    return [&vm, pages, m = machine.get()](Process& self) {
      const VirtAddr at = *vm.mmap(*self.mm, VirtAddr(0), pages * kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                                   vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0);
      for (std::uint64_t i = 0; i < pages && !self.killed(); ++i) {
        static_cast<void>(vm.touch_user(*self.mm, at + i * kPageSize, 1, arch::Access::kWrite));
      }
      if (!self.killed()) m->scheduler().sleep_for(sim::kSecond);
    };
  };
  Process& small = start(*machine, "small", eater(1000));
  Process& large = start(*machine, "large", eater(6000));
  Process& other = start(*machine, "other", eater(1000));
  ASSERT_TRUE(machine->run().done());
  EXPECT_EQ(machine->reclaim().nr_oom_kills(), 1u);
  EXPECT_EQ(large.exit.signal, 9);
  EXPECT_EQ(small.exit.signal, 0);
  EXPECT_EQ(other.exit.signal, 0);
  machine->validate();
}

TEST(ProcessTable, AVforkChildIsNotKilledForItsParentsMemory) {
  const auto machine = boot_small();
  ProcessTable& table = machine->processes();
  Process& parent = start(*machine, "parent", [&](Process& self) {
    const auto child = table.vfork(self, [&](Thread& thread) {
      const reclaim::OomChoice choice = reclaim::select_bad_process(table, 8192);
      EXPECT_EQ(choice.pid, static_cast<std::uint64_t>(self.pid));
      EXPECT_EQ(table.current_pid(), static_cast<std::uint64_t>(thread.process->pid));
      table.exit_thread(thread, {});
    });
    ASSERT_TRUE(child);
  });
  ASSERT_TRUE(machine->run().done());
  EXPECT_EQ(parent.state, ProcessState::kReaped);
}

// A thread that has touched nothing yet runs in its address space all the same: its CPU flushes a page, and does not leave.
TEST(ProcessTable, ANewThreadIsNotLazyInItsAddressSpace) {
  const auto machine = boot_small();
  ProcessTable& table = machine->processes();
  vm::Vm& vm = machine->vm();
  const auto flushed = [&] { return machine->phys().vmstat()[phys::VmEvent::kNrTlbLocalFlushOne]; };
  const auto process = table.create("threads", [&](Thread& thread) {
    vm::Mm& mm = *thread.process->mm;
    const VirtAddr at = *vm.mmap(mm, VirtAddr(0), 3 * kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                                 vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0);
    ASSERT_EQ(vm.touch_user(mm, at, 3 * kPageSize, arch::Access::kWrite), 3 * kPageSize);
    bool done = false;
    const auto unmapper = [&](Thread& second) {
      const std::int64_t before = flushed();
      EXPECT_TRUE(vm.munmap(mm, at, kPageSize));
      EXPECT_EQ(flushed(), before + 1);
      EXPECT_TRUE(mm.cpumask.test(0));
      done = true;
      table.exit_thread(second, {});
    };
    ASSERT_TRUE(table.clone_thread(*thread.process, unmapper));
    while (!done) machine->scheduler().sleep_for(sim::kMicrosecond);
    table.exit_thread(thread, {});
  });
  ASSERT_TRUE(process);
  ASSERT_TRUE(machine->run().done());
}

// A child of vfork that ends uses its parent's memory no more; a parent whose vfork failed goes on in it.
TEST(ProcessTable, WhoEndsIsLazyFromThenOn) {
  const auto machine = boot_small();
  ProcessTable& table = machine->processes();
  vm::Vm& vm = machine->vm();
  start(*machine, "parent", [&](Process& parent) {
    const VirtAddr at = *vm.mmap(*parent.mm, VirtAddr(0), kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                                 vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0);
    ASSERT_EQ(vm.touch_user(*parent.mm, at, kPageSize, arch::Access::kWrite), kPageSize);
    const std::uint64_t context = parent.mm->context_id;
    const auto child = [&](Thread& thread) {
      const sim::Task& task = *thread.task;
      EXPECT_EQ(task.mm_context, context);
      table.exit_thread(thread, {});
      EXPECT_EQ(task.mm_context, 0u);
    };
    machine->faults().set(FaultPoint::kPageAlloc, {.nth = 1});
    static_cast<void>(table.vfork(parent, child));
    machine->faults().set(FaultPoint::kPageAlloc, {});
    EXPECT_EQ(machine->scheduler().current()->mm_context, context);
    ASSERT_TRUE(table.vfork(parent, child));
  });
  ASSERT_TRUE(machine->run().done());
}

// exit_group(0) is an end like any other: that its other threads are killed for it does not show.
TEST(ProcessTable, TheFirstWordOnTheExitStatusStands) {
  const auto machine = boot_small(32 * kMiB, 2);
  ProcessTable& table = machine->processes();
  const auto waiter = [&](Thread& thread) {
    while (!thread.process->killed()) machine->scheduler().sleep_for(sim::kMicrosecond);
    table.exit_thread(thread, {0, 9});
  };
  const auto process = table.create("group", [&](Thread& thread) {
    ASSERT_TRUE(table.clone_thread(*thread.process, waiter));
    ASSERT_TRUE(table.clone_thread(*thread.process, waiter));
    machine->scheduler().sleep_for(10 * sim::kMicrosecond);
    table.exit_group(thread, {0, 0});
  });
  ASSERT_TRUE(process);
  ASSERT_TRUE(machine->run().done());
  EXPECT_EQ((*process)->exit.code, 0);
  EXPECT_EQ((*process)->exit.signal, 0);
}

// A kill between the old address space and the new one is not lost.
TEST(ProcessTable, AKillDuringExecStands) {
  unsigned killed_inside = 0;
  for (std::uint64_t delay = 0; delay < 60; ++delay) {
    const auto machine = boot_small(32 * kMiB, 2);
    ProcessTable& table = machine->processes();
    vm::Vm& vm = machine->vm();
    enum class At { kBefore, kInside, kAfter } at = At::kBefore;
    Process& victim = start(*machine, "victim", [&](Process& self) {
      const VirtAddr area = *vm.mmap(*self.mm, VirtAddr(0), 64 * kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                                     vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0);
      static_cast<void>(vm.touch_user(*self.mm, area, 64 * kPageSize, arch::Access::kWrite));
      at = At::kInside;
      static_cast<void>(table.exec(self, "next"));
      at = At::kAfter;
      machine->scheduler().sleep_for(sim::kSecond);
      EXPECT_TRUE(self.killed());
    });
    start(*machine, "killer", [&](Process&) {
      while (at == At::kBefore) machine->scheduler().sleep_for(100);
      machine->scheduler().sleep_for(delay * 100);
      killed_inside += at == At::kInside ? 1 : 0;
      table.kill(victim, 9);
    });
    ASSERT_TRUE(machine->run().done());
    EXPECT_EQ(victim.exit.signal, 9) << delay;
  }
  EXPECT_GT(killed_inside, 0u);
}

// Both are woken for the child; whoever comes second hears that there is none any more.
TEST(ProcessTable, ExecNamesTheTaskToo) {
  const auto machine = boot_small();
  start(*machine, "old", [&](Process& self) {
    const sim::Task& task = *machine->scheduler().current();
    EXPECT_EQ(task.name(), "old");
    ASSERT_TRUE(machine->processes().exec(self, "a-name-of-sixteen"));
    EXPECT_EQ(self.comm, "a-name-of-sixte");  // TASK_COMM_LEN is 16 with the zero
    EXPECT_EQ(task.name(), self.comm);
  });
  ASSERT_TRUE(machine->run().done());
}

TEST(ProcessTable, OneOfTwoThreadsThatWaitForAChildReapsIt) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const auto machine = boot_small(32 * kMiB, 2, 500, seed);
    ProcessTable& table = machine->processes();
    const Objects empty = objects(*machine);
    unsigned reaped = 0;
    unsigned late = 0;
    start(*machine, "parent", [&](Process& self) {
      const auto child = table.fork(self, [&](Thread& thread) {
        machine->scheduler().sleep_for(100 * sim::kMicrosecond);
        table.exit_thread(thread, {3, 0});
      });
      ASSERT_TRUE(child);
      const auto waits = [&table, &self, &reaped, &late, made = *child] {
        const auto status = table.wait(self, *made);
        ++(status ? reaped : late);
        EXPECT_EQ(status ? Errno{} : status.error(), status ? Errno{} : Errno::kChild);
        EXPECT_EQ(status.value_or(ExitStatus{3, 0}).code, 3);
      };
      ASSERT_TRUE(table.clone_thread(self, [&table, waits](Thread& thread) {
        waits();
        table.exit_thread(thread, {});
      }));
      waits();
    });
    ASSERT_TRUE(machine->run().done());
    EXPECT_EQ(reaped, 1u) << seed;
    EXPECT_EQ(late, 1u) << seed;
    EXPECT_EQ(objects(*machine), empty) << seed;
    machine->validate();
  }
}

// A process that is waited for ends while its own children do: some have ended, some end at that moment, some later.
TEST(ProcessTable, ChildrenOfAProcessThatEndsAreReapedOnceAndTellNobody) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const auto machine = boot_small(32 * kMiB, 3, 500, seed);
    ProcessTable& table = machine->processes();
    const Objects empty = objects(*machine);
    start(*machine, "grandparent", [&](Process& self) {
      const auto parent = table.fork(self, [&](Thread& thread) {
        for (std::uint64_t i = 0; i < 6; ++i) {
          const auto child = table.fork(*thread.process, [&table, &machine, i](Thread& own) {
            machine->scheduler().sleep_for(i * 10 * sim::kMicrosecond);
            table.exit_thread(own, {});
          });
          ASSERT_TRUE(child);
        }
        table.exit_thread(thread, {5, 0});
      });
      ASSERT_TRUE(parent);
      const auto status = table.wait(self, **parent);
      ASSERT_TRUE(status);
      EXPECT_EQ(status->code, 5);
    });
    ASSERT_TRUE(machine->run().done());
    for (const auto& process : table.all()) EXPECT_EQ(process->state, ProcessState::kReaped) << seed;
    EXPECT_EQ(objects(*machine), empty) << seed;
    machine->validate();
  }
}

// The child then lets go of an address space whose owner is gone, and wakes nobody.
TEST(ProcessTable, AKilledVforkParentMayEndBeforeItsChild) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const auto machine = boot_small(32 * kMiB, 3, 500, seed);
    ProcessTable& table = machine->processes();
    const Objects empty = objects(*machine);
    start(*machine, "grandparent", [&](Process& self) {
      const auto parent = table.fork(self, [&](Thread& thread) {
        static_cast<void>(table.vfork(*thread.process, [&table, &machine, seed](Thread& own) {
          machine->scheduler().sleep_for((100 + seed) * sim::kMicrosecond);
          table.exit_thread(own, {});
        }));
        table.exit_thread(thread, {});
      });
      ASSERT_TRUE(parent);
      machine->scheduler().sleep_for(100 * sim::kMicrosecond);
      table.kill(**parent, 9);
      EXPECT_TRUE(table.wait(self, **parent));
    });
    ASSERT_TRUE(machine->run().done());
    for (const auto& process : table.all()) EXPECT_EQ(process->state, ProcessState::kReaped) << seed;
    EXPECT_EQ(objects(*machine), empty) << seed;
    machine->validate();
  }
}

}  // namespace
}  // namespace quire::kernel
