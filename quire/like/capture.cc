#include "quire/like/capture.h"

#include <fmt/format.h>
#include <sys/klog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <system_error>

#include "quire/base/cpu_list.h"
#include "quire/like/boot_log.h"
#include "quire/like/lines.h"
#include "quire/like/proc_files.h"

namespace quire::like {

namespace {

namespace fs = std::filesystem;

constexpr std::pair<std::string_view, std::string_view> kPlainFiles[] = {
    {"version.txt", "proc/version"},     {"cmdline.txt", "proc/cmdline"},   {"zoneinfo.txt", "proc/zoneinfo"},
    {"buddyinfo.txt", "proc/buddyinfo"}, {"iomem.txt", "proc/iomem"},       {"pagetypeinfo.txt", "proc/pagetypeinfo"},
    {"meminfo.txt", "proc/meminfo"},     {"slabinfo.txt", "proc/slabinfo"}, {"vmstat.txt", "proc/vmstat"},
};

Checked<std::string> read_file(const fs::path& path) {
  errno = 0;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"), std::fclose);
  if (!file) return user_error(std::strerror(errno));
  std::string text;
  std::array<char, 65536> buffer{};
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), file.get())) text.append(buffer.data(), n);
  if (std::ferror(file.get()) != 0) return user_error(std::strerror(errno));
  return text;
}

// syslog(2), without the levels before the lines.
Checked<std::string> kernel_ring() {
  constexpr int kReadAll = 3;
  constexpr int kSizeBuffer = 10;
  const int size = klogctl(kSizeBuffer, nullptr, 0);
  if (size <= 0) return user_error(fmt::format("the kernel's log: {}", std::strerror(errno)));
  std::string raw(static_cast<std::size_t>(size), '\0');
  const int got = klogctl(kReadAll, raw.data(), size);
  if (got < 0) return user_error(fmt::format("the kernel's log: {}", std::strerror(errno)));
  raw.resize(static_cast<std::size_t>(got));
  std::string text;
  for (std::string_view line : lines_of(raw)) {
    const std::size_t close = line.starts_with('<') ? line.find('>') : std::string_view::npos;
    if (close != std::string_view::npos && close <= 4) line.remove_prefix(close + 1);
    text += std::string(line) + '\n';
  }
  return text;
}

// What the journal kept of this boot. Empty when there is none.
std::string journal() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(
      popen("journalctl -k -b -o short-monotonic --no-pager 2>/dev/null", "re"), pclose);
  if (!pipe) return {};
  std::string text;
  std::array<char, 65536> buffer{};
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe.get())) text.append(buffer.data(), n);
  return text;
}

class Capture {
 public:
  explicit Capture(const CaptureOptions& options) : options_(options), root_(options.root) {}

  void collect() {
    log();
    for (const auto& [name, path] : kPlainFiles) plain(std::string(name), root_ / path);
    nodes();
    sysctl();
    const auto iomem = files_.find("iomem.txt");
    if (iomem != files_.end() && parse_iomem(iomem->second).hidden) {
      out_.notes.emplace_back("iomem.txt has all addresses 0: only root may see them");
    }
  }
  Checked<Captured> write(const fs::path& path);

 private:
  void skip(std::string name, std::string_view why) { out_.skipped.push_back(fmt::format("{}: {}", name, why)); }
  void keep(std::string name, std::string text) {
    if (!text.ends_with('\n')) text += '\n';
    files_[std::move(name)] = std::move(text);
  }
  void plain(std::string name, const fs::path& path) {
    auto text = read_file(path);
    if (!text) return skip(std::move(name), text.error().sentence);
    if (text->empty()) return skip(std::move(name), "empty");
    keep(std::move(name), std::move(*text));
  }

  static bool has_map(const std::string& text) { return !parse_boot_log(text).firmware_map.empty(); }

  // The ring forgets its oldest lines; whoever saved them at boot has them still.
  void log() {
    const bool running = root_ == "/";
    auto ring = options_.kernel_log ? options_.kernel_log()
                : running           ? kernel_ring()
                                    : Checked<std::string>(user_error("the kernel's log is that of another machine"));
    std::string best = ring ? *ring : "";
    if (!has_map(best)) {
      for (const std::string_view place : {"var/log/dmesg", "var/log/kern.log", "var/log/messages"}) {
        const auto saved = read_file(root_ / place);
        if (!saved || !has_map(*saved)) continue;
        best = *saved;
        out_.notes.push_back(fmt::format("dmesg.txt is /{}: the kernel's ring has lost the beginning of the boot", place));
        break;
      }
    }
    if (!has_map(best) && running && !options_.kernel_log) {
      if (std::string kept = journal(); has_map(kept)) {
        best = std::move(kept);
        out_.notes.emplace_back("dmesg.txt is the journal's: the kernel's ring has lost the beginning of the boot");
      }
    }
    if (!best.empty()) keep("dmesg.txt", best);
    if (best.empty()) skip("dmesg.txt", ring ? "empty" : ring.error().sentence);
    if (!has_map(best)) firmware_map();
  }

  // /sys/firmware/memmap, as the log would have shown it.
  void firmware_map() {
    std::vector<std::string> lines;
    std::error_code error;
    for (unsigned i = 0;; ++i) {
      const fs::path entry = root_ / "sys/firmware/memmap" / std::to_string(i);
      const auto value = [&entry](std::string_view file) {
        const auto text = read_file(entry / file);
        return text ? std::string(trim(*text)) : std::string();
      };
      if (!fs::exists(entry, error)) break;
      const auto start = hexadecimal(value("start"));
      const auto end = hexadecimal(value("end"));
      if (!start || !end) break;
      lines.push_back(fmt::format("BIOS-e820: [mem {:#018x}-{:#018x}] {}", *start, *end, log_type(value("type"))));
    }
    if (lines.empty()) return skip("memmap.txt", "there is no /sys/firmware/memmap, and the log has no BIOS-e820 lines");
    std::string text;
    for (const std::string& line : lines) text += line + '\n';
    keep("memmap.txt", text);
    out_.notes.emplace_back("the log does not tell the firmware's map: it is taken from /sys/firmware/memmap into memmap.txt");
  }
  // The names in /sys are those of iomem.
  static std::string_view log_type(std::string_view name) {
    constexpr std::pair<std::string_view, std::string_view> kNames[] = {{"System RAM", "usable"},
                                                                        {"ACPI Tables", "ACPI data"},
                                                                        {"ACPI Non-volatile Storage", "ACPI NVS"},
                                                                        {"Unusable memory", "unusable"},
                                                                        {"Persistent Memory", "persistent (type 7)"},
                                                                        {"Persistent Memory (legacy)", "persistent (type 12)"}};
    for (const auto& [in_sys, in_log] : kNames) {
      if (name == in_sys) return in_log;
    }
    return "reserved";
  }

  void nodes() {
    const fs::path folder = root_ / "sys/devices/system/node";
    const auto online = read_file(folder / "online");
    const auto nids = online ? parse_number_list(trim(*online), 1023) : std::nullopt;
    if (!nids || nids->empty()) return skip("nodes.txt", "there is no /sys/devices/system/node (a kernel without NUMA)");
    std::string text;
    for (const unsigned nid : *nids) {
      text += fmt::format("== /sys/devices/system/node/node{}\n", nid);
      for (const std::string_view file : {"meminfo", "vmstat", "distance", "cpulist", "numastat"}) {
        const auto content = read_file(folder / fmt::format("node{}", nid) / file);
        text += fmt::format("-- {}\n{}", file, content ? *content : "");
        if (!text.ends_with('\n')) text += '\n';
      }
    }
    keep("nodes.txt", text);
  }

  void sysctl() {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator it(root_ / "proc/sys/vm", error), end; !error && it != end; it.increment(error)) {
      if (it->is_regular_file(error)) names.push_back(it->path().filename().string());
    }
    if (names.empty()) return skip("sysctl_vm.txt", "there is no /proc/sys/vm");
    std::ranges::sort(names);
    std::string text;
    for (const std::string& name : names) {
      // Some can only be written (drop_caches): they stand there without a value.
      const auto value = read_file(root_ / "proc/sys/vm" / name);
      text += fmt::format("/proc/sys/vm/{}: {}\n", name, value ? trim(*value) : std::string_view());
    }
    keep("sysctl_vm.txt", text);
  }

  CaptureOptions options_;
  fs::path root_;
  std::map<std::string, std::string> files_;
  Captured out_;
};

// A folder beside `path` that is gone again unless it has been renamed.
class Staging {
 public:
  explicit Staging(const fs::path& path) : path_(path.string() + fmt::format(".part{}", getpid())) {}
  ~Staging() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

Checked<Captured> Capture::write(const fs::path& path) {
  if (files_.empty()) {
    return user_error(fmt::format("nothing can be read below {}: neither /proc nor the kernel's log", root_.string()));
  }
  const Staging staging(path);
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  if (!error) fs::create_directory(staging.path(), error);
  if (error) return user_error(fmt::format("cannot make the folder '{}': {}", path.string(), error.message()));
  for (const auto& [name, text] : files_) {
    std::ofstream file(staging.path() / name, std::ios::binary);
    file << text;
    file.close();
    if (!file) return user_error(fmt::format("cannot write '{}': {}", (path / name).string(), std::strerror(errno)));
    out_.files.push_back(name);
  }
  fs::rename(staging.path(), path, error);  // onto nothing, or an empty folder
  if (error) return user_error(fmt::format("cannot make the folder '{}': {}", path.string(), error.message()));
  return std::move(out_);
}

}  // namespace

Checked<Captured> capture(const std::string& path, const CaptureOptions& options) {
  fs::path target(path);
  if (!target.has_filename()) target = target.parent_path();  // "machine/"
  std::error_code error;
  if (fs::exists(fs::symlink_status(target, error))) {
    if (!fs::is_directory(target, error)) return user_error(fmt::format("'{}' is there and is no folder; name another", path));
    if (!fs::is_empty(target, error) || error) {
      return user_error(fmt::format("the folder '{}' is not empty; name another, or remove it first", path));
    }
  }
  if (!fs::is_directory(options.root, error)) {
    return user_error(fmt::format("--root {}: there is no such folder", options.root));
  }
  Capture work(options);
  work.collect();
  return work.write(target);
}

}  // namespace quire::like
