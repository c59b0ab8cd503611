// What processes take of the machine's memory: which objects, when they come and go, and what a failure leaves behind.
#include "quire/sim/fault_injection.h"
#include "small_machine.h"

namespace quire::kernel {
namespace {

using sim::FaultPoint;

// What was taken since `before` (what was given back counts as 0).
Objects more(const Objects& now, const Objects& before) {
  Objects difference;
  for (const auto& [name, count] : now) {
    const auto was = before.find(name);
    const std::uint64_t old = was == before.end() ? 0 : was->second;
    if (count > old) difference[name] = count - old;
  }
  return difference;
}

TEST(KernelObjects, AProcessTakesWhatLinuxTakesAndAZombieKeepsPartOfIt) {
  const auto machine = boot_small();
  ProcessTable& table = machine->processes();
  const Objects empty = objects(*machine);
  start(*machine, "parent", [&](Process& parent) {
    const Objects one = objects(*machine);
    EXPECT_EQ(more(one, empty), (Objects{{"cred_jar", 1},
                                         {"files_cache", 1},
                                         {"fs_cache", 1},
                                         {"kmalloc-32", 1},  // of the stack: its pages, and its vm_struct
                                         {"kmalloc-64", 1},
                                         {"mm_struct", 1},
                                         {"pid", 1},
                                         {"sighand_cache", 1},
                                         {"signal_cache", 1},
                                         {"task_struct", 1}}));
    bool go = false;
    const auto sleeps = [&](Thread& thread) {
      while (!go) machine->scheduler().sleep_for(1000);
      table.exit_thread(thread, {});
    };
    ASSERT_TRUE(table.clone_thread(parent, sleeps));
    EXPECT_EQ(more(objects(*machine), one), (Objects{{"kmalloc-32", 1}, {"kmalloc-64", 1}, {"pid", 1}, {"task_struct", 1}}));
    go = true;
    machine->scheduler().sleep_for(sim::kMillisecond);
    EXPECT_EQ(objects(*machine), one);  // a thread reaps itself

    const auto child = table.fork(parent, [&](Thread& thread) { table.exit_thread(thread, {3, 0}); });
    ASSERT_TRUE(child);
    EXPECT_EQ(more(objects(*machine), one), more(one, empty));
    machine->scheduler().sleep_for(sim::kMillisecond);
    EXPECT_EQ((*child)->state, ProcessState::kZombie);
    EXPECT_EQ(more(objects(*machine), one),
              (Objects{{"cred_jar", 1}, {"pid", 1}, {"sighand_cache", 1}, {"signal_cache", 1}, {"task_struct", 1}}));
    EXPECT_EQ(table.wait(parent, **child)->code, 3);
    EXPECT_EQ(objects(*machine), one);
    EXPECT_EQ(table.wait(parent, **child).error(), Errno::kChild);
    // A zombie and a running child that nobody will wait for.
    ASSERT_TRUE(table.fork(parent, [&](Thread& thread) { table.exit_thread(thread, {}); }));
    ASSERT_TRUE(table.fork(parent, [&](Thread& thread) {
      machine->scheduler().sleep_for(sim::kSecond);
      table.exit_thread(thread, {});
    }));
    machine->scheduler().sleep_for(sim::kMillisecond);
  });
  ASSERT_TRUE(machine->run().done());
  EXPECT_EQ(objects(*machine), empty);
  EXPECT_EQ(machine->phys().global_node_page_state(phys::NodeStat::kNrKernelStack), 0);
  for (const auto& process : table.all()) EXPECT_EQ(process->state, ProcessState::kReaped);
  machine->validate();
}

TEST(KernelObjects, PipesAndDescriptorsAreFilesOfTheMachine) {
  const auto machine = boot_small();
  const Objects empty = objects(*machine);
  start(*machine, "p", [&](Process& self) {
    FileTable& files = *self.files;
    PseudoFs& pseudo = machine->processes().pseudo_fs();
    const Objects before = objects(*machine);
    const auto pipe = pseudo.create_pipe_files();
    ASSERT_TRUE(pipe);
    const Objects taken = more(objects(*machine), before);
    EXPECT_EQ(taken.at("filp"), 2u);
    EXPECT_EQ(taken.at("inode_cache"), 1u);
    EXPECT_EQ(taken.at("dentry"), 1u);
    ASSERT_TRUE(files.install(3, *pipe->read));
    ASSERT_TRUE(files.install(4, *pipe->write));
    ASSERT_TRUE(files.dup(4, 900));
    EXPECT_EQ(files.max_fds(), 1024u);
    EXPECT_EQ(files.numbers(), (std::vector{3, 4, 900}));
    EXPECT_EQ(files.file(3).error(), Errno::kBadF);  // no file with pages
    Pipe* ends = PseudoFs::pipe_of(*files.find(4));
    ASSERT_EQ(ends, PseudoFs::pipe_of(*files.find(3)));
    EXPECT_EQ(ends->write(100), 100u);
    ASSERT_TRUE(files.close(4));
    EXPECT_EQ(ends->read(100), 100u);  // 900 still writes
    ASSERT_TRUE(files.close(900));
    EXPECT_EQ(ends->read(100), 0u);  // nobody does any more
    EXPECT_EQ(files.close(900).error(), Errno::kBadF);
    EXPECT_EQ(files.install(-1, **pseudo.open_other()).error(), Errno::kBadF);
    EXPECT_EQ(files.dup(3, FileTable::kOpenMost).error(), Errno::kBadF);
    EXPECT_EQ(files.install(FileTable::kOpenMost, *files.find(3)).error(), Errno::kMFile);
    EXPECT_EQ(files.dup(3, -5).error(), Errno::kBadF);
    EXPECT_EQ(files.find(-1), nullptr);
    // A copy has room for the highest number that is open, and references of its own.
    ASSERT_TRUE(files.dup(3, 70));
    const auto child = machine->processes().fork(self, [&](Thread& thread) {
      FileTable& copy = *thread.process->files;
      EXPECT_EQ(copy.numbers(), (std::vector{3, 70}));
      EXPECT_EQ(copy.max_fds(), 128u);
      copy.close_all();
      EXPECT_EQ(copy.size(), 0u);
      machine->processes().exit_thread(thread, {});
    });
    ASSERT_TRUE(child);
    ASSERT_TRUE(machine->processes().wait(self, **child));
    EXPECT_EQ(files.numbers(), (std::vector{3, 70}));
    EXPECT_EQ(ends->bytes(), 0u);
  });
  ASSERT_TRUE(machine->run().done());
  Objects left = more(objects(*machine), empty);
  EXPECT_EQ(left, (Objects{{"filp", 1}, {"inode_cache", 1}}));  // what could not be installed, and the inode of its like
}

// Each allocation of each call fails once, in turn: the call says so, and has taken nothing.
TEST(KernelObjects, ACallThatFindsNoMemoryLeavesNothingBehind) {
  for (const FaultPoint point : {FaultPoint::kSlabAlloc, FaultPoint::kPageAlloc}) {
    const auto machine = boot_small();
    ProcessTable& table = machine->processes();
    const auto exits = [&](Thread& thread) { table.exit_thread(thread, {}); };
    start(*machine, "parent", [&](Process& self) {
      file::File& other = **table.pseudo_fs().open_other();
      ASSERT_TRUE(self.files->install(100, other));
      // `call` succeeds once nothing fails any more, and `undo` takes that back.
      const auto each_fails = [&](const char* what, auto&& call, auto&& undo, unsigned least) {
        unsigned failed = 0;
        for (std::uint64_t nth = 1; nth <= 40; ++nth) {
          // Empty arrays and no free slabs: every object may need a page.
          machine->slab().cache_reap(slab::SlabSystem::ReapMode::kAll);
          const Objects before = objects(*machine);
          const std::size_t processes = table.all().size();
          machine->faults().set(point, {.nth = nth});
          const auto made = call();
          machine->faults().set(point, {});
          if (made) {
            undo(*made);
          } else {
            ++failed;
            EXPECT_EQ(made.error(), Errno::kNoMem) << what << " " << nth;
            EXPECT_EQ(table.all().size(), processes) << what;
          }
          EXPECT_EQ(objects(*machine), before) << what << " " << nth << (made ? "" : " failed");
        }
        EXPECT_GE(failed, point == FaultPoint::kSlabAlloc ? least : 1u) << what;
      };
      const auto reap = [&](Process* child) { EXPECT_TRUE(table.wait(self, *child)); };
      each_fails("fork", [&] { return table.fork(self, exits); }, reap, 10);
      each_fails("vfork", [&] { return table.vfork(self, exits); }, reap, 10);
      each_fails(
          "create", [&] { return table.create("created", exits); },
          [&](Process*) { machine->scheduler().sleep_for(sim::kMillisecond); }, 8);
      each_fails(
          "clone", [&] { return table.clone_thread(self, exits); },
          [&](Thread*) { machine->scheduler().sleep_for(sim::kMillisecond); }, 2);
      each_fails("exec", [&] { return table.exec(self, "next"); }, [](vm::Mm*) {}, 2);
      each_fails(
          "pipe", [&] { return table.pseudo_fs().create_pipe_files(); },
          [&](const PseudoFs::PipeFiles& ends) {
            machine->vfs().fput(*ends.read);
            machine->vfs().fput(*ends.write);
          },
          6);
      // A larger table for a process of its own each time: tables do not shrink.
      const auto grown = [&]() -> Result<Process*> {
        const auto child = table.create("grows", exits);
        if (!child) return child;
        machine->vfs().fget(other);
        const Status installed = (*child)->files->install(300, other);
        if (installed) return child;
        machine->vfs().fput(other);
        EXPECT_EQ((*child)->files->size(), 0u);
        machine->scheduler().sleep_for(sim::kMillisecond);
        return fail(installed.error());
      };
      for (std::uint64_t nth = 1; nth <= 16; ++nth) {
        const Objects before = objects(*machine);
        machine->faults().set(point, {.nth = nth});
        const auto made = grown();
        machine->faults().set(point, {});
        machine->scheduler().sleep_for(sim::kMillisecond);
        EXPECT_EQ(objects(*machine), before) << nth << (made ? "" : " failed");
      }
    });
    ASSERT_TRUE(machine->run().done());
    machine->validate();
  }
}

}  // namespace
}  // namespace quire::kernel
