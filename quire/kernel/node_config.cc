// NUMA nodes in a machine's description: --node and [[node]], and what must hold between them.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "quire/base/cpu_list.h"
#include "quire/base/size.h"
#include "quire/kernel/machine_config.h"

namespace quire::kernel {

namespace {

constexpr unsigned kLocalDistance = 10;
constexpr unsigned kMostDistance = 255;  // ACPI's SLIT has one byte; 255 means unreachable

Checked<std::vector<unsigned>> parse_distances(std::string_view text, std::string_view value) {
  std::vector<unsigned> out;
  while (!value.empty()) {
    const std::string_view word = value.substr(0, value.find(':'));
    unsigned distance = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), distance);
    if (error != std::errc{} || end != word.data() + word.size()) {
      return user_error(
          fmt::format("node '{}': a distance is a number, one to each node, as in distance=10:20, not '{}'", text, word));
    }
    out.push_back(distance);
    value.remove_prefix(std::min(value.size(), word.size() + 1));
  }
  return out;
}

Checked<void> check_cpus(const MachineConfig& config) {
  std::vector<int> home(config.cpus, -1);
  bool named = false;
  for (std::size_t n = 0; n < config.node.size(); ++n) {
    for (const unsigned cpu : config.node[n].cpus) {
      named = true;
      if (cpu >= config.cpus) {
        return user_error(fmt::format("node {} has CPU {}, but the machine's CPUs are 0 to {}; give --cpus {} or name another",
                                      n, cpu, config.cpus - 1, cpu + 1));
      }
      if (home[cpu] >= 0) {
        return user_error(fmt::format("CPU {} is on node {} and on node {}; leave it out of one", cpu, home[cpu], n));
      }
      home[cpu] = static_cast<int>(n);
    }
  }
  const auto homeless = std::ranges::find(home, -1);
  if (!named || homeless == home.end()) return {};
  return user_error(
      fmt::format("CPU {} is on no node; name it in one node's cpus, or leave cpus out of all nodes", homeless - home.begin()));
}

Checked<void> check_distances(const MachineConfig& config) {
  const std::size_t n = config.node.size();
  const auto given = std::ranges::find_if(config.node, [](const phys::NodeConfig& c) { return !c.distances.empty(); });
  if (given == config.node.end()) return {};
  for (std::size_t i = 0; i < n; ++i) {
    const std::vector<unsigned>& row = config.node[i].distances;
    if (row.size() != n) {
      return user_error(fmt::format("node {} names {} distances, but there are {} nodes; name one to each node, on every node",
                                    i, row.size(), n));
    }
    for (std::size_t j = 0; j < n; ++j) {
      if (i == j && row[j] != kLocalDistance) {
        return user_error(fmt::format("node {}'s distance to itself is {}; it must be {}", i, row[j], kLocalDistance));
      }
      if (i != j && (row[j] <= kLocalDistance || row[j] > kMostDistance)) {
        return user_error(fmt::format("the distance from node {} to node {} is {}; between nodes it is {} to {}", i, j, row[j],
                                      kLocalDistance + 1, kMostDistance));
      }
    }
  }
  return {};
}

}  // namespace

Checked<phys::NodeConfig> parse_node_spec(std::string_view text) {
  phys::NodeConfig node;
  bool ram = false;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::string_view word = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    const std::string_view name = word.substr(0, word.find('='));
    const std::string_view value = word.size() == name.size() ? "" : word.substr(name.size() + 1);
    if (name == "ram") {
      const auto bytes = parse_size(value);
      if (!bytes) return user_error(fmt::format("node '{}': {}", text, bytes.error().sentence));
      node.bytes = *bytes;
      ram = true;
    } else if (name == "cpus") {
      const auto cpus = parse_number_list(value, kMaxCpus - 1, ':');
      if (!cpus) {
        return user_error(fmt::format("node '{}': cpus are numbers up to {}, each once, as in cpus=0-3:8, not '{}'", text,
                                      kMaxCpus - 1, value));
      }
      node.cpus = *cpus;
    } else if (name == "distance") {
      auto distances = parse_distances(text, value);
      if (!distances) return std::unexpected(distances.error());
      node.distances = std::move(*distances);
    } else {
      return user_error(fmt::format("node '{}': unknown word '{}'; write ram=SIZE, cpus=LIST, distance=N:N", text, word));
    }
  }
  if (!ram) return user_error(fmt::format("node '{}': say how much memory it has, as in ram=1G (ram=0: none)", text));
  return node;
}

void set_nodes(std::vector<phys::NodeConfig> nodes, CpusGiven cpus_given, MachineConfig& config) {
  config.nodes = static_cast<unsigned>(nodes.size());
  config.node_ram.clear();
  std::uint64_t ram = 0;
  std::size_t cpus = 0;
  bool placed = false;  // by address, so that the sizes say nothing
  for (const phys::NodeConfig& node : nodes) {
    ram += node.bytes;
    placed = placed || !node.memory.empty();
    for (const unsigned cpu : node.cpus) cpus = std::max<std::size_t>(cpus, cpu + 1);
  }
  if (!placed) config.ram = ram;
  if (cpus_given == CpusGiven::kNo && cpus != 0) config.cpus = static_cast<unsigned>(cpus);
  config.node = std::move(nodes);
}

Checked<void> check_node_table(const MachineConfig& config) {
  if (config.node.empty()) return {};
  std::uint64_t sum = 0;
  bool placed = false;
  for (std::size_t i = 0; i < config.node.size(); ++i) {
    const std::uint64_t bytes = config.node[i].bytes;
    if (bytes % kPageSize != 0) {
      return user_error(fmt::format("node {} has {} bytes of RAM; give whole pages of 4K", i, bytes));
    }
    sum += bytes;
    placed = placed || !config.node[i].memory.empty();
  }
  if (!placed && sum == 0) return user_error("no node has memory; give one of them ram=SIZE");
  if (!placed && sum != config.ram) {
    return user_error(fmt::format("the nodes' RAM sums up to {}, but the machine has {}; make them agree", format_size(sum),
                                  format_size(config.ram)));
  }
  if (auto ok = check_cpus(config); !ok) return ok;
  return check_distances(config);
}

}  // namespace quire::kernel
