#include "quire/trace/exec_target.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace quire::trace {
namespace {

class ExecTargetTest : public testing::Test {
 protected:
  ExecTargetTest() {
    char name[] = "/tmp/quire-exec-XXXXXX";
    folder_ = ::mkdtemp(name);
  }
  ~ExecTargetTest() override { std::filesystem::remove_all(folder_); }

  std::string file(const std::string& name, const std::string& contents, unsigned mode = 0755) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << contents;
    ::chmod(path.c_str(), mode);
    return path;
  }

  std::string folder_;
};

TEST_F(ExecTargetTest, TakesElfFilesAsTheyAre) {
  const ExecTarget target = resolve_exec("/proc/self/exe", {"me", "a", "b"});
  EXPECT_EQ(target.verdict, ExecVerdict::kRunnable);
  EXPECT_EQ(target.argv0, "me");
  EXPECT_EQ(target.arguments, (std::vector<std::string>{"a", "b"}));
}

TEST_F(ExecTargetTest, FollowsScripts) {
  const std::string script = file("s", "#! /bin/sh  -e x \necho\n");
  const ExecTarget target = resolve_exec(script, {"ignored", "1"});
  EXPECT_EQ(target.verdict, ExecVerdict::kRunnable);
  EXPECT_EQ(target.file, "/bin/sh");
  EXPECT_EQ(target.argv0, "/bin/sh");
  EXPECT_EQ(target.arguments, (std::vector<std::string>{"-e x", script, "1"}));

  const std::string outer = file("outer", "#!" + script + "\n");
  EXPECT_EQ(resolve_exec(outer, {"o"}).arguments, (std::vector<std::string>{"-e x", script, outer}));
}

TEST_F(ExecTargetTest, SaysWhyNot) {
  EXPECT_EQ(resolve_exec(folder_ + "/none", {"x"}).verdict, ExecVerdict::kMissing);
  EXPECT_EQ(resolve_exec(folder_, {"x"}).verdict, ExecVerdict::kNotExecutable);
  EXPECT_EQ(resolve_exec(file("plain", "x", 0644), {"x"}).verdict, ExecVerdict::kNotExecutable);
  EXPECT_EQ(resolve_exec(file("text", "echo hello"), {"x"}).verdict, ExecVerdict::kUnknownFormat);
  EXPECT_EQ(resolve_exec(file("noshell", "#!/no/such/shell\n"), {"x"}).verdict, ExecVerdict::kNoInterpreter);
  std::string elf32(
      "\x7f"
      "ELF\x01\x01\x01",
      7);
  elf32.resize(64);
  elf32[16] = 2;
  elf32[18] = 3;
  EXPECT_EQ(resolve_exec(file("elf32", elf32), {"x"}).verdict, ExecVerdict::kNotX86_64);
  std::string loop = file("loop", "#!" + folder_ + "/loop\n");
  EXPECT_EQ(resolve_exec(loop, {"x"}).verdict, ExecVerdict::kUnknownFormat);
}

TEST_F(ExecTargetTest, KeepsTheLoadersVariablesFromQemu) {
  std::vector<std::string> environment{"HOME=/", "LD_PRELOAD=x.so", "LD_LIBRARY_PATH=a,b"};
  EXPECT_EQ(shield_environment(environment), (std::vector<std::string>{"-E", "LD_PRELOAD=x.so"}));
  EXPECT_EQ(environment, (std::vector<std::string>{"HOME=/", "LD_LIBRARY_PATH=a,b"}));
}

}  // namespace
}  // namespace quire::trace
