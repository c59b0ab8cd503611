#include "quire/trace/program.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string_view>

namespace quire::trace {
namespace {

namespace fs = std::filesystem;

// The first executable file of that name in PATH; empty if there is none.
std::string search_path(const std::string& name) {
  const char* const path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  for (;;) {
    const std::size_t colon = rest.find(':');
    const std::string_view folder = rest.substr(0, colon);
    const std::string file = folder.empty() ? name : fmt::format("{}/{}", folder, name);
    struct stat info{};
    if (::stat(file.c_str(), &info) == 0 && S_ISREG(info.st_mode) && ::access(file.c_str(), X_OK) == 0) return file;
    if (colon == std::string_view::npos) return {};
    rest.remove_prefix(colon + 1);
  }
}

std::string explain(const ExecTarget& target) {
  const std::string& file = target.culprit;
  switch (target.verdict) {
    case ExecVerdict::kRunnable: return {};
    case ExecVerdict::kMissing: return fmt::format("{}: no such program: check the path", file);
    case ExecVerdict::kNotExecutable:
      return fmt::format("{} is not executable (or not readable): `chmod +x {}`, or name another program", file, file);
    case ExecVerdict::kNotX86_64:
      return fmt::format("{} is not a 64-bit x86 program: only x86-64 Linux programs can be recorded", file);
    case ExecVerdict::kUnknownFormat:
      return fmt::format("{} is neither an ELF program nor a script with a #! line: run it through its interpreter", file);
    case ExecVerdict::kNoInterpreter: return fmt::format("{}, which the program needs to start, is missing: install it", file);
  }
  return {};
}

}  // namespace

std::expected<ExecTarget, ProgramError> find_program(const std::vector<std::string>& argv) {
  if (argv.empty() || argv[0].empty()) return std::unexpected(ProgramError{"no program to record: give one after --"});
  std::string path = argv[0];
  if (path.find('/') == std::string::npos) {
    path = search_path(argv[0]);
    if (path.empty()) {
      return std::unexpected(ProgramError{fmt::format("{}: no such program in PATH: install it or give its path", argv[0])});
    }
  }
  ExecTarget target = resolve_exec(path, argv);
  if (target.verdict != ExecVerdict::kRunnable) return std::unexpected(ProgramError{explain(target), target.verdict});
  return target;
}

std::expected<std::string, std::string> find_qemu(const std::string& wanted) {
  if (!wanted.empty()) {
    if (::access(wanted.c_str(), X_OK) == 0) return wanted;
    return std::unexpected(fmt::format("{} is not there or not executable: it should be QEMU's qemu-x86_64", wanted));
  }
  std::string found = search_path("qemu-x86_64");
  if (!found.empty()) return found;
  return std::unexpected<std::string>("qemu-x86_64 is not in PATH: recording needs it, install the package qemu-user");
}

std::expected<std::string, std::string> find_plugin(const std::string& wanted) {
  constexpr std::string_view kName = "libquire-recorder.so";
  std::vector<fs::path> places;
  if (!wanted.empty()) {
    places.emplace_back(wanted);
  } else if (const char* given = std::getenv("QUIRE_RECORDER"); given != nullptr && *given != '\0') {
    places.emplace_back(given);
  } else {
    std::error_code failed;
    const fs::path self = fs::read_symlink("/proc/self/exe", failed).parent_path();
    places.push_back(self / kName);
    places.push_back(self.parent_path() / "lib" / "quire" / kName);
    for (fs::path up = self; up != up.root_path() && !up.empty(); up = up.parent_path()) {
      if (fs::exists(up / "CMakeCache.txt", failed)) places.push_back(up / kName);  // a build folder
    }
  }
  for (const fs::path& place : places) {
    std::error_code failed;
    if (fs::is_regular_file(place, failed)) return fs::absolute(place).string();
  }
  return std::unexpected(fmt::format("{} is missing (looked at {}): build it, or name it in QUIRE_RECORDER", kName,
                                     places.empty() ? "nothing" : places.front().string()));
}

}  // namespace quire::trace
