// What cannot be recorded: one sentence, and no file that looks whole.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <thread>

#include "recording.h"

namespace quire::trace::test {
namespace {

class FailureTest : public RecordingTest {
 protected:
  std::string error_of(RecordOptions options) const {
    options.output = folder_ + "/t.qtr";
    const auto outcome = try_record(options);
    EXPECT_FALSE(outcome);
    EXPECT_FALSE(std::filesystem::exists(options.output));
    EXPECT_FALSE(std::filesystem::exists(options.output + ".partial"));
    return outcome ? "" : outcome.error();
  }
};

RecordOptions program(const std::string& name) {
  RecordOptions options;
  options.argv = {name};
  return options;
}

TEST_F(FailureTest, PicksTheProgramApart) {
  EXPECT_EQ(error_of(RecordOptions{}), "no program to record: give one after --");
  EXPECT_EQ(error_of(program("no-such-program")), "no-such-program: no such program in PATH: install it or give its path");
  EXPECT_EQ(error_of(program("/no/such")), "/no/such: no such program: check the path");
  EXPECT_EQ(error_of(program("/etc/passwd")),
            "/etc/passwd is not executable (or not readable): `chmod +x /etc/passwd`, or name another program");
  const std::string text = file("text", "hello", 0755);
  EXPECT_EQ(error_of(program(text)),
            text + " is neither an ELF program nor a script with a #! line: run it through its interpreter");
}

TEST_F(FailureTest, NamesThePackageOfQemu) {
  RecordOptions options = program("/bin/true");
  options.qemu = "/no/qemu";
  EXPECT_EQ(error_of(options), "/no/qemu is not there or not executable: it should be QEMU's qemu-x86_64");
  const std::string path = ::getenv("PATH");
  ::setenv("PATH", folder_.c_str(), 1);
  EXPECT_EQ(error_of(program("/bin/true")), "qemu-x86_64 is not in PATH: recording needs it, install the package qemu-user");
  ::setenv("PATH", path.c_str(), 1);
}

TEST_F(FailureTest, NamesThePlugin) {
  RecordOptions options = program("/bin/true");
  options.plugin = "/no/plugin.so";
  const auto outcome = record(options);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error(),
            "libquire-recorder.so is missing (looked at /no/plugin.so): build it, or name it in QUIRE_RECORDER");
}

TEST_F(FailureTest, WrongQemu) {
  RecordOptions options = program("/bin/true");
  options.qemu = "/bin/false";
  EXPECT_NE(error_of(options).find("/bin/false ran no instruction of /bin/true: is that file a whole program?"),
            std::string::npos);
}

TEST_F(FailureTest, AFolderThatIsNotThere) {
  RecordOptions options = program("/bin/true");
  options.output = folder_ + "/none/t.qtr";
  const auto outcome = try_record(options);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error(), "cannot write " + folder_ + "/none/t.qtr: No such file or directory");
}

TEST_F(FailureTest, AFullDisk) {
  RecordOptions options = program("/bin/true");
  options.output = "/dev/full";
  const auto outcome = try_record(options);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error(), "cannot write /dev/full: No space left on device");
}

TEST_F(FailureTest, AReaderThatWentAway) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ::close(ends[0]);
  RecordOptions options = program("/bin/true");
  options.output_fd = ends[1];
  const auto outcome = try_record(options);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error(), "cannot write the trace: Broken pipe");
  ::close(ends[1]);
}

TEST_F(FailureTest, StoppedHalfway) {
  std::atomic<int> stop = 0;
  RecordOptions options;
  options.argv = {guest("signals"), "sleep"};
  options.output = folder_ + "/t.qtr";
  options.stop_signal = &stop;
  std::thread stopper([&] {
    ::sleep(2);
    stop = SIGTERM;
  });
  const int out = ::dup(1);
  const int null = ::open("/dev/null", O_WRONLY);
  ::dup2(null, 1);
  const auto outcome = try_record(options);
  ::dup2(out, 1);
  ::close(out);
  ::close(null);
  stopper.join();
  ASSERT_TRUE(outcome) << outcome.error();
  EXPECT_EQ(outcome->ending, RecordOutcome::Ending::kInterrupted);
  EXPECT_EQ(outcome->exit_status, 128 + SIGTERM);
  ASSERT_EQ(outcome->notes.size(), 1u);
  EXPECT_EQ(outcome->notes[0],
            "the recording was stopped by signal 15 (SIGTERM): the trace holds what the program did until then");
  const auto info = summarize(options.output);
  ASSERT_TRUE(info);
  EXPECT_TRUE(info->complete);
  EXPECT_GT(info->instructions, 1u << 16);
}

}  // namespace
}  // namespace quire::trace::test
