// quire boot: boots a machine and shows what it found.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "quire/base/nearest.h"
#include "quire/cli/command.h"
#include "quire/cli/machine_options.h"
#include "quire/kernel/machine.h"
#include "quire/like/check.h"
#include "quire/observe/proc_text.h"
#include "quire/observe/zone_table.h"

namespace quire::cli {

namespace {

struct BootOptions {
  MachineOptions machine;
  std::vector<std::string> show;
  bool check = false;
  bool json = false;
};

// What --show knows.
struct View {
  std::string_view name;
  std::string (*text)(kernel::Machine&);
};
constexpr View kViews[] = {
    {"zoneinfo", observe::zoneinfo},
    {"buddyinfo", [](kernel::Machine& m) { return observe::buddyinfo(m.phys()); }},
    {"pagetypeinfo", [](kernel::Machine& m) { return observe::pagetypeinfo(m.phys()); }},
    {"extfrag_index", [](kernel::Machine& m) { return observe::extfrag_index(m.phys()); }},
    {"unusable_index", [](kernel::Machine& m) { return observe::unusable_index(m.phys()); }},
    {"meminfo", observe::meminfo},
    {"slabinfo", observe::slabinfo},
    {"vmallocinfo", observe::vmallocinfo},
    {"iomem", [](kernel::Machine& m) { return observe::iomem(m.phys()); }},
    {"nodes", observe::nodes},
    {"memblock", [](kernel::Machine& m) { return observe::memblock(m.phys()); }},
};

Checked<std::vector<View>> views(const std::vector<std::string>& names) {
  std::vector<View> chosen;
  for (const std::string& name : names) {
    const auto view = std::ranges::find(kViews, name, &View::name);
    if (view == std::end(kViews)) {
      std::vector<std::string_view> known;
      for (const View& v : kViews) known.push_back(v.name);
      const std::string_view guess = nearest(name, known);
      return user_error(fmt::format(
          "--show {}: {}", name,
          guess.empty() ? fmt::format("known are {}", fmt::join(known, ", ")) : fmt::format("did you mean '{}'?", guess)));
    }
    chosen.push_back(*view);
  }
  return chosen;
}

int show(kernel::Machine& machine, const std::vector<View>& chosen, bool as_json) {
  if (as_json) {
    nlohmann::json out = nlohmann::json::object();
    for (const View& view : chosen) out[std::string(view.name)] = view.text(machine);
    print_json(out);
    return 0;
  }
  for (const View& view : chosen) {
    if (chosen.size() > 1) print(fmt::format("==> {} <==\n", view.name));
    print(view.text(machine));
  }
  return 0;
}

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
  const auto chosen = views(options.show);
  if (!chosen) return complain(chosen.error().sentence, kUsage);
  auto machine = kernel::Machine::boot(*config);
  if (!machine) return complain(machine.error().sentence);
  if (options.check) return check(**machine, options);
  for (const std::string& note : options.machine.notes()) fmt::print(stderr, "quire: note: {}\n", note);
  if (!chosen->empty()) return show(**machine, *chosen, options.json);
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
  command
      ->add_option("--show", options->show,
                   "Instead of log and zones, as the kernel prints it: zoneinfo, buddyinfo, pagetypeinfo, extfrag_index, "
                   "unusable_index, meminfo, slabinfo, vmallocinfo, iomem, nodes, memblock")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("VIEW,VIEW,...");
  command->add_flag("--check", options->check,
                    "With --like: the figures that differ from the folder's, and how many are equal; fails when one differs");
  command->add_flag("--json", options->json, "One JSON object instead of text");
  command->callback([options, &line] { line.chosen = [options] { return boot(*options); }; });
}

}  // namespace quire::cli
