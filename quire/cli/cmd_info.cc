// quire info: what is inside a trace.
#include <memory>
#include <nlohmann/json.hpp>

#include "quire/cli/command.h"
#include "quire/trace/info.h"

namespace quire::cli {

namespace {

struct InfoOptions {
  std::string trace;
  bool json = false;
};

int info(const InfoOptions& options) {
  auto summary = trace::summarize(options.trace);
  if (!summary) return complain(summary.error());
  if (options.json) {
    print_json(trace::info_json(*summary));
  } else {
    print(trace::info_text(*summary));
  }
  for (const std::string& warning : summary->warnings) complain(warning);
  return summary->complete ? 0 : kFailed;
}

}  // namespace

void add_info(CommandLine& line) {
  auto options = std::make_shared<InfoOptions>();
  CLI::App* command = line.app.add_subcommand("info", "Tell what is inside a trace");
  command->add_flag("--json", options->json, "One JSON object instead of text");
  command->add_option("trace", options->trace, "A trace made by quire record")->required()->type_name("TRACE");
  command->callback([options, &line] { line.chosen = [options] { return info(*options); }; });
}

}  // namespace quire::cli
