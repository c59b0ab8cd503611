#include "quire/trace/process_state.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace quire::trace {
namespace {

struct Stat {
  char state = '\0';  // '\0': no such process
  int exit_code = 0;
};

Stat read_stat(pid_t pid) {
  Stat stat;
  std::FILE* const file = std::fopen(fmt::format("/proc/{}/stat", pid).c_str(), "re");
  if (file == nullptr) return stat;
  char text[4096];
  const std::size_t size = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  text[size] = '\0';
  const char* at = std::strrchr(text, ')');  // the name before it may hold anything
  if (at == nullptr || at[1] == '\0') return stat;
  stat.state = at[2];
  const char* const last = std::strrchr(at, ' ');  // exit_code is the last field, 52
  if (last != nullptr) stat.exit_code = std::atoi(last + 1);
  return stat;
}

}  // namespace

HowItEnded how_it_ended(pid_t pid) {
  constexpr int kTries = 200;
  for (int i = 0; i < kTries; ++i) {
    const Stat stat = read_stat(pid);
    if (stat.state == '\0') break;
    if (stat.state == 'Z' || stat.state == 'X') return {stat.exit_code >> 8 & 0xff, stat.exit_code & 0x7f};
    ::usleep(1000);
  }
  return {};
}

bool is_running(pid_t pid) {
  const char state = read_stat(pid).state;
  return state != '\0' && state != 'Z' && state != 'X';
}

}  // namespace quire::trace
