// quire explain: one thing done on a machine in a state of one's choice, and its way step by step.
#pragma once

#include <optional>
#include <string>

#include "quire/cli/machine_options.h"

namespace quire::cli {

struct ExplainOptions {
  MachineOptions machine;
  std::string what;
  std::string fill = "0";
  // Of an allocation.
  std::optional<std::string> order;
  std::optional<std::string> gfp;
  std::optional<std::string> node;
  bool fragment = false;
  // Of a fault.
  std::optional<std::string> kind;
  bool json = false;
};

// Each boots the machine, does its experiment, tells it, and gives the command's status.
int explain_alloc(const ExplainOptions& options);
int explain_fault(const ExplainOptions& options);

// The kinds of faults that can be explained, as "anon-read, anon-write, ...".
std::string fault_kinds();

}  // namespace quire::cli
