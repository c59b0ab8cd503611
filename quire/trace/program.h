// Finding what a recording needs: the program, QEMU and the plugin. Each failure is one sentence with the mend in it.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "quire/trace/exec_target.h"

namespace quire::trace {

struct ProgramError {
  std::string sentence;
  ExecVerdict verdict = ExecVerdict::kMissing;
};

// Looks argv[0] up as a shell does and resolves what would run; an error when that cannot be recorded.
std::expected<ExecTarget, ProgramError> find_program(const std::vector<std::string>& argv);
std::expected<std::string, std::string> find_qemu(const std::string& wanted);
std::expected<std::string, std::string> find_plugin(const std::string& wanted);

}  // namespace quire::trace
