// quire boot: boots a machine and shows what it found.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "quire/cli/command.h"
#include "quire/cli/machine_options.h"
#include "quire/cli/views.h"
#include "quire/kernel/machine.h"
#include "quire/like/check.h"
#include "quire/observe/zone_table.h"

namespace quire::cli {

namespace {

struct BootOptions {
  MachineOptions machine;
  std::vector<std::string> show;
  bool check = false;
  bool json = false;
};

// The figures of the booted machine beside those of the folder that describes it.
int check(kernel::Machine& machine, const BootOptions& options) {
  const auto folder = like::read_folder(options.machine.like());
  if (!folder) return complain(folder.error().sentence);
  const like::Comparison comparison = like::compare(*folder, machine);
  if (options.json) {
    nlohmann::json out = like::comparison_json(comparison, options.machine.notes());
    const phys::RecordedBoot& recorded = *machine.config().recorded;
    out["reservations"] = !recorded.reserved.empty() ? "log" : !recorded.zone_managed.empty() ? "sums" : "unknown";
    print_json(out);
  } else {
    print(like::comparison_text(comparison, options.machine.notes()));
  }
  return comparison.differences.empty() ? 0 : kFailed;
}

int boot(const BootOptions& options) {
  if (options.check && options.machine.like().empty())
    return complain("--check compares with a folder: give --like DIR", kUsage);
  if (options.check && !options.show.empty()) return complain("--check prints its own table: leave --show out", kUsage);
  auto config = options.machine.config();
  if (!config) return complain(config.error().sentence, kUsage);
  const auto chosen = find_views(options.show, Shows::kMachine);
  if (!chosen) return complain(chosen.error().sentence, kUsage);
  auto machine = kernel::Machine::boot(*config);
  if (!machine) return complain(machine.error().sentence);
  if (options.check) return check(**machine, options);
  for (const std::string& note : options.machine.notes()) fmt::print(stderr, "quire: note: {}\n", note);
  if (!chosen->empty()) return show_views(**machine, *chosen, options.json);
  phys::PhysMem& phys = (*machine)->phys();
  if (options.json) {
    const nlohmann::json out = {
        {"log", phys.boot_log()}, {"min_free_kbytes", phys.min_free_kbytes()}, {"zones", observe::zones_json(phys)}};
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
  add_show(*command, options->show, "Instead of log and zones, as the kernel prints it", Shows::kMachine);
  command->add_flag("--check", options->check,
                    "With --like: the figures that differ from the folder's, and how many are equal; fails when one differs");
  command->add_flag("--json", options->json, "One JSON object instead of text");
  command->callback([options, &line] { line.chosen = [options] { return boot(*options); }; });
}

}  // namespace quire::cli
