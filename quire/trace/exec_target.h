// What an execve(path, argv) of Linux would really run: an x86-64 ELF file, or the interpreter a "#!" line names.
//
// Shared by the recorder's start and its plugin (which turns each execve of the recorded program into one through QEMU);
// needs nothing but the C++ library.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quire::trace {

enum class ExecVerdict : std::uint8_t {
  kRunnable,       // x86-64 ELF, executable, its dynamic linker is there
  kMissing,        // no such file
  kNotExecutable,  // no permission, or not a regular file
  kNotX86_64,      // an ELF file of another machine or of 32 bits
  kUnknownFormat,  // neither ELF nor "#!"
  kNoInterpreter,  // its "#!" program or dynamic linker is missing
};

struct ExecTarget {
  ExecVerdict verdict = ExecVerdict::kMissing;
  std::string file;  // the ELF file to run
  std::string argv0;
  std::vector<std::string> arguments;  // argv[1] onwards
  std::string culprit;                 // the file the verdict is about
};

[[nodiscard]] ExecTarget resolve_exec(const std::string& path, const std::vector<std::string>& argv);

// Variables that would change QEMU itself (LD_PRELOAD and the like) are taken out of `environment` and returned as QEMU
// options (-E NAME=value …), which give them to the program alone.
[[nodiscard]] std::vector<std::string> shield_environment(std::vector<std::string>& environment);

}  // namespace quire::trace
