// Booting a machine and replaying traces on it: the middle of `replay`, `run` and `compare`.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "quire/base/user_error.h"
#include "quire/engine/run_report.h"
#include "quire/kernel/machine_config.h"
#include "quire/trace/reader.h"

namespace quire::cli {

using Readers = std::vector<std::unique_ptr<trace::TraceReader>>;

// Opens all; the error names the first that cannot be.
Checked<Readers> open_traces(const std::vector<std::string>& paths);
// Sum of the files' sizes, for progress; 0 when one is no regular file.
std::uint64_t total_bytes(const std::vector<std::string>& paths);

Checked<engine::RunReport> replay_on(const kernel::MachineConfig& config, Readers readers,
                                     std::function<void(std::uint64_t)> progress = {});

// Says on standard error what was wrong with the traces; the status that the command has to return for it. Of a run that was
// left in the middle, what had been met by then.
int tell_damage(const engine::RunReport& report);
int tell_damage(const engine::Replay& replay);
// Says on standard error what the debugging of kernel objects found; kFailed when it found anything.
int tell_slab_reports(const engine::RunReport& report);

}  // namespace quire::cli
