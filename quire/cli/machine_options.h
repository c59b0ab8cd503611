// The options that describe a machine, the same for every command that boots one.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "quire/base/user_error.h"
#include "quire/kernel/machine_config.h"

namespace quire::cli {

// Whether `--ram` takes one size or a list of them (one machine a size).
enum class RamOption { kOne, kList };

class MachineOptions {
 public:
  // Adds the options to `app` under the heading "Machine". The object must outlive the parse.
  void add_to(CLI::App& app, RamOption ram);

  // The machine that was described: a --machine file first, then what the other options say, then checked.
  [[nodiscard]] Checked<kernel::MachineConfig> config() const;
  // With RamOption::kList: one machine for each size, in the order given.
  [[nodiscard]] Checked<std::vector<kernel::MachineConfig>> configs() const;
  // The folder of --like; empty: not given. Its machine's notes are those of the last config().
  [[nodiscard]] const std::string& like() const { return like_; }
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

 private:
  [[nodiscard]] Checked<void> take_like(kernel::MachineConfig& config) const;
  [[nodiscard]] Checked<void> take_nodes(kernel::MachineConfig& config) const;
  [[nodiscard]] Checked<kernel::MachineConfig> without_ram() const;
  [[nodiscard]] Checked<void> take_numbers(kernel::MachineConfig& config) const;

  std::string file_;
  std::string like_;
  mutable std::vector<std::string> notes_;  // filled while the description is read
  std::optional<std::string> one_ram_;      // RamOption::kOne
  std::vector<std::string> ram_;            // RamOption::kList
  std::string e820_;
  std::optional<std::string> cmdline_;
  std::optional<std::string> cpus_;
  std::optional<std::string> nodes_;
  std::vector<std::string> node_ram_;
  std::vector<std::string> node_;
  std::vector<std::string> plug_;
  std::vector<std::string> swap_;
  std::optional<std::string> profile_;
  std::optional<std::string> arch_;
  std::optional<std::string> tlb_;
  std::optional<std::string> slab_;
  std::optional<std::string> slab_debug_;
  std::optional<std::string> alloc_policy_;
  std::optional<std::string> seed_;
  std::optional<std::string> kernel_reserved_;
  std::optional<std::string> preempt_;
  std::vector<std::string> sysctl_;
  std::vector<std::string> cost_;
};

}  // namespace quire::cli
