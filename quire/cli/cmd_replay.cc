// quire replay: runs recorded programs on one machine, side by side.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "quire/cli/command.h"
#include "quire/cli/machine_options.h"
#include "quire/cli/numbers.h"
#include "quire/cli/progress.h"
#include "quire/cli/replaying.h"
#include "quire/cli/views.h"
#include "quire/kernel/machine.h"

namespace quire::cli {

namespace {

struct ReplayOptions {
  MachineOptions machine;
  std::vector<std::string> traces;
  std::vector<std::string> show;
  std::optional<std::string> at;  // of virtual time
  bool json = false;
};

// The machine as it stands at one moment of the run, or at its end, in place of the report.
int look(const kernel::MachineConfig& config, Readers readers, const std::vector<View>& views, std::optional<sim::Nanos> at,
         const ReplayOptions& options) {
  auto machine = kernel::Machine::boot(config);
  if (!machine) return complain(machine.error().sentence);
  engine::Replay replay(**machine);
  for (auto& reader : readers) {
    if (auto ok = replay.add(std::move(reader)); !ok) return complain(ok.error().sentence);
  }
  if (at) {
    replay.run_until(*at);
  } else if (auto ok = replay.run(); !ok) {
    return complain(ok.error().sentence);
  }
  const int shown = show_views(**machine, views, options.json);
  return std::max(shown, tell_damage(replay));
}

int replay(const ReplayOptions& options) {
  auto config = options.machine.config();
  if (!config) return complain(config.error().sentence, kUsage);
  if (auto ok = kernel::check_runs_programs(*config); !ok) return complain(ok.error().sentence, kUsage);
  if (options.at && options.show.empty())
    return complain("--at says when to look at the machine: say at what with --show", kUsage);
  std::optional<sim::Nanos> at;
  if (options.at) {
    const auto time = duration("--at", *options.at);
    if (!time) return complain(time.error().sentence, kUsage);
    at = *time;
  }
  const auto views = find_views(options.show, Shows::kProcessesToo);
  if (!views) return complain(views.error().sentence, kUsage);
  auto readers = open_traces(options.traces);
  if (!readers) return complain(readers.error().sentence);
  if (!views->empty()) return look(*config, std::move(*readers), *views, at, options);
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
  add_show(*command, options->show, "Instead of the report, the machine when the run is over (or --at a moment of it)",
           Shows::kProcessesToo);
  command->add_option("--at", options->at, "Look at the machine when so much of its time has passed, as in 1.5s or 20ms")
      ->type_name("TIME");
  command->add_flag("--json", options->json, "One JSON object instead of text");
  command->add_option("traces", options->traces, "Traces made by quire record")->required()->type_name("TRACE...");
  command->callback([options, &line] { line.chosen = [options] { return replay(*options); }; });
}

}  // namespace quire::cli
