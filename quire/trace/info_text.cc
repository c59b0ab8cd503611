#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "quire/trace/info.h"

namespace quire::trace {
namespace {

constexpr std::size_t kTasksShown = 40, kFilesShown = 20;

// 1234567 → "1,234,567"
std::string grouped(std::uint64_t n) {
  const std::string digits = fmt::format("{}", n);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i != 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string bytes_text(std::uint64_t n) {
  if (n < 10 * 1024) return fmt::format("{} bytes", grouped(n));
  if (n < 10 * 1024 * 1024) return fmt::format("{:.1f} KiB", static_cast<double>(n) / 1024);
  if (n < std::uint64_t{10} << 30) return fmt::format("{:.1f} MiB", static_cast<double>(n) / (1 << 20));
  return fmt::format("{:.1f} GiB", static_cast<double>(n) / (1 << 30));
}

std::string end_text(const TaskInfo& task) {
  if (task.end == TaskInfo::End::kUnknown) return "no end";
  if (task.signal != 0) return fmt::format("signal {}", task.signal);
  return task.end == TaskInfo::End::kKilled ? "killed" : fmt::format("exit {}", task.status);
}

std::string what_runs(const TaskInfo& task) {
  if (!task.programs.empty()) return fmt::format("{}", fmt::join(task.programs, " → "));
  return task.id.pid == task.id.tid ? "(forked)" : "(thread)";
}

template <class Out>
void put_tasks(Out out, const TraceInfo& info) {
  fmt::format_to(out, "\n  {:>6} {:>6} {:>6} {:>16} {:>14} {:>9}  {:<9} {}\n", "pid", "tid", "parent", "instructions",
                 "accesses", "syscalls", "end", "program");
  for (std::size_t i = 0; i < std::min(info.tasks.size(), kTasksShown); ++i) {
    const TaskInfo& t = info.tasks[i];
    fmt::format_to(out, "  {:>6} {:>6} {:>6} {:>16} {:>14} {:>9}  {:<9} {}\n", t.id.pid, t.id.tid,
                   t.parent.tid != 0 ? fmt::format("{}", t.parent.tid) : "-", grouped(t.instructions), grouped(t.accesses),
                   grouped(t.syscalls), end_text(t), what_runs(t));
  }
  if (info.tasks.size() > kTasksShown) fmt::format_to(out, "  … and {} more\n", info.tasks.size() - kTasksShown);
}

template <class Out>
void put_syscalls(Out out, const TraceInfo& info) {
  if (info.syscalls.empty()) return;
  std::vector<std::pair<std::string, std::uint64_t>> calls(info.syscalls.begin(), info.syscalls.end());
  std::ranges::sort(
      calls, [](const auto& a, const auto& b) { return a.second != b.second ? a.second > b.second : a.first < b.first; });
  fmt::format_to(out, "\nsystem calls ");
  for (std::size_t i = 0; i < calls.size(); ++i) {
    fmt::format_to(out, "{}{} {}",
                   i == 0       ? ""
                   : i % 8 == 0 ? ",\n             "
                                : ", ",
                   calls[i].first, grouped(calls[i].second));
  }
  fmt::format_to(out, "\n");
}

template <class Out>
void put_files(Out out, const TraceInfo& info) {
  if (info.files.empty()) return;
  std::vector<FileInfo> files = info.files;
  const auto moved = [](const FileInfo& f) { return f.bytes_read + f.bytes_written; };
  std::ranges::sort(files, [&](const FileInfo& a, const FileInfo& b) {
    return moved(a) != moved(b) ? moved(a) > moved(b) : a.path < b.path;
  });
  fmt::format_to(out, "\n  {:>12} {:>12} {:>12}  {}\n", "size", "read", "written", "file");
  for (std::size_t i = 0; i < std::min(files.size(), kFilesShown); ++i) {
    const FileInfo& f = files[i];
    fmt::format_to(out, "  {:>12} {:>12} {:>12}  {}\n", bytes_text(f.size), bytes_text(f.bytes_read),
                   bytes_text(f.bytes_written), f.path);
  }
  if (files.size() > kFilesShown) fmt::format_to(out, "  … and {} more\n", files.size() - kFilesShown);
}

}  // namespace

std::string info_text(const TraceInfo& info) {
  std::string text;
  const auto out = std::back_inserter(text);
  fmt::format_to(out, "{}: trace format {}.{}, {}\n", info.name, info.header.version_major, info.header.version_minor,
                 info.complete ? "whole" : "NOT WHOLE");
  for (const std::string& warning : info.warnings) fmt::format_to(out, "warning: {}\n", warning);
  fmt::format_to(out, "size         {} ({} before compression, {} chunks)\n", bytes_text(info.bytes),
                 bytes_text(info.raw_bytes), grouped(info.chunks));
  fmt::format_to(
      out, "window       {}\n",
      info.header.window == 0 ? "none: every access is recorded" : fmt::format("{} instructions", grouped(info.header.window)));
  if (info.exit_status >= 0) fmt::format_to(out, "exit status  {}\n", info.exit_status);
  fmt::format_to(out, "instructions {}\n", grouped(info.instructions));
  fmt::format_to(out, "accesses     {} (read {}, write {}, execute {})\n", grouped(info.accesses()), grouped(info.reads),
                 grouped(info.writes), grouped(info.executes));
  fmt::format_to(out, "footprint    {} pages, {} ({} written)\n", grouped(info.pages),
                 bytes_text(info.pages << info.header.page_shift), grouped(info.pages_written));
  fmt::format_to(out, "tasks        {} ({} execs)\n", grouped(info.tasks.size()), grouped(info.execs));
  put_tasks(out, info);
  put_syscalls(out, info);
  put_files(out, info);
  return text;
}

nlohmann::json info_json(const TraceInfo& info) {
  nlohmann::json tasks = nlohmann::json::array();
  for (const TaskInfo& t : info.tasks) {
    tasks.push_back({{"pid", t.id.pid},
                     {"tid", t.id.tid},
                     {"parent", t.parent.tid},
                     {"programs", t.programs},
                     {"instructions", t.instructions},
                     {"accesses", t.accesses},
                     {"syscalls", t.syscalls},
                     {"status", t.status},
                     {"signal", t.signal},
                     {"ended", t.end != TaskInfo::End::kUnknown}});
  }
  nlohmann::json files = nlohmann::json::array();
  for (const FileInfo& f : info.files) {
    files.push_back({{"path", f.path}, {"size", f.size}, {"read", f.bytes_read}, {"written", f.bytes_written}});
  }
  return {{"name", info.name},
          {"format", fmt::format("{}.{}", info.header.version_major, info.header.version_minor)},
          {"complete", info.complete},
          {"warnings", info.warnings},
          {"exit_status", info.exit_status},
          {"window", info.header.window},
          {"bytes", info.bytes},
          {"raw_bytes", info.raw_bytes},
          {"chunks", info.chunks},
          {"instructions", info.instructions},
          {"accesses", {{"read", info.reads}, {"write", info.writes}, {"execute", info.executes}}},
          {"pages", info.pages},
          {"pages_written", info.pages_written},
          {"forks", info.forks},
          {"execs", info.execs},
          {"areas", info.areas},
          {"syscalls", info.syscalls},
          {"tasks", tasks},
          {"files", files}};
}

}  // namespace quire::trace
