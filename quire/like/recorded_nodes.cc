// Nodes, their memory, CPUs and distances.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "quire/like/parts.h"

namespace quire::like {

namespace {

using phys::NodeConfig;

std::vector<NodeRange> node_memory(const Evidence& evidence, std::vector<std::string>& notes) {
  if (!evidence.log.node_ranges.empty()) return evidence.log.node_ranges;
  std::vector<NodeRange> spans;
  for (const ZoneFigures& zone : evidence.zones) {
    if (zone.populated() && zone.name != "Device") {
      spans.push_back({zone.nid, {pfn_to_phys(zone.span().begin), pfn_to_phys(zone.span().end)}});
    }
  }
  const bool one_node = std::ranges::all_of(spans, [](const NodeRange& r) { return r.nid == 0; });
  if (!evidence.log.srat.empty() && !(one_node && !spans.empty())) {
    notes.emplace_back("which node has which memory is taken from ACPI's table: dmesg.txt has no 'Early memory node ranges'");
    return evidence.log.srat;
  }
  if (!one_node) {
    notes.emplace_back("which node has which memory is taken from the spans in zoneinfo.txt: dmesg.txt does not say");
  }
  return spans;
}

std::size_t number_of_nodes(const Evidence& evidence, const std::vector<NodeRange>& memory) {
  std::size_t n = 1;
  for (const NodeRange& r : memory) n = std::max<std::size_t>(n, r.nid + 1);
  for (const ZoneFigures& z : evidence.zones) n = std::max<std::size_t>(n, z.nid + 1);
  for (const NodeFigures& f : evidence.nodes) n = std::max<std::size_t>(n, f.nid + 1);
  return n;
}

// How many CPUs were online: each populated zone lists them.
unsigned online_cpus(const Evidence& evidence) {
  for (const ZoneFigures& zone : evidence.zones) {
    if (!zone.pagesets.empty()) return static_cast<unsigned>(zone.pagesets.size());
  }
  return evidence.log.cpus.value_or(0);
}

// CPUs out of nodes.txt, renumbered so that there is no gap.
void cpus_from_files(const Evidence& evidence, std::vector<NodeConfig>& nodes, RecordedMachine& machine) {
  std::set<unsigned> all;
  for (const NodeFigures& f : evidence.nodes) {
    if (f.cpus) all.insert(f.cpus->begin(), f.cpus->end());
  }
  if (all.empty()) return;
  for (const NodeFigures& f : evidence.nodes) {
    if (!f.cpus) continue;
    for (const unsigned cpu : *f.cpus) {
      nodes[f.nid].cpus.push_back(static_cast<unsigned>(std::distance(all.begin(), all.find(cpu))));
    }
  }
  machine.config.cpus = static_cast<unsigned>(all.size());
  if (*all.rbegin() + 1 != all.size()) {
    machine.notes.push_back(
        fmt::format("its {} CPUs are numbered up to {}; here they are 0 to {}", all.size(), *all.rbegin(), all.size() - 1));
  }
}

void cpus_from_log(const Evidence& evidence, std::vector<NodeConfig>& nodes, RecordedMachine& machine) {
  unsigned cpus = online_cpus(evidence);
  if (cpus == 0) {
    cpus = 1;
    machine.notes.emplace_back("how many CPUs it has is not known; it gets one");
  }
  machine.config.cpus = cpus;
  if (nodes.size() == 1) return;
  const std::vector<unsigned>& srat = evidence.log.srat_cpus;
  if (srat.size() >= cpus && std::ranges::all_of(srat, [&](unsigned nid) { return nid < nodes.size(); })) {
    for (unsigned cpu = 0; cpu < cpus; ++cpu) nodes[srat[cpu]].cpus.push_back(cpu);
    machine.notes.emplace_back("which node has which CPU is taken from ACPI's table: there is no nodes.txt");
  } else {
    machine.notes.emplace_back("which node has which CPU is not known; they are dealt out in turn");
  }
}

void distances(const Evidence& evidence, std::vector<NodeConfig>& nodes, std::vector<std::string>& notes) {
  if (nodes.size() == 1) return;
  const bool known = !evidence.nodes.empty() && std::ranges::all_of(evidence.nodes, [&](const NodeFigures& f) {
    return f.distances.size() == evidence.nodes.size();
  });
  if (!known) {
    notes.emplace_back("the distances between nodes are not known; they are taken as 20");
    return;
  }
  // Each file lists the online nodes only; to the others nothing is ever allocated.
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    nodes[i].distances.assign(nodes.size(), 20);
    nodes[i].distances[i] = 10;
  }
  for (const NodeFigures& f : evidence.nodes) {
    for (std::size_t i = 0; i < f.distances.size(); ++i) nodes[f.nid].distances[evidence.nodes[i].nid] = f.distances[i];
  }
}

}  // namespace

Checked<void> take_nodes(const Evidence& evidence, RecordedMachine& machine) {
  const std::vector<NodeRange> memory = node_memory(evidence, machine.notes);
  const std::size_t n = number_of_nodes(evidence, memory);
  if (n > kernel::kMaxNodes) {
    return user_error(fmt::format("{}: it has nodes up to number {}; at most {} can be booted", evidence.folder.path, n - 1,
                                  kernel::kMaxNodes));
  }
  std::vector<NodeConfig> nodes(n);
  for (const NodeRange& r : memory) {
    nodes[r.nid].memory.push_back(r.range);
    nodes[r.nid].bytes += r.range.size() & kPageMask;
  }
  cpus_from_files(evidence, nodes, machine);
  if (std::ranges::all_of(nodes, [](const NodeConfig& c) { return c.cpus.empty(); })) cpus_from_log(evidence, nodes, machine);
  if (machine.config.cpus > kernel::kMaxCpus) {
    return user_error(fmt::format("{}: it has {} CPUs; at most {} can be booted", evidence.folder.path, machine.config.cpus,
                                  kernel::kMaxCpus));
  }
  distances(evidence, nodes, machine.notes);
  if (memory.empty()) {
    machine.config.nodes = static_cast<unsigned>(n);
    if (n > 1) machine.notes.emplace_back("which node has which memory is not known; it is dealt out evenly");
    return {};
  }
  kernel::set_nodes(std::move(nodes), kernel::CpusGiven::kYes, machine.config);
  return kernel::check_node_table(machine.config);
}

}  // namespace quire::like
