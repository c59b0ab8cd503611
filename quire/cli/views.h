// What --show knows: a machine as the kernel's own files show it, and its processes as /proc/PID shows them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quire/base/user_error.h"
#include "quire/kernel/machine.h"

namespace quire::cli {

struct View {
  std::string name;
  // The error names the process that is not there, and those that are.
  std::function<Checked<std::string>(kernel::Machine&)> text;
};

// By name: "meminfo", "maps:3"; the error names what is not known and its likely meaning.
Checked<std::vector<View>> find_views(const std::vector<std::string>& names);
// All the names, for --help.
std::string view_names();

// Prints them, each under its name when there are several, or as one JSON object; the status of the command.
int show_views(kernel::Machine& machine, const std::vector<View>& views, bool as_json);

}  // namespace quire::cli
