#include <fmt/format.h>

#include <memory>

#include "quire/cli/command.h"
#include "quire/cli/explain.h"

namespace quire::cli {

namespace {

// An option of the other subject would be ignored in silence.
const char* foreign_option(const ExplainOptions& options) {
  if (options.what == "alloc") return options.kind ? "--kind" : nullptr;
  if (options.order) return "--order";
  if (options.gfp) return "--gfp";
  if (options.node) return "--on-node";
  return options.fragment ? "--fragment" : nullptr;
}

int explain(const ExplainOptions& options) {
  const bool alloc = options.what == "alloc";
  if (alloc || options.what == "fault") {
    if (const char* foreign = foreign_option(options)) {
      return complain(
          fmt::format("explain {}: {} belongs to 'explain {}'; leave it out", options.what, foreign, alloc ? "fault" : "alloc"),
          kUsage);
    }
    return alloc ? explain_alloc(options) : explain_fault(options);
  }
  return complain(
      fmt::format("explain {}: what can be explained is 'alloc' and 'fault', as in quire explain alloc --order 4 or "
                  "quire explain fault --kind cow",
                  options.what),
      kUsage);
}

}  // namespace

void add_explain(CommandLine& line) {
  auto options = std::make_shared<ExplainOptions>();
  CLI::App* command = line.app.add_subcommand(
      "explain", "Do one thing on a machine, an allocation or a page fault, and tell its way step by step");
  command->add_option("what", options->what, "What to explain: alloc or fault")->type_name("alloc|fault")->required();
  command->add_option("--order", options->order, "log2 of the number of pages, 0 to 10 (default 0)")->type_name("N");
  command->add_option("--gfp", options->gfp, "Flags as Linux writes them, as in 'GFP_KERNEL|__GFP_NOFAIL' (default GFP_KERNEL)")
      ->type_name("FLAGS");
  command->add_option("--fill", options->fill, "Have this much of memory in use first (default 0: as it booted)")
      ->type_name("PERCENT");
  command->add_flag("--fragment", options->fragment, "Leave no free block of that order: what is free lies in smaller pieces");
  command->add_option("--on-node", options->node, "The node to ask first (default: the CPU's)")->type_name("N");
  command->add_option("--kind", options->kind, "The fault to explain (default anon-write): " + fault_kinds())
      ->type_name("KIND");
  command->add_flag("--json", options->json, "One JSON object instead of text");
  options->machine.add_to(*command, RamOption::kOne);
  command->callback([options, &line] { line.chosen = [options] { return explain(*options); }; });
}

}  // namespace quire::cli
