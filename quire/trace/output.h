// Where a trace goes. A regular file is written beside its name and takes it when it is whole; a pipe or a device is what
// it is and is written as it stands; a descriptor stays its owner's.
//
//   open ── write fd() ── keep()          the file has its name
//                     └── (destroyed)     nothing is left behind
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <string>

namespace quire::trace {

// What a file is called, behind its own name, until it is whole.
inline constexpr const char* kPartialSuffix = ".partial";

class Output {
 public:
  // An empty `path` is `fd`, which is not closed. An error is one sentence with the path in it.
  static std::expected<std::unique_ptr<Output>, std::string> open(const std::string& path, int fd = -1);
  ~Output();
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] std::string name() const { return path_.empty() ? "the trace" : path_; }

  // Closes what open() opened and gives a file its name. Not to be written to afterwards.
  std::expected<void, std::string> keep();

 private:
  Output() = default;
  enum class Owned : std::uint8_t { kNo, kYes } owned_ = Owned::kNo;
  int fd_ = -1;
  std::string path_, temporary_;
};

}  // namespace quire::trace
