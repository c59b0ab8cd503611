// /proc/PID/status. The host's own file says which lines there are, in which order, and how they are spaced.
#include "quire/observe/status.h"

#include <cctype>
#include <fstream>
#include <sstream>

#include "../kernel/small_machine.h"
#include "quire/kernel/pipe.h"
#include "quire/sim/lock_guards.h"

namespace quire::observe {
namespace {

using kernel::Machine;
using kernel::Process;
using ::testing::HasSubstr;
using ::testing::Not;

// Lines that came after 6.1, and who a user happens to be.
bool later_or_own(const std::string& line) {
  for (const char* name :
       {"Kthread:", "untag_mask:", "x86_Thread_features", "Groups:", "Speculation", "Cpus_allowed", "Mems_allowed"}) {
    if (line.starts_with(name)) return true;
  }
  return false;
}

// Name and spacing of a line; each figure and word of the value as one sign, with the width that it is padded to.
std::string form_of(const std::string& line) {
  const std::size_t colon = line.find(':');
  std::string form = line.substr(0, colon);
  std::string value = line.substr(std::min(line.size(), colon));
  // Eight places; under a sanitizer the host's program has terabytes, which take more.
  constexpr std::size_t kEightPlaces = std::string_view(":\t12345678 kB").size();
  if (value.ends_with(" kB")) return form + fmt::format("{}{} kB", value.substr(0, 2), std::min(value.size(), kEightPlaces));
  for (std::size_t i = 0; i < value.size(); ++i) {
    const bool word = std::isgraph(static_cast<unsigned char>(value[i])) != 0 && i != 0;
    if (word && form.back() == 'x' && i > 1) continue;
    form += word ? 'x' : value[i];
  }
  return form;
}

std::vector<std::string> forms(std::istream& text) {
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) {
    if (!later_or_own(line)) lines.push_back(form_of(line));
  }
  return lines;
}

std::string status_inside(const std::function<void(Machine&, Process&)>& before = {}) {
  const auto machine = kernel::boot_small();
  std::string text;
  kernel::start(*machine, "program", [&](Process& self) {
    if (before) before(*machine, self);
    text = status(*machine, self);
  });
  EXPECT_TRUE(machine->run().done());
  return text;
}

TEST(StatusTest, LinesAndSpacingAreTheHosts) {
  std::ifstream host("/proc/self/status");
  if (!host) GTEST_SKIP() << "the host shows no /proc/self/status";
  std::stringstream ours(status_inside());
  EXPECT_EQ(forms(ours), forms(host));
}

TEST(StatusTest, SaysWhoItIs) {
  const std::string text = status_inside();
  EXPECT_THAT(text, HasSubstr("Name:\tprogram\nUmask:\t0022\nState:\tR (running)\nTgid:\t1\nNgid:\t0\nPid:\t1\nPPid:\t0\n"));
  EXPECT_THAT(text, HasSubstr("Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t64\nGroups:\t \n"));
  EXPECT_THAT(text, HasSubstr("Threads:\t1\n"));
  EXPECT_THAT(text, HasSubstr("\nCpus_allowed:\t1\nCpus_allowed_list:\t0\n"));
  EXPECT_THAT(text, HasSubstr(",00000001\nMems_allowed_list:\t0\n"));
}

TEST(StatusTest, MemoryLinesCountWhatIsMappedAndTouched) {
  const std::string text = status_inside([](Machine& machine, Process& self) {
    using vm::MapFlags;
    using vm::Prot;
    vm::Vm& vm = machine.vm();
    const auto map = [&](std::uint64_t pages, Prot prot, MapFlags flags) {
      return vm.mmap(*self.mm, VirtAddr(0), pages * kPageSize, prot, flags | MapFlags::kAnonymous, nullptr, 0).value();
    };
    const VirtAddr own = map(10, Prot::kRead | Prot::kWrite, MapFlags::kPrivate);
    const VirtAddr shared = map(4, Prot::kRead | Prot::kWrite, MapFlags::kShared);
    static_cast<void>(map(3, Prot::kRead | Prot::kExec, MapFlags::kPrivate));
    ASSERT_TRUE(vm.munmap(*self.mm, map(5, Prot::kRead, MapFlags::kPrivate), 5 * kPageSize));
    for (std::uint64_t i = 0; i < 6; ++i) ASSERT_TRUE(vm.access(*self.mm, own + i * kPageSize, arch::Access::kWrite).ok());
    ASSERT_TRUE(vm.access(*self.mm, shared, arch::Access::kWrite).ok());
    ASSERT_TRUE(vm.mlock(*self.mm, own, 2 * kPageSize));
  });
  EXPECT_THAT(text, HasSubstr("VmPeak:\t      88 kB\nVmSize:\t      68 kB\nVmLck:\t       8 kB\nVmPin:\t       0 kB\n"
                              "VmHWM:\t      28 kB\nVmRSS:\t      28 kB\nRssAnon:\t      24 kB\nRssFile:\t       0 kB\n"
                              "RssShmem:\t       4 kB\nVmData:\t      40 kB\nVmStk:\t       0 kB\nVmExe:\t       0 kB\n"
                              "VmLib:\t      12 kB\n"));
}

TEST(StatusTest, AZombieHasNoMemoryLines) {
  const auto machine = kernel::boot_small();
  std::string text;
  kernel::start(*machine, "parent", [&](Process& self) {
    kernel::ProcessTable& table = machine->processes();
    Process* child = table.fork(self, [&table](kernel::Thread& thread) { table.exit_thread(thread, {}); }).value();
    machine->scheduler().sleep_for(sim::kSecond);
    text = status(*machine, *child);
    ASSERT_TRUE(table.wait(self, *child));
  });
  ASSERT_TRUE(machine->run().done());
  EXPECT_THAT(text, HasSubstr("State:\tZ (zombie)\n"));
  EXPECT_THAT(text, HasSubstr("PPid:\t1\n"));
  EXPECT_THAT(text, Not(HasSubstr("Vm")));
  EXPECT_THAT(text, Not(HasSubstr("Umask")));
}

std::string state_line(Machine& machine, const Process& process) {
  const std::string text = status(machine, process);
  const std::size_t at = text.find("State:\t") + 7;
  return text.substr(at, text.find('\n', at) - at);
}

// A signal would end these waits, so they are sleeps and no load.
TEST(StatusTest, WhoWaitsForAChildOrAPipeSleeps) {
  const auto machine = kernel::boot_small();
  std::string waiting;
  std::string reading;
  kernel::start(*machine, "parent", [&](Process& self) {
    kernel::ProcessTable& table = machine->processes();
    kernel::Pipe& pipe = *kernel::Pipe::alloc_pipe_info(machine->phys(), machine->slab());
    pipe.open_reader();
    pipe.open_writer();
    Process* child = table
                         .fork(self,
                               [&](kernel::Thread& thread) {
                                 machine->scheduler().sleep_for(sim::kMillisecond);
                                 reading = state_line(*machine, self);
                                 EXPECT_EQ(pipe.write(1), 1u);
                                 machine->scheduler().sleep_for(sim::kMillisecond);
                                 waiting = state_line(*machine, self);
                                 table.exit_thread(thread, {});
                               })
                         .value();
    EXPECT_EQ(pipe.read(1), 1u);
    EXPECT_TRUE(table.wait(self, *child));
    pipe.close_reader();
    pipe.close_writer();
    kernel::Pipe::free_pipe_info(pipe);
  });
  ASSERT_TRUE(machine->run().done());
  EXPECT_EQ(reading, "S (sleeping)");
  EXPECT_EQ(waiting, "S (sleeping)");
}

TEST(StatusTest, WhoWaitsForALockIsInDiskSleep) {
  const auto machine = kernel::boot_small();
  std::string state;
  kernel::start(*machine, "parent", [&](Process& self) {
    kernel::ProcessTable& table = machine->processes();
    sim::RwSemaphore& lock = self.mm->mmap_lock;
    Process* child = table
                         .fork(self,
                               [&](kernel::Thread& thread) {
                                 {
                                   const sim::WriteGuard guard(lock);
                                   machine->scheduler().sleep_for(sim::kMillisecond);
                                   state = state_line(*machine, self);
                                 }
                                 table.exit_thread(thread, {});
                               })
                         .value();
    machine->scheduler().sleep_for(sim::kMillisecond / 2);
    { const sim::WriteGuard guard(lock); }
    EXPECT_TRUE(table.wait(self, *child));
  });
  ASSERT_TRUE(machine->run().done());
  EXPECT_EQ(state, "D (disk sleep)");
}

// Killable, but no other signal would end it.
TEST(StatusTest, AWriterHeldNearTheDirtyLimitIsInDiskSleep) {
  const auto machine = kernel::boot_small(32 * kMiB, 2);
  file::Vfs& vfs = machine->vfs();
  vfs.writeback().tunables().dirty_bytes = kMiB;
  file::FileSystem& slow = vfs.mount({.dev = 9, .disk = sim::DiskConfig{.name = "slow", .bandwidth = kMiB}});
  std::uint64_t held = 0;
  vfs.writeback().balance_dirty_pages_event.listen([&held](const EventView&) { ++held; });
  Process& writer = kernel::start(*machine, "writer", [&](Process&) {
    file::Inode* inode = slow.create("b").value();
    file::File& file = *vfs.open(*inode, file::FileMode::kRead | file::FileMode::kWrite).value();
    file::NullIter nowhere;
    EXPECT_EQ(vfs.pwrite(file, 0, 4 * kMiB, nowhere).value(), 4 * kMiB);
    vfs.fput(file);
  });
  std::string state;
  machine->scheduler().spawn("looks", [&] {
    while (held == 0) machine->scheduler().sleep_for(sim::kMillisecond);
    state = state_line(*machine, writer);
  });
  ASSERT_TRUE(machine->run().done());
  EXPECT_EQ(state, "D (disk sleep)");
}

TEST(StatusTest, AProgramThatSleepsForATimeSleeps) {
  const auto machine = kernel::boot_small();
  Process& sleeper = kernel::start(*machine, "sleeper",
                                   [&](Process&) { machine->scheduler().sleep_for(sim::kSecond, sim::Sleep::kInterruptible); });
  ASSERT_EQ(machine->scheduler().run_until(sim::kSecond / 2).end(), sim::RunEnd::kTimeLimit);
  EXPECT_EQ(state_line(*machine, sleeper), "S (sleeping)");
  ASSERT_TRUE(machine->run().done());
}

TEST(StatusTest, NamesAreCutAfterFifteenLettersAndStayOnOneLine) {
  EXPECT_THAT(status_inside([](Machine&, Process& self) { self.comm = "a\nb\\c-and-many-more"; }),
              ::testing::StartsWith("Name:\ta\\nb\\\\c-and-many-\n"));
}

}  // namespace
}  // namespace quire::observe
