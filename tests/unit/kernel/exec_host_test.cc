// Programs of the host, executed here and there without randomisation: after execve and before their first instruction both
// must have the same areas, layout fields, registers and stack. The host's are read from /proc and through ptrace.
#include <fcntl.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "quire/kernel/exec.h"
#include "small_machine.h"

namespace quire::kernel {
namespace {

namespace fs = std::filesystem;

// A line of maps: "start-end rwxp offset path".
using Areas = std::vector<std::string>;
using Auxv = std::map<std::uint64_t, std::uint64_t>;

struct Image {
  Areas areas;
  std::map<std::string, std::uint64_t> fields;
  Auxv auxv;
  std::uint64_t entry = 0, sp = 0;
  std::vector<std::byte> strings;       // from the first argument to the stack's end
  std::vector<std::uint64_t> pointers;  // argc … the environment's last 0
};

std::string area(std::uint64_t start, std::uint64_t end, const std::string& rights, std::uint64_t offset, std::string name) {
  if (name.starts_with('/')) name = fs::weakly_canonical(name).string();
  if (name == "[heap]") name.clear();  // 6.1 calls the bss so when the heap behind it is empty, later kernels do not
  return fmt::format("{:x}-{:x} {} {:x} {}", start, end, rights, offset, name);
}

// Where [vdso] and its data lie depends on how many pages of them a kernel has.
bool kernels_own(const std::string& name) { return name.starts_with("[v"); }

Areas host_areas(pid_t pid) {
  Areas areas;
  std::ifstream maps(fmt::format("/proc/{}/maps", pid));
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    std::uint64_t start = 0, end = 0, offset = 0;
    char dash = 0;
    std::string rights, dev, ino, name;
    words >> std::hex >> start >> dash >> end >> rights >> offset >> dev >> ino >> name;
    if (!kernels_own(name)) areas.push_back(area(start, end, rights, offset, name));
  }
  return areas;
}

// Fields 26 … of /proc/PID/stat.
std::map<std::string, std::uint64_t> host_fields(pid_t pid) {
  std::ifstream stat(fmt::format("/proc/{}/stat", pid));
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  std::istringstream words(text.substr(text.rfind(')') + 2));
  std::vector<std::string> field{"", "", ""};  // numbered from 1; the state is the third
  for (std::string word; words >> word;) field.push_back(word);
  const auto number = [&](std::size_t n) { return n < field.size() ? std::stoull(field[n]) : 0; };
  return {{"start_code", number(26)}, {"end_code", number(27)},  {"start_data", number(45)},
          {"end_data", number(46)},   {"start_brk", number(47)}, {"arg_start", number(48)},
          {"arg_end", number(49)},    {"env_start", number(50)}, {"env_end", number(51)}};
}

Auxv host_auxv(pid_t pid) {
  Auxv auxv;
  std::ifstream file(fmt::format("/proc/{}/auxv", pid), std::ios::binary);
  for (std::uint64_t pair[2]; file.read(reinterpret_cast<char*>(pair), sizeof(pair)) && pair[0] != AT_NULL;)
    auxv[pair[0]] = pair[1];
  return auxv;
}

std::vector<std::byte> host_bytes(pid_t pid, std::uint64_t at, std::uint64_t length) {
  std::vector<std::byte> bytes(length);
  iovec local{bytes.data(), length};
  iovec remote{reinterpret_cast<void*>(at), length};
  if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != static_cast<ssize_t>(length)) bytes.clear();
  return bytes;
}

std::vector<std::uint64_t> words_of(const std::vector<std::byte>& bytes) {
  std::vector<std::uint64_t> words(bytes.size() / 8);
  std::memcpy(words.data(), bytes.data(), words.size() * 8);
  return words;
}

struct Program {
  std::string path;
  std::vector<std::string> argv, envp;
  [[nodiscard]] std::uint64_t pointer_bytes() const { return (argv.size() + envp.size() + 3) * 8; }
};

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> all;
  for (const std::string& text : strings) all.push_back(const_cast<char*>(text.c_str()));
  all.push_back(nullptr);
  return all;
}

constexpr int kNotAllowed = 126;  // of a child that may not be traced, or not without randomisation

// Stopped after its execve; nullopt: the host does not let us. An image without areas: something else went wrong.
std::optional<Image> on_host(const Program& program, std::uint64_t stack_limit) {
  const std::vector<char*> argv = pointers(program.argv);
  const std::vector<char*> envp = pointers(program.envp);
  const pid_t pid = fork();
  if (pid == 0) {
    rlimit limit{};
    getrlimit(RLIMIT_STACK, &limit);
    limit.rlim_cur = stack_limit;
    if (setrlimit(RLIMIT_STACK, &limit) != 0) _exit(kNotAllowed);
    if (personality(ADDR_NO_RANDOMIZE) == -1 || ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(kNotAllowed);
    execve(program.path.c_str(), argv.data(), envp.data());
    _exit(127);
  }
  int status = 0;
  Image image;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) return image;
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNotAllowed) return std::nullopt;
  if (!WIFSTOPPED(status)) return image;
  user_regs_struct registers{};
  if (ptrace(PTRACE_GETREGS, pid, nullptr, &registers) == 0) {
    image.entry = registers.rip;
    image.sp = registers.rsp;
    image.areas = host_areas(pid);
    image.fields = host_fields(pid);
    image.auxv = host_auxv(pid);
    image.pointers = words_of(host_bytes(pid, image.sp, program.pointer_bytes()));
    image.strings = host_bytes(pid, image.fields["arg_start"], 0x7ffffffff000 - image.fields["arg_start"]);
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  return image;
}

// The host's file under its own path and, when it is a link there, under the path that was asked for.
void add_host_file(file::FileSystem& disk, const std::string& path) {
  const std::string real = fs::canonical(path).string();
  if (disk.lookup(real) == nullptr) {
    auto backing = file::HostFileBacking::open(real);
    ASSERT_TRUE(backing) << real;
    ASSERT_TRUE(disk.create(real, std::move(*backing)));
  }
  if (path != real && disk.lookup(path) == nullptr) {
    ASSERT_TRUE(disk.link(real, path));
  }
}

std::string rights(const vm::Vma& vma) {
  std::string text = "---p";
  if (vma.has(vm::VmFlags::kRead)) text[0] = 'r';
  if (vma.has(vm::VmFlags::kWrite)) text[1] = 'w';
  if (vma.has(vm::VmFlags::kExec)) text[2] = 'x';
  if (vma.has(vm::VmFlags::kMayShare)) text[3] = 's';
  return text;
}

void read_image(Machine& machine, vm::Mm& mm, const Program& program, Image& image) {
  for (const vm::Vma& vma : mm.mm_vmas) {
    const std::string name = vma.vm_file != nullptr                 ? vma.vm_file->sb().path_of(vma.vm_file->inode())
                             : vma.range().contains(mm.start_stack) ? "[stack]"
                                                                    : "";
    const std::uint64_t offset = vma.vm_file != nullptr ? vma.vm_pgoff.value() << kPageShift : 0;
    if (!kernels_own(name)) image.areas.push_back(area(vma.vm_start.value(), vma.vm_end.value(), rights(vma), offset, name));
  }
  image.fields = {
      {"start_code", mm.start_code.value()}, {"end_code", mm.end_code.value()},   {"start_data", mm.start_data.value()},
      {"end_data", mm.end_data.value()},     {"start_brk", mm.start_brk.value()}, {"arg_start", mm.arg_start.value()},
      {"arg_end", mm.arg_end.value()},       {"env_start", mm.env_start.value()}, {"env_end", mm.env_end.value()}};
  for (std::size_t i = 0; mm.saved_auxv[i] != AT_NULL; i += 2) image.auxv[mm.saved_auxv[i]] = mm.saved_auxv[i + 1];
  std::vector<std::byte> bytes(program.pointer_bytes());
  EXPECT_EQ(machine.vm().copy_from_user(mm, bytes, VirtAddr(image.sp)), bytes.size());
  image.pointers = words_of(bytes);
  image.strings.resize(0x7ffffffff000 - mm.arg_start.value());
  EXPECT_EQ(machine.vm().copy_from_user(mm, image.strings, mm.arg_start), image.strings.size());
}

Image here(const Program& program, std::uint64_t stack_limit) {
  const auto machine = boot_with_data(64 * kMiB);
  file::FileSystem& disk = machine->vfs().mount({});
  add_host_file(disk, program.path);
  if (fs::exists("/lib64/ld-linux-x86-64.so.2")) add_host_file(disk, "/lib64/ld-linux-x86-64.so.2");
  Image image;
  start(*machine, "test", [&](Process& self) {
    self.personality = vm::Personality::kAddrNoRandomize;
    self.mm->rlimits.stack = stack_limit;
    const std::vector<std::string_view> argv(program.argv.begin(), program.argv.end());
    const std::vector<std::string_view> envp(program.envp.begin(), program.envp.end());
    const auto started = machine->processes().execve(self, {program.path, argv, envp});
    ASSERT_TRUE(started) << started.error().why;
    image.entry = started->entry.value();
    image.sp = started->stack.value();
    read_image(*machine, *self.mm, program, image);
  });
  EXPECT_TRUE(machine->run().done());
  machine->validate();
  return image;
}

class ExecHost : public ::testing::TestWithParam<std::tuple<const char*, std::uint64_t>> {};

TEST_P(ExecHost, TheProgramBeginsAsItDoesThere) {
  const auto& [path, stack_limit] = GetParam();
  if (!fs::exists(path)) GTEST_SKIP() << "the host has no " << path;
  const Program program{path, {path, "-x", "two words"}, {"HOME=/root", "LANG=C", "EMPTY="}};
  const std::optional<Image> host = on_host(program, stack_limit);
  if (!host) GTEST_SKIP() << "the host lets no program be traced, or none without randomisation";
  ASSERT_FALSE(host->areas.empty());
  ASSERT_FALSE(host->strings.empty());
  const Image image = here(program, stack_limit);
  EXPECT_EQ(image.areas, host->areas);
  EXPECT_EQ(image.fields, host->fields);
  EXPECT_EQ(image.entry, host->entry);
  EXPECT_EQ(image.pointers, host->pointers);
  // The auxiliary vector has other entries on other kernels, and is below the same strings.
  const auto vector_bytes = [](const Image& of) { return (of.auxv.size() + 1) * 16; };
  EXPECT_EQ(image.sp + vector_bytes(image), host->sp + vector_bytes(*host));
  for (const std::uint64_t type : {AT_PAGESZ, AT_CLKTCK, AT_PHDR, AT_PHENT, AT_PHNUM, AT_BASE, AT_FLAGS, AT_ENTRY, AT_UID,
                                   AT_EUID, AT_GID, AT_EGID, AT_SECURE, AT_RANDOM, AT_EXECFN, AT_PLATFORM}) {
    if (getuid() != 0 && type >= AT_UID && type <= AT_EGID) continue;
    ASSERT_TRUE(host->auxv.contains(type) && image.auxv.contains(type)) << type;
    EXPECT_EQ(image.auxv.at(type), host->auxv.at(type)) << type;
  }
  EXPECT_EQ(image.strings, host->strings);
}

INSTANTIATE_TEST_SUITE_P(Programs, ExecHost,
                         ::testing::Combine(::testing::Values("/bin/busybox", "/bin/cat", "/bin/bash", "/usr/bin/python3"),
                                            ::testing::Values(8 * kMiB, 1 * kMiB, ~std::uint64_t{0})));

}  // namespace
}  // namespace quire::kernel
