// quire boot: boots a machine and shows what it found.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "quire/cli/command.h"
#include "quire/cli/machine_options.h"
#include "quire/kernel/machine.h"
#include "quire/observe/zone_table.h"

namespace quire::cli {

namespace {

struct BootOptions {
  MachineOptions machine;
  bool json = false;
};

int boot(const BootOptions& options) {
  auto config = options.machine.config();
  if (!config) return complain(config.error().sentence, kUsage);
  auto machine = kernel::Machine::boot(*config);
  if (!machine) return complain(machine.error().sentence);
  phys::PhysMem& phys = (*machine)->phys();
  if (options.json) {
    const nlohmann::json out = {{"log", phys.boot_log()},
                                {"min_free_kbytes", phys.min_free_kbytes()},
                                {"zones", observe::zones_json(phys)}};
    print_json(out);
    return 0;
  }
  for (const std::string& line : phys.boot_log()) print(line + "\n");
  print("\n" + observe::zone_table(phys));
  print(fmt::format("min_free_kbytes {}\n", phys.min_free_kbytes()));
  return 0;
}

}  // namespace

void add_boot(CommandLine& line) {
  auto options = std::make_shared<BootOptions>();
  CLI::App* command = line.app.add_subcommand("boot", "Boot a machine; print its boot log and zones");
  options->machine.add_to(*command, RamOption::kOne);
  command->add_flag("--json", options->json, "One JSON object instead of text");
  command->callback([options, &line] { line.chosen = [options] { return boot(*options); }; });
}

}  // namespace quire::cli
