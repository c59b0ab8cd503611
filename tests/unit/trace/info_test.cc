#include "quire/trace/info.h"

#include <nlohmann/json.hpp>
#include <sstream>

#include "quire/trace/lackey.h"
#include "trace_test_util.h"

namespace quire::trace::test {
namespace {

TEST(Info, CountsWhatIsInside) {
  TemporaryFile file;
  TraceWriter writer(file.fd(), "test", TraceHeader{.window = 10});
  TaskWriter& parent = writer.task({1, 1});
  Record r;
  r.kind = RecordKind::kExec;
  ASSERT_TRUE(parent.write(r, "/bin/sh", "sh"));
  ASSERT_TRUE(parent.write(Access::make(5, AccessKind::kExec, 1)));
  ASSERT_TRUE(parent.write(Access::make(6, AccessKind::kRead, 2)));
  ASSERT_TRUE(parent.write(Access::make(6, AccessKind::kWrite, 3)));
  r = Record{};
  r.kind = RecordKind::kFile;
  r.fd = 3;
  r.size = 8192;
  r.file = FileKind::kRegular;
  ASSERT_TRUE(parent.write(r, "/etc/passwd"));
  r = Record{};
  r.kind = RecordKind::kSyscall;
  r.number = 0;
  r.args[0] = 3;
  r.result = 100;
  ASSERT_TRUE(parent.write(r));
  ASSERT_TRUE(parent.write(r));
  r = Record{};
  r.kind = RecordKind::kFork;
  r.number = 57;
  r.child = {2, 2};
  ASSERT_TRUE(parent.write(r));
  ASSERT_TRUE(parent.write(exit_with(3).record));
  ASSERT_TRUE(writer.task({2, 2}).write(Access::make(6, AccessKind::kWrite, 4)));
  ASSERT_TRUE(writer.task({2, 2}).write(exit_with(0).record));
  ASSERT_TRUE(writer.finish(3));

  auto reader = read_bytes(file.contents());
  ASSERT_TRUE(reader);
  const TraceInfo info = summarize(**reader);
  EXPECT_TRUE(info.complete);
  EXPECT_EQ(info.exit_status, 3);
  EXPECT_EQ(info.instructions, 10u);
  EXPECT_EQ(info.reads, 1u);
  EXPECT_EQ(info.writes, 2u);
  EXPECT_EQ(info.executes, 1u);
  EXPECT_EQ(info.pages, 3u);
  EXPECT_EQ(info.pages_written, 2u);
  ASSERT_EQ(info.tasks.size(), 2u);
  EXPECT_EQ(info.tasks[0].programs, std::vector<std::string>{"/bin/sh"});
  EXPECT_EQ(info.tasks[0].status, 3);
  EXPECT_EQ(info.tasks[1].parent, (TaskId{1, 1}));
  EXPECT_EQ(info.syscalls.at("read"), 2u);
  ASSERT_EQ(info.files.size(), 1u);
  EXPECT_EQ(info.files[0].path, "/etc/passwd");
  EXPECT_EQ(info.files[0].bytes_read, 200u);
  EXPECT_EQ(info.files[0].size, 8192u);

  const nlohmann::json json = info_json(info);
  EXPECT_EQ(json["accesses"]["write"], 2);
  EXPECT_EQ(json["tasks"][1]["parent"], 1);
  const std::string text = info_text(info);
  EXPECT_NE(text.find("footprint    3 pages, 12.0 KiB (2 written)"), std::string::npos) << text;
  EXPECT_NE(text.find("/bin/sh"), std::string::npos);
}

TEST(Info, NamesSystemCalls) {
  EXPECT_EQ(syscall_name(9), "mmap");
  EXPECT_EQ(syscall_name(61), "wait4");
  EXPECT_EQ(syscall_name(600), "syscall_600");
}

std::vector<Told> import(const std::string& text, std::uint64_t window) {
  TemporaryFile file;
  TraceWriter writer(file.fd(), "test", TraceHeader{.window = window});
  std::istringstream in(text);
  const auto done = import_lackey(in, "a.lackey", writer, window);
  EXPECT_TRUE(done) << done.error();
  EXPECT_TRUE(writer.finish(0));
  auto reader = read_bytes(file.contents());
  return read_all(**reader, *(*reader)->first_task());
}

TEST(Lackey, TakesTheFourKindsOfLines) {
  const std::vector<Told> told =
      import("==12== Lackey\nI  00001000,3\n L 1ffefff7e8,8\nI  00001003,5\n S 2fff,2\n M 4000,4\n", 0);
  std::vector<Told> expected{access(1, AccessKind::kExec, 0),  access(0x1ffefff, AccessKind::kRead, 1),
                             access(1, AccessKind::kExec, 0),  access(2, AccessKind::kWrite, 1),
                             access(3, AccessKind::kWrite, 0), access(4, AccessKind::kRead, 0),
                             access(4, AccessKind::kWrite, 0), exit_with(0)};
  EXPECT_EQ(told, expected);
}

TEST(Lackey, FiltersByWindow) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "I  1000,4\n L 2000,4\n";
  const std::vector<Told> told = import(text, 10);
  EXPECT_EQ(told.size(), 10u + 11u + 1u);  // 10 epochs of fetches; the loads stand one instruction later
}

TEST(Lackey, NamesTheLineThatIsWrong) {
  TemporaryFile file;
  TraceWriter writer(file.fd(), "test", TraceHeader{});
  std::istringstream bad("I  1000,4\n L zzz,4\n");
  EXPECT_EQ(import_lackey(bad, "a.lackey", writer, 0).error(),
            "a.lackey:2: expected an address in hexadecimal and a comma: \" L zzz,4\"");
  std::istringstream none("hello\n");
  EXPECT_FALSE(import_lackey(none, "a.lackey", writer, 0));
}

}  // namespace
}  // namespace quire::trace::test
