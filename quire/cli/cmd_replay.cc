// quire replay: runs recorded programs on one machine, side by side.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "quire/cli/command.h"
#include "quire/cli/machine_options.h"
#include "quire/cli/progress.h"
#include "quire/cli/replaying.h"

namespace quire::cli {

namespace {

struct ReplayOptions {
  MachineOptions machine;
  std::vector<std::string> traces;
  bool json = false;
};

int replay(const ReplayOptions& options) {
  auto config = options.machine.config();
  if (!config) return complain(config.error().sentence, kUsage);
  if (auto ok = kernel::check_runs_programs(*config); !ok) return complain(ok.error().sentence, kUsage);
  auto readers = open_traces(options.traces);
  if (!readers) return complain(readers.error().sentence);
  Checked<engine::RunReport> report = [&] {
    Progress bar("replaying", total_bytes(options.traces));
    return replay_on(*config, std::move(*readers), [&bar](std::uint64_t bytes) { bar.update(bytes); });
  }();
  if (!report) return complain(report.error().sentence);
  if (options.json) {
    print_json(engine::report_json(*report));
  } else {
    print(engine::report_text(*report));
  }
  return std::max(tell_damage(*report), tell_slab_reports(*report));
}

}  // namespace

void add_replay(CommandLine& line) {
  auto options = std::make_shared<ReplayOptions>();
  CLI::App* command = line.app.add_subcommand("replay", "Run recorded programs on a machine; several compete on the same one");
  options->machine.add_to(*command, RamOption::kOne);
  command->add_flag("--json", options->json, "One JSON object instead of text");
  command->add_option("traces", options->traces, "Traces made by quire record")->required()->type_name("TRACE...");
  command->callback([options, &line] { line.chosen = [options] { return replay(*options); }; });
}

}  // namespace quire::cli
