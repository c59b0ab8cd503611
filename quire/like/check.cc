#include "quire/like/check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "quire/base/cpu_list.h"
#include "quire/kernel/sysctl.h"
#include "quire/like/boot_log.h"
#include "quire/like/lines.h"
#include "quire/like/proc_files.h"
#include "quire/observe/proc_text.h"

namespace quire::like {

namespace {

constexpr std::string_view kNone = "-";

class Comparer {
 public:
  Comparer(const Folder& folder, kernel::Machine& machine) : folder_(folder), machine_(machine) {}

  Comparison run() {
    if (present("zoneinfo.txt")) zones();
    if (present("nodes.txt")) nodes();
    if (present("meminfo.txt")) {
      if (const auto was = mem_total_kib(folder_.text("meminfo.txt"))) {
        figure("MemTotal kB", *was, mem_total_kib(observe::meminfo(machine_)).value_or(0));
      }
    }
    if (present("sysctl_vm.txt")) tunables();
    if (present("iomem.txt")) iomem();
    if (present("dmesg.txt")) boot_log();
    return std::move(out_);
  }

 private:
  bool present(std::string_view name) {
    if (folder_.has(name)) return true;
    out_.not_compared.push_back(fmt::format("there is no {}", name));
    return false;
  }
  void text(std::string what, std::string_view was, std::string_view is) {
    if (was == is) {
      ++out_.equal;
    } else {
      out_.differences.push_back({std::move(what), std::string(was), std::string(is)});
    }
  }
  template <class Was, class Is>
  void figure(std::string what, const Was& was, const Is& is) {
    text(std::move(what), fmt::format("{}", was), fmt::format("{}", is));
  }

  void zones() {
    const auto was = parse_zoneinfo(folder_.text("zoneinfo.txt"));
    const auto is = parse_zoneinfo(observe::zoneinfo(machine_));
    const auto same = [](const ZoneFigures& a) {
      return [&a](const ZoneFigures& b) { return a.nid == b.nid && a.name == b.name; };
    };
    for (const ZoneFigures& zone : was) {
      const auto ours = std::ranges::find_if(is, same(zone));
      if (ours == is.end()) {
        text(name(zone), "there", kNone);
      } else {
        zone_figures(zone, *ours);
      }
    }
    for (const ZoneFigures& zone : is) {
      if (std::ranges::none_of(was, same(zone))) text(name(zone), kNone, "there");
    }
  }
  static std::string name(const ZoneFigures& zone) { return fmt::format("node {} zone {}", zone.nid, zone.name); }
  void zone_figures(const ZoneFigures& was, const ZoneFigures& is) {
    const auto compare = [&](std::string_view what, auto&& a, auto&& b) {
      figure(fmt::format("{} {}", name(was), what), a, b);
    };
    compare("spanned", was.spanned, is.spanned);
    compare("present", was.present, is.present);
    compare("managed", was.managed, is.managed);
    compare("cma", was.cma, is.cma);
    compare("min", was.min, is.min);
    compare("low", was.low, is.low);
    compare("high", was.high, is.high);
    compare("protection", fmt::format("({})", fmt::join(was.protection, ", ")),
            fmt::format("({})", fmt::join(is.protection, ", ")));
    if (!was.populated() && !is.populated()) return;
    compare("start_pfn", was.start_pfn, is.start_pfn);
    compare("CPUs with a list", was.pagesets.size(), is.pagesets.size());
    for (std::size_t i = 0; i < std::min(was.pagesets.size(), is.pagesets.size()); ++i) {
      const auto per_cpu = [&](std::string_view what, std::uint64_t a, std::uint64_t b) {
        compare(fmt::format("cpu {} {}", was.pagesets[i].cpu, what), a, b);
      };
      per_cpu("high", was.pagesets[i].high, is.pagesets[i].high);
      per_cpu("batch", was.pagesets[i].batch, is.pagesets[i].batch);
      per_cpu("stat threshold", was.pagesets[i].threshold, is.pagesets[i].threshold);
    }
  }

  void nodes() {
    const auto was = parse_nodes(folder_.text("nodes.txt"));
    const auto is = parse_nodes(observe::nodes(machine_));
    const auto numbers = [](const std::vector<NodeFigures>& list) {
      std::vector<unsigned> out;
      for (const NodeFigures& f : list) out.push_back(f.nid);
      return format_number_list(out);
    };
    text("online nodes", numbers(was), numbers(is));
    if (was.size() != is.size()) return;
    std::set<unsigned> cpus;
    for (const NodeFigures& f : was) {
      if (f.cpus) cpus.insert(f.cpus->begin(), f.cpus->end());
    }
    for (std::size_t i = 0; i < was.size(); ++i) {
      const std::string node = fmt::format("node {}", was[i].nid);
      figure(node + " distance", fmt::format("{}", fmt::join(was[i].distances, " ")),
             fmt::format("{}", fmt::join(is[i].distances, " ")));
      if (was[i].cpus && is[i].cpus) {
        std::vector<unsigned> renumbered;  // the machine's CPUs have no gaps
        for (const unsigned cpu : *was[i].cpus) {
          renumbered.push_back(static_cast<unsigned>(std::distance(cpus.begin(), cpus.find(cpu))));
        }
        text(node + " cpulist", format_number_list(renumbered), format_number_list(*is[i].cpus));
      }
      if (was[i].total_kib && is[i].total_kib) figure(node + " MemTotal kB", *was[i].total_kib, *is[i].total_kib);
    }
  }

  void tunables() {
    const auto was = parse_sysctl(folder_.text("sysctl_vm.txt"));
    const auto compare = [&](const std::string& name, const std::string& is) {
      const auto it = was.find(name);
      if (it != was.end()) text("vm." + name, it->second, is);
    };
    const phys::PhysMem& phys = machine_.phys();
    for (const kernel::SysctlRow& row : kernel::sysctl_rows()) {
      const auto set = machine_.config().sysctl.find(std::string(row.name));
      const std::int64_t value = set == machine_.config().sysctl.end() ? row.initial : set->second;
      const std::string name(row.name.substr(3));
      if (name == "min_free_kbytes") {
        compare(name, std::to_string(phys.min_free_kbytes()));
      } else if (name == "watermark_scale_factor") {
        compare(name, std::to_string(phys.config().watermark_scale_factor));
      } else {
        compare(name, std::to_string(value));
      }
    }
    compare("lowmem_reserve_ratio", fmt::format("{}", fmt::join(phys.config().lowmem_reserve_ratio, " ")));
    compare("percpu_pagelist_high_fraction", std::to_string(phys.config().percpu_pagelist_high_fraction));
  }

  void iomem() {
    const Iomem was = parse_iomem(folder_.text("iomem.txt"));
    if (was.hidden) {
      out_.not_compared.emplace_back("iomem.txt hides its addresses");
      return;
    }
    const auto lines = [](const Iomem& iomem) {
      std::set<IomemLine> out;
      for (const IomemLine& line : iomem.lines) {
        if (from_memory_map(line)) out.insert(line);
      }
      return out;
    };
    const auto ours = lines(parse_iomem(observe::iomem(machine_.phys())));
    const auto theirs = lines(was);
    const auto range = [](const IomemLine& line) {
      return fmt::format("iomem {:08x}-{:08x}", line.range.begin.value(), line.range.end.value() - 1);
    };
    for (const IomemLine& line : theirs) text(range(line), line.name, ours.contains(line) ? line.name : kNone);
    for (const IomemLine& line : ours) {
      if (!theirs.contains(line)) text(range(line), kNone, line.name);
    }
  }

  void boot_log() {
    const BootLog was = parse_boot_log(folder_.text("dmesg.txt"));
    std::string all;
    for (const std::string& line : machine_.phys().boot_log()) all += line + '\n';
    const BootLog is = parse_boot_log(all);
    std::multiset<std::string> ours(is.layout.begin(), is.layout.end());
    for (const std::string& line : was.layout) {
      const auto at = ours.find(line);
      text("log: " + std::string(trim(line)), line, at == ours.end() ? std::string(kNone) : *at);
      if (at != ours.end()) ours.erase(at);
    }
    if (was.layout.empty()) {
      out_.not_compared.emplace_back("dmesg.txt has no lines on zones");
      return;
    }
    for (const std::string& line : ours) text("log: " + std::string(trim(line)), kNone, line);
  }

  const Folder& folder_;
  kernel::Machine& machine_;
  Comparison out_;
};

}  // namespace

Comparison compare(const Folder& folder, kernel::Machine& machine) { return Comparer(folder, machine).run(); }

std::string comparison_text(const Comparison& comparison, const std::vector<std::string>& notes) {
  std::string out;
  for (const std::string& note : notes) out += fmt::format("note: {}\n", note);
  for (const std::string& what : comparison.not_compared) out += fmt::format("not compared: {}\n", what);
  if (!comparison.differences.empty()) {
    std::size_t figure = 6;
    std::size_t recorded = 8;
    for (const Difference& d : comparison.differences) {
      figure = std::max(figure, d.figure.size());
      recorded = std::max(recorded, d.recorded.size());
    }
    out += fmt::format("{:<{}}  {:<{}}  here\n", "figure", figure, "recorded", recorded);
    for (const Difference& d : comparison.differences) {
      out += fmt::format("{:<{}}  {:<{}}  {}\n", d.figure, figure, d.recorded, recorded, d.here);
    }
  }
  return out + fmt::format("{} figures are equal, {} differ\n", comparison.equal, comparison.differences.size());
}

nlohmann::json comparison_json(const Comparison& comparison, const std::vector<std::string>& notes) {
  nlohmann::json differences = nlohmann::json::array();
  for (const Difference& d : comparison.differences) {
    differences.push_back({{"figure", d.figure}, {"recorded", d.recorded}, {"here", d.here}});
  }
  return {{"equal", comparison.equal},
          {"differ", std::move(differences)},
          {"notes", notes},
          {"not_compared", comparison.not_compared}};
}

}  // namespace quire::like
