// Collects from a running Linux what a folder of a machine holds (folder.h). Only reads; what cannot be read is left out and
// said. The folder appears whole or not at all.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quire/base/user_error.h"

namespace quire::like {

struct CaptureOptions {
  std::string root = "/";  // where proc, sys and var stand
  // The kernel's own ring of messages as text, or why it cannot be had. Empty: asked of the running kernel.
  std::function<Checked<std::string>()> kernel_log;
};

struct Captured {
  std::vector<std::string> files;    // written, in order
  std::vector<std::string> skipped;  // "slabinfo.txt: Permission denied"
  std::vector<std::string> notes;
};

// Fails when `path` is there and not an empty folder, when it cannot be made, and when nothing at all can be read.
[[nodiscard]] Checked<Captured> capture(const std::string& path, const CaptureOptions& options = {});

}  // namespace quire::like
