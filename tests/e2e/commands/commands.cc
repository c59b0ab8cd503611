#include "commands.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <sstream>

namespace quire {

using testing::HasSubstr;

void Commands::SetUp() {
  std::string name = (std::filesystem::temp_directory_path() / "quire-e2e-XXXXXX").string();
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  folder_ = name;
  setenv("QUIRE", QUIRE_COMMAND, 1);
}

Output Commands::shell(const std::string& command) const {
  const std::string errors = path("stderr");
  FILE* pipe = popen(fmt::format("cd '{}' && {{ {}\n}} 2>'{}' </dev/null", folder_.string(), command, errors).c_str(), "r");
  Output output;
  std::array<char, 4096> buffer{};
  for (std::size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) output.out.append(buffer.data(), n);
  const int status = pclose(pipe);
  output.status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  output.err = read(errors);
  return output;
}

std::string Commands::read(const std::string& name) {
  std::ostringstream text;
  text << std::ifstream(name, std::ios::binary).rdbuf();
  return text.str();
}

void Commands::write(const std::string& name, const std::string& text) const {
  std::ofstream(path(name), std::ios::binary) << text;
}

void Commands::write_program(const std::string& name, const std::string& content) const {
  write(name, content);
  std::filesystem::permissions(path(name), std::filesystem::perms::owner_all);
}

void Commands::make_words(int lines) const {
  std::ofstream out(path("words"));
  unsigned state = 1;
  for (int i = 0; i < lines; ++i) {
    state = state * 1103515245u + 12345u;
    out << state << ' ' << (state >> 7) << '\n';
  }
}

void Commands::expect_sentence(const Output& output, const std::string& part) {
  EXPECT_NE(output.status, 0);
  EXPECT_LT(output.status, 128) << "not a crash";
  EXPECT_EQ(output.out, "");
  EXPECT_THAT(output.err, HasSubstr(part));
  EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
}

void Commands::expect_sentence(const Output& output, const std::string& part, int status) {
  expect_sentence(output, part);
  EXPECT_EQ(output.status, status) << output.err;
}

nlohmann::json Commands::without_host(const std::string& text) {
  nlohmann::json report = nlohmann::json::parse(text);
  report.erase("host");
  return report;
}

}  // namespace quire
