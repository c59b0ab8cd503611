#include "recording.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace quire::trace::test {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Runs `body` in a child whose standard output goes to `path`; its exit status.
template <class Body>
int in_child(const std::string& folder, const std::string& path, Body body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (::chdir(folder.c_str()) != 0) ::_exit(126);
    const int out = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    const int in = ::open("/dev/null", O_RDONLY);
    ::dup2(in, 0);
    ::dup2(out, 1);
    ::dup2(::open("/dev/null", O_WRONLY), 2);  // QEMU has a word of its own to say about uncaught signals
    ::closefrom(3);
    ::setenv("LC_ALL", "C", 1);
    ::_exit(body());
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

RecordingTest::RecordingTest() {
  char name[] = "/tmp/quire-record-XXXXXX";
  folder_ = ::mkdtemp(name);
}

RecordingTest::~RecordingTest() { std::filesystem::remove_all(folder_); }

void RecordingTest::SetUp() { SKIP_UNLESS_INSTALLED("qemu-x86_64"); }

bool RecordingTest::installed(const std::string& program) {
  return std::system(("command -v " + program + " >/dev/null 2>&1").c_str()) == 0;
}

std::string RecordingTest::guest(const std::string& name) { return fmt::format("{}/guest_{}", QUIRE_GUESTS, name); }

std::string RecordingTest::file(const std::string& name, const std::string& contents, unsigned mode) const {
  const std::string path = folder_ + "/" + name;
  std::ofstream(path, std::ios::binary) << contents;
  ::chmod(path.c_str(), mode);
  return path;
}

RecordingTest::Run RecordingTest::run_natively(const std::vector<std::string>& argv) const {
  Run run;
  run.exit_status = in_child(folder_, folder_ + "/native.out", [&] {
    std::vector<char*> pointers;
    for (const std::string& word : argv) pointers.push_back(const_cast<char*>(word.c_str()));
    pointers.push_back(nullptr);
    ::execvp(pointers[0], pointers.data());
    return 127;
  });
  run.output = read_file(folder_ + "/native.out");
  return run;
}

std::expected<RecordOutcome, std::string> RecordingTest::try_record(RecordOptions options) const {
  options.plugin = QUIRE_PLUGIN;
  return record(options);
}

RecordingTest::Recorded RecordingTest::record_it(const std::vector<std::string>& argv, std::uint64_t window) const {
  Recorded run;
  run.file = folder_ + "/t.qtr";
  const std::string told = folder_ + "/outcome";
  run.exit_status = in_child(folder_, folder_ + "/recorded.out", [&] {
    RecordOptions options;
    options.argv = argv;
    options.output = run.file;
    options.window = window;
    const auto outcome = try_record(options);
    std::ofstream(told) << (outcome ? "" : outcome.error());
    return outcome ? outcome->exit_status : 125;
  });
  EXPECT_EQ(read_file(told), "");
  run.output = read_file(folder_ + "/recorded.out");
  auto info = summarize(run.file);
  EXPECT_TRUE(info) << info.error();
  if (info) run.info = *info;
  return run;
}

RecordingTest::Recorded RecordingTest::check(const std::vector<std::string>& argv) const {
  const Run native = run_natively(argv);
  Recorded recorded = record_it(argv);
  EXPECT_EQ(recorded.output, native.output);
  EXPECT_EQ(recorded.exit_status, native.exit_status);
  EXPECT_TRUE(recorded.info.complete);
  EXPECT_TRUE(recorded.info.warnings.empty());
  EXPECT_EQ(recorded.info.exit_status, native.exit_status);
  for (const TaskInfo& task : recorded.info.tasks) EXPECT_NE(task.end, TaskInfo::End::kUnknown) << task.id.tid;
  return recorded;
}

const TaskInfo* find_program(const TraceInfo& info, const std::string& ending) {
  for (const TaskInfo& task : info.tasks) {
    for (const std::string& program : task.programs) {
      if (program.ends_with(ending)) return &task;
    }
  }
  return nullptr;
}

std::vector<std::string> lines_of(const std::string& trace) {
  std::vector<std::string> lines;
  auto reader = TraceReader::open(trace);
  if (!reader) return lines;
  while ((*reader)->pull()) {}
  for (TaskStream* stream : (*reader)->tasks()) {
    Record r;
    while (stream->next(r)) {
      lines.push_back(fmt::format(
          "{}/{} +{} kind {} {} page {:x} nr {} = {} ({:x},{:x},{:x},{:x},{:x},{:x}) off {} flags {:x} child {} status {} sig "
          "{} fd {} "
          "{:x}-{:x} size {} {} {}",
          stream->id().pid, stream->id().tid, r.instructions, static_cast<int>(r.kind), static_cast<int>(r.access), r.page,
          r.number, r.result, r.args[0], r.args[1], r.args[2], r.args[3], r.args[4], r.args[5], r.offset, r.flags, r.child.tid,
          r.status, r.signal, r.fd, r.begin, r.end, r.size, (*reader)->string(r.path), (*reader)->string(r.path2)));
    }
  }
  return lines;
}

}  // namespace quire::trace::test
