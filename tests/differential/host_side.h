// The referee: processes of the kernel that runs the test, which do the steps with real system calls.
//
// A process waits for its next step in memory that it shares with the test; it answers there, with the text of its
// /proc/self/smaps. Nothing of its own lies in the arena.
#pragma once

#include <sys/types.h>

#include <array>
#include <string>

#include "answer.h"
#include "op.h"

namespace quire::differential {

struct Shared;

class HostSide {
 public:
  // Process 0 runs, with `disk_bytes` in the disk file. Throws std::runtime_error with a sentence when the host cannot.
  explicit HostSide(const std::string& disk_bytes);
  ~HostSide();  // all of them end
  HostSide(const HostSide&) = delete;
  HostSide& operator=(const HostSide&) = delete;

  [[nodiscard]] bool alive(unsigned process) const { return pids_[process] != 0; }
  // What process 0 was before its first step.
  [[nodiscard]] Beginning beginning() const;
  Answer run(const Op& op);
  // The areas of the arena (arena_of).
  [[nodiscard]] std::string arena(unsigned process);

 private:
  void start(unsigned process) const;
  void wait_answer(unsigned process) const;
  void wait_end(unsigned process);

  Shared* shared_ = nullptr;
  std::array<pid_t, kProcesses> pids_{};
  int disk_file_ = -1;
  int memfd_ = -1;
};

}  // namespace quire::differential
