// Recording a real program: runs it under QEMU user mode with the recorder plugin and writes one trace of it, its threads
// and its children.
//
//   program under qemu-x86_64 ─┐  encoded buffers,    ┌─ collector (this process): compresses, numbers the tasks,
//   child under qemu-x86_64   ─┼─ unix socket ────────┤  writes one trace
//   …                         ─┘                      └→ file (temporary name, renamed when whole) or descriptor
//
// The program's standard input, output and error are its own. Needs Debian's qemu-user and libquire-recorder.so.
#pragma once

#include <atomic>
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

namespace quire::trace {

enum class AddressSpaceRandomization : std::uint8_t { kOff, kOn };

inline constexpr std::uint64_t kDefaultWindow = 50'000;

struct RecordOptions {
  std::vector<std::string> argv;          // argv[0] is looked up in PATH as a shell does
  std::string output;                     // file to write; empty: write to output_fd
  int output_fd = -1;                     // not closed
  std::uint64_t window = kDefaultWindow;  // instructions; 0 = unfiltered: every access is recorded
  AddressSpaceRandomization randomization = AddressSpaceRandomization::kOff;
  int compression_level = 3;
  std::string qemu;    // empty: qemu-x86_64 from PATH
  std::string plugin;  // empty: $QUIRE_RECORDER, else beside the running program, in ../lib/quire, in the build folder
  // Set (by a signal handler, say) to stop: the program gets SIGTERM, what was recorded until then is written.
  const std::atomic<int>* stop_signal = nullptr;
};

struct RecordOutcome {
  int exit_status = 0;  // the program's: exit code, or 128 + signal
  int signal = 0;       // the signal that ended it, 0 = none
  enum class Ending : std::uint8_t { kWhole, kInterrupted } ending = Ending::kWhole;
  std::uint64_t tasks = 0;
  std::uint64_t chunks = 0;
  std::uint64_t raw_bytes = 0;
  std::uint64_t bytes = 0;         // of the trace
  std::vector<std::string> notes;  // sentences worth telling ("sort was killed by signal 11 (SIGSEGV)")
};

// An error is one sentence that names the cause and the mend; no output file is left behind then.
std::expected<RecordOutcome, std::string> record(const RecordOptions& options);

}  // namespace quire::trace
