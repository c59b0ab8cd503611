// What runs in a process of the host: it waits for steps in memory that it shares with the test, does them, answers.
#pragma once

#include <semaphore.h>
#include <sys/types.h>

#include <array>

#include "answer.h"
#include "op.h"

namespace quire::differential {

inline constexpr std::size_t kSmapsBytes = 256 * 1024;

struct Channel {
  sem_t go;
  sem_t done;
  Op op;
  Answer answer;
  pid_t self = 0;
  pid_t child = 0;  // of the fork just done
  std::size_t smaps_bytes = 0;
  std::array<char, kSmapsBytes> smaps;
};

// Of all processes.
struct Shared {
  std::array<Channel, kProcesses> channels;
  Beginning beginning;  // of process 0
};

// Never returns: becomes process 0, and, by its forks, the others.
[[noreturn]] void serve(Shared& shared, int disk_file, int memfd);

}  // namespace quire::differential
