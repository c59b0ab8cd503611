#include <fcntl.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <unistd.h>

#include <map>
#include <thread>

#include "trace_test_util.h"

namespace quire::trace::test {
namespace {

Told syscall(std::uint32_t number, std::array<std::uint64_t, 6> args, std::int64_t result, std::string path = {}) {
  Told told;
  told.record.kind = RecordKind::kSyscall;
  told.record.number = number;
  told.record.args = args;
  told.record.result = result;
  told.path = std::move(path);
  return told;
}

Bytes write_tasks(const std::map<TaskId, std::vector<Told>>& tasks, int exit_status = 0) {
  TemporaryFile file;
  TraceWriter writer(file.fd(), "test", TraceHeader{.window = 1234});
  for (const auto& [id, records] : tasks) {
    for (const Told& told : records) EXPECT_TRUE(writer.task(id).write(told.record, told.path, told.path2));
  }
  EXPECT_TRUE(writer.finish(exit_status));
  return file.contents();
}

TEST(RoundTrip, KeepsEveryFieldOfEveryKind) {
  std::vector<Told> records;
  Told exec;
  exec.record.kind = RecordKind::kExec;
  exec.record.instructions = 7;
  exec.path = "/usr/bin/sort";
  exec.path2 = "sort";
  records.push_back(exec);
  Told area;
  area.record.kind = RecordKind::kArea;
  area.record.area = AreaKind::kInterpreter;
  area.record.begin = 0x4000'0000'0000;
  area.record.end = 0x4000'0002'0000;
  area.record.prot = 5;
  area.record.flags = 2;
  area.record.offset = 0x2000;
  area.record.dev = 0xfe01;
  area.record.inode = 123456789012;
  area.path = "/lib64/ld-linux-x86-64.so.2";
  records.push_back(area);
  Told file;
  file.record.kind = RecordKind::kFile;
  file.record.fd = 3;
  file.record.file = FileKind::kRegular;
  file.record.flags = 0100000;
  file.record.dev = 1;
  file.record.inode = 2;
  file.record.size = std::uint64_t{1} << 40;
  file.record.offset = 99;
  file.path = "/tmp/a b\nc";
  records.push_back(file);
  records.push_back(access(0x40000000, AccessKind::kExec, 0));
  records.push_back(access(0, AccessKind::kRead, 0xffff'ffff));
  records.push_back(access((std::uint64_t{1} << 52) - 1, AccessKind::kWrite, std::uint64_t{1} << 40));
  records.push_back(syscall(9, {0, 4096, 3, 0x22, ~0ull, 0}, 0x7fff'f000'0000));
  records.push_back(syscall(257, {~0ull - 99, 1, 2, 3, 4, 5}, -2, "/no/such"));
  Told wait = syscall(61, {~0ull, 0, 0, 0, 0, 0}, 2);
  wait.record.child = {2, 2};
  wait.record.status = 9;
  records.push_back(wait);
  Told read = syscall(0, {3, 0x1000, 4096, 0, 0, 0}, 4096);
  read.record.offset = 65536;
  records.push_back(read);
  Told fork;
  fork.record.kind = RecordKind::kFork;
  fork.record.number = 56;
  fork.record.child = {1, 3};
  fork.record.flags = 0x3d0f00;
  records.push_back(fork);
  Told order;
  order.record.kind = RecordKind::kOrder;
  order.record.after = std::uint64_t{1} << 40;
  order.record.sequence = (std::uint64_t{1} << 40) + 7;
  order.record.flags = kCompletesHere;
  records.push_back(order);
  Told behind;
  behind.record.kind = RecordKind::kBehind;
  behind.record.child = {1, 7};
  behind.record.after = std::uint64_t{1} << 50;
  records.push_back(behind);
  Told exit = exit_with(-1);
  exit.record.signal = 11;
  exit.record.flags = kExitLost;
  records.push_back(exit);

  auto reader = read_bytes(write_tasks({{TaskId{1, 1}, records}}, 139));
  ASSERT_TRUE(reader) << reader.error();
  EXPECT_EQ((*reader)->header().window, 1234u);
  TaskStream* const stream = (*reader)->first_task();
  ASSERT_NE(stream, nullptr);
  EXPECT_EQ(stream->id(), (TaskId{1, 1}));
  EXPECT_EQ(read_all(**reader, *stream), records);
  EXPECT_TRUE(stream->ended());
  EXPECT_FALSE((*reader)->pull());
  EXPECT_TRUE((*reader)->complete());
  EXPECT_EQ((*reader)->exit_status(), 139);
  EXPECT_TRUE((*reader)->warnings().empty());
}

rc::Gen<Told> any_access() {
  return rc::gen::map(rc::gen::tuple(rc::gen::inRange<std::uint64_t>(0, std::uint64_t{1} << 52), rc::gen::inRange(0, 3),
                                     rc::gen::oneOf(rc::gen::inRange<std::uint64_t>(0, 300),
                                                    rc::gen::inRange<std::uint64_t>(0, std::uint64_t{1} << 34))),
                      [](const std::tuple<std::uint64_t, int, std::uint64_t>& t) {
                        return access(std::get<0>(t), static_cast<AccessKind>(std::get<1>(t)), std::get<2>(t));
                      });
}

rc::Gen<Told> any_syscall() {
  return rc::gen::map(rc::gen::tuple(rc::gen::arbitrary<std::uint32_t>(), rc::gen::arbitrary<std::array<std::uint64_t, 6>>(),
                                     rc::gen::arbitrary<std::int64_t>(), rc::gen::arbitrary<std::string>()),
                      [](const std::tuple<std::uint32_t, std::array<std::uint64_t, 6>, std::int64_t, std::string>& t) {
                        return syscall(std::get<0>(t), std::get<1>(t), std::get<2>(t), std::get<3>(t));
                      });
}

RC_GTEST_PROP(RoundTrip, ReadsBackWhatWasWritten, ()) {
  const auto ids = *rc::gen::resize(5, rc::gen::unique<std::vector<std::uint32_t>>(rc::gen::inRange<std::uint32_t>(1, 1000)));
  std::map<TaskId, std::vector<Told>> tasks;
  for (const std::uint32_t id : ids) {
    auto& records = tasks[{1 + id % 3, id}];
    records = *rc::gen::container<std::vector<Told>>(rc::gen::weightedOneOf<Told>({{20, any_access()}, {1, any_syscall()}}));
    records.push_back(exit_with(static_cast<int>(id)));
  }
  auto reader = read_bytes(write_tasks(tasks));
  RC_ASSERT(reader.has_value());
  // In the opposite order to the file's: everything waits in its queue.
  for (auto task = tasks.rbegin(); task != tasks.rend(); ++task) {
    RC_ASSERT(read_all(**reader, (*reader)->stream(task->first)) == task->second);
  }
  static_cast<void>((*reader)->pull());
  RC_ASSERT((*reader)->complete());
  RC_ASSERT((*reader)->tasks().size() == tasks.size());
}

TEST(RoundTrip, SplitsLongStreamsIntoChunks) {
  std::vector<Told> records;
  std::uint64_t page = 1;
  for (int i = 0; i < 200'000; ++i) {
    page = page * 6364136223846793005u + 1442695040888963407u;
    records.push_back(access(page >> 20, static_cast<AccessKind>(i % 3), static_cast<std::uint64_t>(i) * 7 % 1000));
  }
  records.push_back(exit_with(0));
  auto reader = read_bytes(write_tasks({{TaskId{1, 1}, records}}));
  ASSERT_TRUE(reader);
  EXPECT_EQ(read_all(**reader, *(*reader)->first_task()), records);
  EXPECT_GT((*reader)->statistics().chunks, 10u);
}

TEST(RoundTrip, ReadsFromAPipeWhileItIsWritten) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  std::thread writing([fd = ends[1]] {
    TraceWriter writer(fd, "pipe", TraceHeader{});
    for (std::uint64_t i = 0; i < 300'000; ++i) {
      EXPECT_TRUE(writer.task({1, 1}).write(Access::make(i * 77 % 5000, AccessKind::kRead, 3)));
      if (i % 3 == 0) {
        EXPECT_TRUE(writer.task({2, 2}).write(Access::make(i, AccessKind::kWrite, 1)));
      }
    }
    EXPECT_TRUE(writer.finish(0));
    ::close(fd);
  });
  auto reader = TraceReader::from_fd(ends[0], "pipe");
  ASSERT_TRUE(reader);
  std::uint64_t second = 0, first = 0;
  TaskStream& stream = (*reader)->stream({2, 2});
  for (std::span<const Access> run = stream.accesses(); !run.empty(); run = stream.accesses()) {
    for (const Access& a : run) EXPECT_EQ(a.page(), second++ * 3);
  }
  TaskStream& other = (*reader)->stream({1, 1});
  for (std::span<const Access> run = other.accesses(); !run.empty(); run = other.accesses()) first += run.size();
  writing.join();
  EXPECT_EQ(second, 100'000u);
  EXPECT_EQ(first, 300'000u);
  EXPECT_TRUE((*reader)->complete());
}

TEST(RoundTrip, MixesAccessesAndNext) {
  const std::vector<Told> records{access(1, AccessKind::kRead, 1), access(2, AccessKind::kRead, 1), exit_with(3)};
  auto reader = read_bytes(write_tasks({{TaskId{1, 1}, records}}));
  ASSERT_TRUE(reader);
  TaskStream& stream = *(*reader)->first_task();
  Record r;
  ASSERT_TRUE(stream.next(r));
  EXPECT_EQ(r.page, 1u);
  const auto rest = stream.accesses();
  ASSERT_EQ(rest.size(), 1u);
  EXPECT_EQ(rest[0].page(), 2u);
  ASSERT_TRUE(stream.next(r));
  EXPECT_EQ(r.kind, RecordKind::kExit);
  EXPECT_EQ(r.status, 3);
  EXPECT_FALSE(stream.next(r));
}

TEST(Writer, TellsWhenTheDiskIsFull) {
  const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  if (full < 0) GTEST_SKIP() << "no /dev/full";
  TraceWriter writer(full, "t.qtr", TraceHeader{});
  const Outcome done = writer.finish(0);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error(), "cannot write t.qtr: No space left on device");
  ::close(full);
}

TEST(Writer, RefusesRecordsAfterATasksExit) {
  TemporaryFile file;
  TraceWriter writer(file.fd(), "t", TraceHeader{});
  ASSERT_TRUE(writer.task({1, 1}).write(exit_with(0).record));
  EXPECT_FALSE(writer.task({1, 1}).write(Access::make(1, AccessKind::kRead, 0)));
}

}  // namespace
}  // namespace quire::trace::test
