// What --show knows: a machine as the kernel's own files show it, and its processes as /proc/PID shows them.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "quire/base/user_error.h"
#include "quire/kernel/machine.h"

namespace quire::cli {

struct View {
  std::string name;
  int pid = 0;  // 0: of the machine
  // The error names the process that is not there, and where to look for it.
  std::function<Checked<std::string>(kernel::Machine&)> text;
};

// Whether a command's machine runs programs that can be looked at.
enum class Shows : std::uint8_t { kMachine, kProcessesToo };

// Adds --show, whose views are printed `instead`, as in "Instead of the report".
void add_show(CLI::App& app, std::vector<std::string>& names, const std::string& instead, Shows shows);
// By name: "meminfo", "maps:3"; the error names what is not known and its likely meaning.
Checked<std::vector<View>> find_views(const std::vector<std::string>& names, Shows shows);

// Prints them as they are at one moment, each under its name when there are several, or as one JSON object; the status of the
// command. Whoever changes the areas of a process that is shown comes to the end of it first, for which the machine runs on.
int show_views(kernel::Machine& machine, const std::vector<View>& views, bool as_json);

}  // namespace quire::cli
