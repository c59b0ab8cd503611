// execve of the guest → execve of QEMU with this plugin, so that the next program is recorded, too. QEMU itself would start
// it natively, unseen. What we cannot run under QEMU is left to the guest's own call: it fails as it should, or runs unseen.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "quire/recorder/process.h"
#include "quire/trace/exec_target.h"

namespace quire::recorder {
namespace {

using trace::protocol::MessageType;

// The guest's array of string pointers; stops at the null, at a bad pointer or at a million.
std::vector<std::string> read_strings(std::uint64_t address) {
  std::vector<std::string> strings;
  while (address != 0 && strings.size() < 1'000'000) {
    std::uint64_t pointer = 0;
    if (!read_guest(address, &pointer, sizeof pointer) || pointer == 0) break;
    strings.push_back(read_guest_string(pointer));
    address += sizeof pointer;
  }
  return strings;
}

// The file that execveat(dirfd, path, flags) means; empty when it cannot be named.
std::string exec_path(int dirfd, const std::string& path, std::uint64_t flags) {
  const std::string pid = std::to_string(getpid());
  if (path == "/proc/self/exe" || path == "/proc/" + pid + "/exe") return process().program;
  if (path.empty()) {
    if ((flags & AT_EMPTY_PATH) == 0) return {};
    return name_of_fd(dirfd);
  }
  for (const std::string& folder : {std::string("/proc/self/fd/"), "/proc/" + pid + "/fd/", std::string("/dev/fd/")}) {
    if (path.starts_with(folder)) return name_of_fd(std::atoi(path.c_str() + folder.size()));
  }
  return dirfd == AT_FDCWD || path.starts_with('/') ? path : absolute_path(dirfd, path);
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (std::string& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

}  // namespace

void on_execve(Vcpu& v, int dirfd, const std::array<std::uint64_t, 3>& path_argv_envp, std::uint64_t flags) {
  Process& p = process();
  const std::string path = exec_path(dirfd, read_guest_string(path_argv_envp[0]), flags);
  if (path.empty() || p.silent) return;
  struct stat link{};
  if ((flags & AT_SYMLINK_NOFOLLOW) != 0 && lstat(path.c_str(), &link) == 0 && S_ISLNK(link.st_mode)) return;
  const trace::ExecTarget target = trace::resolve_exec(path, read_strings(path_argv_envp[1]));
  if (target.verdict != trace::ExecVerdict::kRunnable) return;

  std::vector<std::string> environment = read_strings(path_argv_envp[2]);
  std::vector<std::string> command{p.qemu};
  for (std::string& option : trace::shield_environment(environment)) command.push_back(std::move(option));
  if (!p.randomized) command.insert(command.end(), {"-seed", "1"});
  command.insert(command.end(), {"-plugin", p.plugin_argument, "-0", target.argv0, target.file});
  command.insert(command.end(), target.arguments.begin(), target.arguments.end());

  flush(v);
  send_note(MessageType::kExecuting, static_cast<std::uint32_t>(p.host_pid));
  std::vector<char*> argv = pointers(command), envp = pointers(environment);
  execve(p.qemu.c_str(), argv.data(), envp.data());
  send_note(MessageType::kNotExecuted, static_cast<std::uint32_t>(p.host_pid));
}

}  // namespace quire::recorder
