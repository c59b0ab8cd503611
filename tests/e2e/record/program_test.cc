// Real programs: they must print and return what they print and return natively, and the trace must know who ran.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "recording.h"

namespace quire::trace::test {
namespace {

std::string lines(int count) {
  std::string text;
  unsigned seed = 1;
  for (int i = 0; i < count; ++i) {
    seed = seed * 1103515245u + 12345u;
    text += std::to_string(seed % 5000) + " line\n";
  }
  return text;
}

TEST_F(RecordingTest, Sort) {
  file("in", lines(20'000));
  const Recorded sort = check({"sort", "in"});
  ASSERT_GE(sort.info.tasks.size(), 1u);
  EXPECT_TRUE(sort.info.tasks[0].programs.at(0).ends_with("/sort"));
  EXPECT_EQ(sort.info.tasks[0].id, (TaskId{1, 1}));
  EXPECT_GT(sort.info.instructions, 1'000'000u);
  EXPECT_GT(sort.info.pages, 100u);
  const auto input = std::ranges::find(sort.info.files, folder_ + "/in", &FileInfo::path);
  ASSERT_NE(input, sort.info.files.end());
  EXPECT_EQ(input->bytes_read, input->size);
}

TEST_F(RecordingTest, Gzip) {
  SKIP_UNLESS_INSTALLED("gzip");
  file("in", lines(20'000));
  const Recorded gzip = check({"gzip", "-c", "in"});
  EXPECT_EQ(gzip.info.tasks.size(), 1u);
}

TEST_F(RecordingTest, ShellPipeline) {
  file("in", lines(2'000));
  const Recorded shell = check({"sh", "-c", "sort in | uniq -c"});
  ASSERT_EQ(shell.info.tasks.size(), 3u);
  EXPECT_EQ(shell.info.forks, 2u);
  EXPECT_NE(find_program(shell.info, "/sort"), nullptr);
  EXPECT_NE(find_program(shell.info, "/uniq"), nullptr);
  EXPECT_EQ(find_program(shell.info, "/uniq")->parent, (TaskId{1, 1}));
  EXPECT_EQ(shell.info.syscalls.at("wait4") >= 2, true);
}

TEST_F(RecordingTest, StaticBusybox) {
  SKIP_UNLESS_INSTALLED("busybox");
  const Recorded busybox = check({"busybox", "sh", "-c", "busybox echo a; busybox seq 3 | busybox wc -l; exit 7"});
  EXPECT_EQ(busybox.exit_status, 7);
  EXPECT_GE(busybox.info.tasks.size(), 3u);
}

TEST_F(RecordingTest, Python) {
  SKIP_UNLESS_INSTALLED("/usr/bin/python3");
  check({"/usr/bin/python3", "-S", "-c", "print(sum(x * x for x in range(10000))); raise SystemExit(5)"});
}

TEST_F(RecordingTest, PythonSubprocess) {
  SKIP_UNLESS_INSTALLED("/usr/bin/python3");
  const Recorded python = check(
      {"/usr/bin/python3", "-S", "-c", "import subprocess; print(subprocess.run(['echo', 'hi'], capture_output=True).stdout)"});
  EXPECT_NE(find_program(python.info, "/echo"), nullptr);
}

TEST_F(RecordingTest, Sqlite) {
  SKIP_UNLESS_INSTALLED("sqlite3");
  const Recorded sqlite =
      check({"sqlite3", ":memory:",
             "create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000) "
             "insert into t select i, i * i from n; select sum(b), count(*) from t;"});
  EXPECT_GT(sqlite.info.instructions, 1'000'000u);
}

TEST_F(RecordingTest, Compiler) {
  SKIP_UNLESS_INSTALLED("gcc");
  file("x.c", "int main(void) { return 42; }\n");
  const Recorded gcc = check({"gcc", "-O2", "-o", "x", "x.c"});
  EXPECT_NE(find_program(gcc.info, "/cc1"), nullptr);
  EXPECT_NE(find_program(gcc.info, "as"), nullptr);
  EXPECT_EQ(run_natively({folder_ + "/x"}).exit_status, 42);
}

TEST_F(RecordingTest, Script) {
  file("script", "#!/bin/sh -e\necho \"$0 $1\"\nexit 3\n", 0755);
  const Recorded script = check({folder_ + "/script", "one"});
  EXPECT_EQ(script.exit_status, 3);
  file("again", "#!" + folder_ + "/script\n", 0755);
  check({"sh", "-c", folder_ + "/again two"});
}

TEST_F(RecordingTest, TwoRecordingsAreTheSame) {
  file("in", lines(3'000));
  const std::vector<std::string> first = lines_of(record_it({"sh", "-c", "sort --parallel=1 in; exit 0"}).file);
  const std::vector<std::string> second = lines_of(record_it({"sh", "-c", "sort --parallel=1 in; exit 0"}).file);
  ASSERT_GT(first.size(), 1000u);
  ASSERT_EQ(first.size(), second.size());
  for (std::size_t i = 0; i < first.size(); ++i) ASSERT_EQ(first[i], second[i]) << "record " << i;
}

TEST_F(RecordingTest, TwoRecordingsOfPythonAreTheSame) {
  SKIP_UNLESS_INSTALLED("/usr/bin/python3");
  const std::vector<std::string> program{"/usr/bin/python3", "-S", "-c", "print(len({str(i): i for i in range(2000)}))"};
  EXPECT_EQ(lines_of(record_it(program).file), lines_of(record_it(program).file));
}

// The system calls that strace sees natively are those of the trace, but for what the dynamic linker and libc ask the
// processor or kernel for at start; so only calls of the program's own are compared.
TEST_F(RecordingTest, MemoryCallsAgreeWithStrace) {
  SKIP_UNLESS_INSTALLED("strace");
  const std::string log = folder_ + "/strace";
  const auto traced = run_natively({"strace", "-o", log, "-e", "trace=mmap,munmap,mremap,mprotect,madvise", guest("memory")});
  std::map<std::string, std::uint64_t> native;
  std::ifstream in(log);
  for (std::string line; std::getline(in, line);) {
    const std::size_t name = line.find('(');
    if (name != std::string::npos && line[0] != '+') ++native[line.substr(0, name)];
  }
  if (native.empty() && traced.exit_status != 0) {
    GTEST_SKIP() << "strace cannot trace here: it ended with status " << traced.exit_status;
  }
  ASSERT_FALSE(native.empty());
  const Recorded recorded = check({guest("memory")});
  for (const auto& [call, count] : native) EXPECT_EQ(recorded.info.syscalls.at(call), count) << call;
}

TEST_F(RecordingTest, PagesAreTouchedAgainAfterMadvise) {
  const Recorded recorded = check({guest("static")});
  std::uint64_t begin = 0, writes = 0;
  auto reader = TraceReader::open(recorded.file);
  ASSERT_TRUE(reader);
  TaskStream& stream = *(*reader)->first_task();
  Record r;
  while (stream.next(r)) {
    if (r.kind == RecordKind::kSyscall && r.number == 9 && r.args[1] == 64 * 4096)
      begin = static_cast<std::uint64_t>(r.result) >> 12;
    if (r.kind == RecordKind::kSyscall && r.number == 25) break;
    if (r.kind == RecordKind::kAccess && r.access == AccessKind::kWrite && begin != 0 && r.page >= begin && r.page < begin + 64)
      ++writes;
  }
  EXPECT_EQ(writes, 128u);  // before MADV_DONTNEED and after
}

TEST_F(RecordingTest, TheFilterHidesNoPage) {
  file("in", lines(500));
  const Recorded filtered = record_it({"sort", "--parallel=1", "in"});
  const Recorded whole = record_it({"sort", "--parallel=1", "in"}, 0);
  EXPECT_EQ(filtered.info.instructions, whole.info.instructions);
  EXPECT_EQ(filtered.info.pages, whole.info.pages);
  EXPECT_EQ(filtered.info.pages_written, whole.info.pages_written);
  EXPECT_EQ(filtered.info.syscalls, whole.info.syscalls);
  EXPECT_LT(filtered.info.accesses() * 20, whole.info.accesses());
}

}  // namespace
}  // namespace quire::trace::test
