// Threads, signals, descriptors: what a recorded program may do to itself.
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <fstream>

#include "quire/trace/reader.h"
#include "quire/trace/wait_status.h"
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

// Who was waited for and the status, of each wait that the first task made: as numbers, "-" for a wait without a child.
std::string waits_of(const std::string& trace) {
  std::string text;
  auto reader = TraceReader::open(trace);
  while ((*reader)->pull()) {}
  Record r;
  while ((*reader)->tasks().front()->next(r)) {
    if (r.kind != RecordKind::kSyscall || (r.number != SYS_wait4 && r.number != SYS_waitid)) continue;
    text += r.child.pid == 0 ? " -" : fmt::format(" {}:{:x}", r.child.pid, r.status);
  }
  return text;
}

TEST_F(ProcessTest, WaitsNameTheChildAndWhatBecameOfIt) {
  const Recorded recorded = record_it({guest("waits")});  // who is killed and waited for at once may be lost to the recorder
  EXPECT_EQ(recorded.exit_status, 0);
  EXPECT_EQ(waits_of(recorded.file), " 2:137f 2:ffff 2:137f - 2:ffff 2:0 2:0 3:0 4:0 5:500 6:9");
}

TEST_F(ProcessTest, AStatusMadeOfASiginfoIsWait4s) {
  EXPECT_EQ(wait_status(CLD_DUMPED, SIGABRT), W_EXITCODE(0, SIGABRT) | WCOREFLAG);
  const auto compare = [](int options) {
    siginfo_t info{};
    int status = -1;
    ASSERT_EQ(::waitid(P_ALL, 0, &info, options | WNOWAIT), 0);
    ASSERT_EQ(::wait4(info.si_pid, &status, options & ~WEXITED, nullptr), info.si_pid);
    EXPECT_EQ(wait_status(info.si_code, info.si_status), status) << info.si_code;
  };
  for (const int signal : {0, SIGKILL, SIGABRT}) {  // the last with a core where the system lets it
    if (::fork() == 0) {
      const rlimit much{1 << 20, 1 << 20};
      if (::chdir(folder_.c_str()) == 0) ::setrlimit(RLIMIT_CORE, &much);
      if (signal != 0) ::kill(::getpid(), signal);
      ::_exit(7);
    }
    compare(WEXITED);
  }
  const pid_t child = ::fork();
  while (child == 0) ::pause();
  ::kill(child, SIGSTOP);
  compare(WSTOPPED);
  ::kill(child, SIGCONT);
  compare(WCONTINUED);
  ::kill(child, SIGKILL);
  compare(WEXITED);
}

// A segment of System V is a file, of the device that maps shows.
TEST_F(ProcessTest, AnAreaThatIsFoundTellsItsDevice) {
  const int id = ::shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
  ASSERT_GE(id, 0);
  void* const at = ::shmat(id, nullptr, 0);
  ::shmctl(id, IPC_RMID, nullptr);
  std::uint64_t expected = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned major, minor;
    if (line.find("/SYSV") == std::string::npos) continue;
    ASSERT_EQ(std::sscanf(line.c_str(), "%*s %*s %*s %x:%x", &major, &minor), 2);
    expected = makedev(major, minor);
  }
  ::shmdt(at);
  ASSERT_NE(expected, 0u);
  auto reader = TraceReader::open(check({guest("shm")}).file);
  while ((*reader)->pull()) {}
  unsigned found = 0;
  Record r;
  while ((*reader)->tasks().front()->next(r)) {
    if (r.kind != RecordKind::kArea || r.area != AreaKind::kOther || r.inode == 0) continue;
    EXPECT_EQ(r.dev, expected);
    ++found;
  }
  EXPECT_EQ(found, 1u);
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
