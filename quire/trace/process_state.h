// What /proc says of a process that somebody else waits for.
#pragma once

#include <sys/types.h>

namespace quire::trace {

struct HowItEnded {
  int status = 0;  // exit status
  int signal = 0;  // that killed it; both 0 when nobody can tell any more
};

// Waits a moment for the process to be a zombie, then reads its exit code.
[[nodiscard]] HowItEnded how_it_ended(pid_t pid);

// Exists and is no zombie.
[[nodiscard]] bool is_running(pid_t pid);

}  // namespace quire::trace
