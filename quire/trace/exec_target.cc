#include "quire/trace/exec_target.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

namespace quire::trace {
namespace {

constexpr int kMaxInterpreters = 5;  // as Linux's depth of binfmt recursion

// The file's first bytes and, for an ELF file, its PT_INTERP.
struct Head {
  ExecVerdict verdict = ExecVerdict::kMissing;
  std::string bytes;
  std::string linker;
};

ExecVerdict check_elf(int fd, const std::string& bytes, std::string& linker) {
  Elf64_Ehdr elf;
  if (bytes.size() < sizeof elf) return ExecVerdict::kUnknownFormat;
  std::memcpy(&elf, bytes.data(), sizeof elf);
  if (elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_machine != EM_X86_64) return ExecVerdict::kNotX86_64;
  if (elf.e_type != ET_EXEC && elf.e_type != ET_DYN) return ExecVerdict::kUnknownFormat;
  for (unsigned i = 0; i < elf.e_phnum && i < 64; ++i) {
    Elf64_Phdr segment;
    const auto at = static_cast<off_t>(elf.e_phoff + i * sizeof segment);
    if (::pread(fd, &segment, sizeof segment, at) != static_cast<ssize_t>(sizeof segment)) break;
    if (segment.p_type != PT_INTERP || segment.p_filesz == 0 || segment.p_filesz > 4096) continue;
    linker.resize(segment.p_filesz);
    if (::pread(fd, linker.data(), linker.size(), static_cast<off_t>(segment.p_offset)) < 0) linker.clear();
    linker.resize(std::strlen(linker.c_str()));
    if (!linker.empty() && ::access(linker.c_str(), R_OK) != 0) return ExecVerdict::kNoInterpreter;
  }
  return ExecVerdict::kRunnable;
}

Head read_head(const std::string& path) {
  Head head;
  struct stat file{};
  if (::stat(path.c_str(), &file) != 0) {
    if (errno == EACCES) head.verdict = ExecVerdict::kNotExecutable;
    return head;
  }
  head.verdict = ExecVerdict::kNotExecutable;
  if (!S_ISREG(file.st_mode) || ::faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) != 0) return head;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return head;  // QEMU must read it
  char buffer[256];
  const ssize_t n = ::pread(fd, buffer, sizeof buffer, 0);
  head.bytes.assign(buffer, n > 0 ? static_cast<std::size_t>(n) : 0);
  head.verdict = ExecVerdict::kUnknownFormat;
  if (head.bytes.starts_with("\x7f"
                             "ELF"))
    head.verdict = check_elf(fd, head.bytes, head.linker);
  if (head.bytes.starts_with("#!")) head.verdict = ExecVerdict::kRunnable;
  ::close(fd);
  return head;
}

// "#!/bin/sh -e" → {"/bin/sh", "-e"}; the option is all of the rest of the line, as Linux has it.
std::vector<std::string> parse_shebang(const std::string& bytes) {
  constexpr std::string_view kBlank = " \t";
  std::string_view line(bytes);
  line = line.substr(2, line.find('\n') == std::string_view::npos ? std::string_view::npos : line.find('\n') - 2);
  const auto strip = [&](std::string_view text) {
    const std::size_t first = text.find_first_not_of(kBlank);
    if (first == std::string_view::npos) return std::string_view();
    return text.substr(first, text.find_last_not_of(kBlank) + 1 - first);
  };
  line = strip(line);
  const std::size_t end = line.find_first_of(kBlank);
  std::vector<std::string> words;
  if (line.empty()) return words;
  words.emplace_back(line.substr(0, end));
  if (end != std::string_view::npos) words.emplace_back(strip(line.substr(end)));
  return words;
}

bool disturbs_qemu(std::string_view variable) {
  for (const std::string_view name : {"LD_", "GLIBC_TUNABLES=", "MALLOC_", "QEMU_", "G_SLICE=", "G_DEBUG="}) {
    if (variable.starts_with(name)) return true;
  }
  return false;
}

}  // namespace

ExecTarget resolve_exec(const std::string& path, const std::vector<std::string>& argv) {
  ExecTarget target;
  target.file = path;
  target.argv0 = argv.empty() ? "" : argv[0];
  if (argv.size() > 1) target.arguments.assign(argv.begin() + 1, argv.end());
  for (int depth = 0; depth <= kMaxInterpreters; ++depth) {
    const Head head = read_head(target.file);
    target.culprit = target.file;
    target.verdict = head.verdict;
    if (head.verdict == ExecVerdict::kNoInterpreter) target.culprit = head.linker;
    if (depth > 0 && head.verdict == ExecVerdict::kMissing) target.verdict = ExecVerdict::kNoInterpreter;
    if (head.verdict != ExecVerdict::kRunnable || !head.bytes.starts_with("#!")) return target;
    const std::vector<std::string> words = parse_shebang(head.bytes);
    if (words.empty()) break;
    // argv becomes: interpreter, [option], script, argv[1] …
    target.arguments.insert(target.arguments.begin(), target.file);
    if (words.size() > 1) target.arguments.insert(target.arguments.begin(), words[1]);
    target.file = target.argv0 = words[0];
  }
  target.verdict = ExecVerdict::kUnknownFormat;
  return target;
}

std::vector<std::string> shield_environment(std::vector<std::string>& environment) {
  std::vector<std::string> options, kept;
  for (std::string& variable : environment) {
    // QEMU splits the option at commas, so a value with one has to stay where it is.
    const bool move = disturbs_qemu(variable) && variable.find(',') == std::string::npos;
    if (move) {
      options.emplace_back("-E");
      options.push_back(std::move(variable));
    } else {
      kept.push_back(std::move(variable));
    }
  }
  environment = std::move(kept);
  return options;
}

}  // namespace quire::trace
