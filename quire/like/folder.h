// A folder of what a Linux machine said of itself: files of fixed names, each the kernel's own text.
//
//   dmesg.txt cmdline.txt version.txt zoneinfo.txt buddyinfo.txt pagetypeinfo.txt iomem.txt meminfo.txt nodes.txt
//   slabinfo.txt sysctl_vm.txt vmstat.txt           and memmap.txt: the firmware's map, when the log has lost it
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "quire/base/user_error.h"

namespace quire::like {

struct Folder {
  std::string path;
  std::map<std::string, std::string, std::less<>> files;  // "dmesg.txt" → its text

  // Empty when the folder has no such file.
  [[nodiscard]] std::string_view text(std::string_view name) const {
    const auto it = files.find(name);
    return it == files.end() ? std::string_view() : std::string_view(it->second);
  }
  [[nodiscard]] bool has(std::string_view name) const { return !text(name).empty(); }
};

// A file that is missing is no error here; a folder with none of them is.
[[nodiscard]] Checked<Folder> read_folder(const std::string& path);

}  // namespace quire::like
