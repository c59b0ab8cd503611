// The commands as a person types them: a folder of one's own, a shell in it, and what came of a command line.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace quire {

struct Output {
  int status = -1;  // 128 + signal when it was killed
  std::string out;
  std::string err;
};

class Commands : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }
  [[nodiscard]] Output shell(const std::string& command) const;  // standard input is empty; $QUIRE is the command
  [[nodiscard]] Output quire(const std::string& words) const { return shell("$QUIRE " + words); }

  static std::string read(const std::string& name);
  void write(const std::string& name, const std::string& text) const;
  void write_program(const std::string& name, const std::string& content) const;  // executable
  // Lines of pseudo-random numbers to sort, in the file "words".
  void make_words(int lines = 20'000) const;

  // One sentence: a single line that says what and how to mend it, and nothing on standard output.
  static void expect_sentence(const Output& output, const std::string& part);
  // The same, with an exit status of its own.
  static void expect_sentence(const Output& output, const std::string& part, int status);

  static nlohmann::json without_host(const std::string& text);

  std::filesystem::path folder_;
};

}  // namespace quire
