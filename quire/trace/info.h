// What is inside a trace: a summary made by reading all of it.
#pragma once

#include <cstdint>
#include <expected>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "quire/trace/reader.h"
#include "quire/trace/trace.h"

namespace quire::trace {

struct TaskInfo {
  TaskId id;
  TaskId parent;                      // {0, 0}: the trace begins with it
  std::vector<std::string> programs;  // in order of exec; empty for a thread or a child that never execs
  std::uint64_t instructions = 0;
  std::uint64_t accesses = 0;
  std::uint64_t syscalls = 0;
  int status = 0;
  int signal = 0;
  enum class End : std::uint8_t { kExited, kKilled, kUnknown } end = End::kUnknown;
};

struct FileInfo {
  std::string path;
  std::uint64_t size = 0;  // largest seen
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
};

struct TraceInfo {
  std::string name;
  TraceHeader header;
  bool complete = false;
  int exit_status = -1;
  std::vector<std::string> warnings;
  std::uint64_t bytes = 0, raw_bytes = 0, chunks = 0;
  std::vector<TaskInfo> tasks;
  std::uint64_t instructions = 0;
  std::uint64_t reads = 0, writes = 0, executes = 0;
  std::uint64_t forks = 0, execs = 0, areas = 0;
  std::map<std::string, std::uint64_t> syscalls;  // name → count
  std::vector<FileInfo> files;                    // regular files, by path
  // Distinct pages touched, summed over address spaces (a fork child's pages count again when it touches them).
  std::uint64_t pages = 0;
  std::uint64_t pages_written = 0;

  [[nodiscard]] std::uint64_t accesses() const { return reads + writes + executes; }
};

TraceInfo summarize(TraceReader& reader);
std::expected<TraceInfo, std::string> summarize(const std::string& path);

[[nodiscard]] std::string info_text(const TraceInfo& info);
[[nodiscard]] nlohmann::json info_json(const TraceInfo& info);

// "mmap" for 9; "syscall_600" for a number not known here.
[[nodiscard]] std::string syscall_name(std::uint32_t number);

}  // namespace quire::trace
