#include "quire/like/folder.h"

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

namespace quire::like {

namespace {

constexpr std::array<std::string_view, 13> kFiles = {
    "dmesg.txt",   "cmdline.txt", "version.txt",  "zoneinfo.txt",  "buddyinfo.txt", "pagetypeinfo.txt", "iomem.txt",
    "meminfo.txt", "nodes.txt",   "slabinfo.txt", "sysctl_vm.txt", "vmstat.txt",    "memmap.txt"};
constexpr std::uintmax_t kMostBytes = 256ull << 20;  // of one file; no kernel says that much

}  // namespace

Checked<Folder> read_folder(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    return user_error(fmt::format("there is no folder '{}'; `quire capture {}` on the machine to copy makes one", path, path));
  }
  if (!std::filesystem::is_directory(status)) {
    return user_error(fmt::format("'{}' is no folder; name one that `quire capture` made", path));
  }
  Folder folder{.path = path, .files = {}};
  for (const std::string_view name : kFiles) {
    const std::filesystem::path file = std::filesystem::path(path) / name;
    if (!std::filesystem::is_regular_file(file, error)) continue;
    if (std::filesystem::file_size(file, error) > kMostBytes) {
      return user_error(fmt::format("{} is larger than 256M; that is no file of a machine", file.string()));
    }
    std::ifstream in(file, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    if (!in || in.bad()) return user_error(fmt::format("cannot read {}; may you read it?", file.string()));
    folder.files.emplace(name, std::move(text).str());
  }
  if (folder.files.empty()) {
    return user_error(
        fmt::format("'{}' holds no dmesg.txt, zoneinfo.txt or other file of a machine; name a folder that "
                    "`quire capture` made",
                    path));
  }
  return folder;
}

}  // namespace quire::like
