// Machine descriptions as TOML files.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>
#include <system_error>
#include <utility>

#include <toml++/toml.h>

#include "quire/base/cpu_list.h"
#include "quire/base/nearest.h"
#include "quire/base/size.h"
#include "quire/kernel/machine_config.h"

namespace quire::kernel {

namespace {

Checked<void> take_firmware_map(std::string_view text, MachineConfig& config) {
  auto map = phys::FirmwareMap::parse(text);
  if (!map) return user_error(map.error().message);
  config.ram = map->ram_bytes();
  config.firmware_map = std::move(*map);
  return {};
}

// The content of a file that describes a machine; `what` it is called in a complaint.
Checked<std::string> read_text(const std::string& path, std::string_view what) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return user_error(fmt::format("the {} '{}' is a folder; name a file in it", what, path));
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) return user_error(fmt::format("cannot read the {} '{}'; does it exist?", what, path));
  std::ostringstream content;
  content << in.rdbuf();
  if (in.bad()) return user_error(fmt::format("cannot read the {} '{}'; is it a file?", what, path));
  return std::move(content).str();
}

// Where in the file something stands, for error sentences.
std::string place(std::string_view file, const toml::node& node) {
  return fmt::format("{}:{}", file, node.source().begin.line);
}

class Reader {
 public:
  Reader(std::string_view file, MachineConfig& config) : file_(file), config_(config) {}

  Checked<void> read(const toml::table& root) {
    for (const auto& [key, node] : root) {
      if (auto ok = read_key(key.str(), node); !ok) return ok;
    }
    if (root.contains("node")) return agree(root);
    return {};
  }

 private:
  using Take = Checked<void> (Reader::*)(std::string_view, const toml::node&);

  Checked<void> read_key(std::string_view key, const toml::node& node) {
    static constexpr std::pair<std::string_view, Take> kKeys[] = {
        {"ram", &Reader::take_ram},
        {"cpus", &Reader::take_cpus},
        {"nodes", &Reader::take_nodes},
        {"node_ram", &Reader::take_node_ram},
        {"plug", &Reader::take_plug},
        {"swap", &Reader::take_swap},
        {"profile", &Reader::take_profile},
        {"seed", &Reader::take_seed},
        {"kernel_reserved", &Reader::take_kernel_reserved},
        {"preempt", &Reader::take_preempt},
        {"vm", &Reader::take_vm},
        {"cost", &Reader::take_cost},
        {"cmdline", &Reader::take_cmdline},
        {"e820", &Reader::take_e820},
        {"node", &Reader::take_node},
        {"e820", &Reader::take_e820},
        {"alloc_policy", &Reader::take_alloc_policy},
        {"arch", &Reader::take_arch},
        {"tlb", &Reader::take_tlb},
        {"slab", &Reader::take_slab},
        {"slab_debug", &Reader::take_slab_debug},
    };
    std::vector<std::string_view> names;
    for (const auto& [name, take] : kKeys) {
      if (name == key) return (this->*take)(key, node);
      names.push_back(name);
    }
    const std::string_view guess = nearest(key, names);
    return user_error(fmt::format(
        "{}: unknown key '{}'; {}", place(file_, node), key,
        guess.empty() ? fmt::format("known are: {}", fmt::join(names, ", ")) : fmt::format("did you mean '{}'?", guess)));
  }

  // A list of nodes says how much RAM there is and how many nodes; the file may repeat that, but not otherwise.
  Checked<void> agree(const toml::table& root) {
    const bool placed = std::ranges::any_of(config_.node, [](const phys::NodeConfig& c) { return !c.memory.empty(); });
    const std::uint64_t ram = config_.ram;
    const unsigned nodes = config_.nodes;
    set_nodes(config_.node, root.contains("cpus") ? CpusGiven::kYes : CpusGiven::kNo, config_);
    if (root.contains("node_ram")) return wrong("node_ram", *root.get("node_ram"), "left out beside [[node]]");
    if (root.contains("nodes") && nodes != config_.nodes) {
      return wrong("nodes", *root.get("nodes"), fmt::format("{}, as many as there are [[node]] tables", config_.nodes));
    }
    if (root.contains("ram") && !placed && ram != config_.ram) {
      return wrong("ram", *root.get("ram"),
                   fmt::format("\"{}\", what the [[node]] tables sum up to", format_size(config_.ram)));
    }
    if (root.contains("e820") || root.contains("ram")) config_.ram = ram;
    return {};
  }

  Checked<void> wrong(std::string_view key, const toml::node& node, std::string_view wanted) const {
    return user_error(fmt::format("{}: {} must be {}", place(file_, node), key, wanted));
  }

  Checked<void> take_size(std::string_view key, const toml::node& node, std::uint64_t& into) {
    if (const auto bytes = node.value_exact<std::int64_t>(); bytes && *bytes >= 0) {
      into = static_cast<std::uint64_t>(*bytes);
      return {};
    }
    const auto text = node.value_exact<std::string_view>();
    if (!text) return wrong(key, node, "a size such as \"64M\"");
    const auto bytes = parse_size(*text);
    if (!bytes) return user_error(fmt::format("{}: {}: {}", place(file_, node), key, bytes.error().sentence));
    into = *bytes;
    return {};
  }

  // From `least` to `most`.
  template <class T>
  Checked<void> take_count(std::string_view key, const toml::node& node, T& into, std::int64_t least, std::int64_t most) {
    const auto count = node.value_exact<std::int64_t>();
    if (!count || *count < least || *count > most) {
      return wrong(key, node, fmt::format("a whole number from {} to {}", least, most));
    }
    into = static_cast<T>(*count);
    return {};
  }

  Checked<void> take_ram(std::string_view key, const toml::node& node) { return take_size(key, node, config_.ram); }
  Checked<void> take_kernel_reserved(std::string_view key, const toml::node& node) {
    return take_size(key, node, config_.kernel_reserved);
  }
  Checked<void> take_cpus(std::string_view key, const toml::node& node) {
    return take_count(key, node, config_.cpus, 1, kMaxCpus);
  }
  Checked<void> take_nodes(std::string_view key, const toml::node& node) {
    return take_count(key, node, config_.nodes, 1, kMaxNodes);
  }
  Checked<void> take_seed(std::string_view key, const toml::node& node) {
    return take_count(key, node, config_.seed, 0, std::numeric_limits<std::int64_t>::max());
  }
  Checked<void> take_preempt(std::string_view key, const toml::node& node) {
    return take_count(key, node, config_.preempt_permille, 0, 1000);
  }
  Checked<void> take_profile(std::string_view key, const toml::node& node) {
    const auto text = node.value_exact<std::string_view>();
    if (!text) return wrong(key, node, "a name such as \"linux-6\"");
    config_.profile = *text;
    return {};
  }
  Checked<void> take_arch(std::string_view key, const toml::node& node) {
    const auto text = node.value_exact<std::string_view>();
    if (!text) return wrong(key, node, "a name such as \"i386\"");
    config_.arch = *text;
    return {};
  }
  Checked<void> take_tlb(std::string_view key, const toml::node& node) {
    const auto text = node.value_exact<std::string_view>();
    if (!text) return wrong(key, node, "a text such as \"l2=1024x8\"");
    config_.tlb = *text;
    return {};
  }
  Checked<void> take_slab(std::string_view key, const toml::node& node) {
    const auto text = node.value_exact<std::string_view>();
    if (!text) return wrong(key, node, "\"slab\" or \"slub\"");
    config_.slab = *text;
    return {};
  }
  Checked<void> take_slab_debug(std::string_view key, const toml::node& node) {
    const auto text = node.value_exact<std::string_view>();
    if (!text) return wrong(key, node, "letters such as \"FZPU\", or letters and caches such as \"ZP,dentry\"");
    config_.slab_debug = *text;
    return {};
  }
  Checked<void> take_alloc_policy(std::string_view key, const toml::node& node) {
    const auto text = node.value_exact<std::string_view>();
    if (!text) return wrong(key, node, "a name such as \"linux-4.0\"");
    config_.alloc_policy = *text;
    return {};
  }
  Checked<void> take_cmdline(std::string_view key, const toml::node& node) {
    const auto text = node.value_exact<std::string_view>();
    if (!text) return wrong(key, node, "kernel parameters such as \"movablecore=256M\"");
    config_.cmdline = *text;
    return {};
  }
  // A file's name, or the map itself.
  Checked<void> take_e820(std::string_view key, const toml::node& node) {
    const auto text = node.value_exact<std::string_view>();
    if (!text) return wrong(key, node, "a file with the firmware's map, or the map's lines");
    auto taken = text->find("[mem ") == std::string_view::npos ? read_e820_file(std::string(*text), config_)
                                                               : take_firmware_map(*text, config_);
    if (!taken) return user_error(fmt::format("{}: {}", place(file_, node), taken.error().sentence));
    return {};
  }
  Checked<void> take_node_ram(std::string_view key, const toml::node& node) {
    if (!node.is_array()) return wrong(key, node, "a list of sizes");
    config_.node_ram.clear();
    for (const auto& element : *node.as_array()) {
      std::uint64_t bytes = 0;
      if (auto ok = take_size(key, element, bytes); !ok) return ok;
      config_.node_ram.push_back(bytes);
    }
    return {};
  }
  Checked<void> take_node_memory(std::string_view key, const toml::node& node, phys::NodeConfig& into) {
    constexpr std::string_view kForm = "a list of ranges such as \"0x100000-0x1fffffff\"";
    if (!node.is_array()) return wrong(key, node, kForm);
    for (const auto& element : *node.as_array()) {
      const auto text = element.value_exact<std::string_view>();
      if (!text) return wrong(key, element, kForm);
      const auto dash = std::min(text->find('-'), text->size());
      const auto first = parse_size(text->substr(0, dash));
      const auto last = parse_size(text->substr(std::min(text->size(), dash + 1)));
      if (!first || !last || *last < *first || *last + 1 == 0) return wrong(key, element, kForm);
      into.memory.push_back({PhysAddr(*first), PhysAddr(*last + 1)});
    }
    return {};
  }
  Checked<void> take_node_cpus(std::string_view key, const toml::node& node, phys::NodeConfig& into) {
    const auto text = node.value_exact<std::string_view>();
    const auto cpus = text ? parse_number_list(*text, kMaxCpus - 1) : std::nullopt;
    if (!cpus) return wrong(key, node, "a list of CPUs such as \"0-3,8\"");
    into.cpus = *cpus;
    return {};
  }
  Checked<void> take_node_distance(std::string_view key, const toml::node& node, phys::NodeConfig& into) {
    if (!node.is_array()) return wrong(key, node, "a list of numbers such as [10, 20]");
    for (const auto& element : *node.as_array()) {
      unsigned distance = 0;
      if (auto ok = take_count(key, element, distance, 0, 255); !ok) return ok;
      into.distances.push_back(distance);
    }
    return {};
  }
  Checked<void> take_one_node(const toml::node& node, phys::NodeConfig& into) {
    if (!node.is_table()) return wrong("node", node, "a table: write [[node]]");
    bool sized = false;
    for (const auto& [key, element] : *node.as_table()) {
      const std::string_view name = key.str();
      Checked<void> ok;
      if (name == "ram") {
        ok = take_size("node.ram", element, into.bytes);
        sized = true;
      } else if (name == "memory") {
        ok = take_node_memory("node.memory", element, into);
        sized = true;
      } else if (name == "cpus") {
        ok = take_node_cpus("node.cpus", element, into);
      } else if (name == "distance") {
        ok = take_node_distance("node.distance", element, into);
      } else {
        ok = user_error(
            fmt::format("{}: unknown key 'node.{}'; known are: ram, cpus, distance, memory", place(file_, element), name));
      }
      if (!ok) return ok;
    }
    if (!sized) return wrong("node", node, "given its memory, as in ram = \"1G\" (ram = 0: none)");
    return {};
  }
  Checked<void> take_node(std::string_view key, const toml::node& node) {
    if (!node.is_array()) return wrong(key, node, "one or more tables: write [[node]]");
    std::vector<phys::NodeConfig> nodes;
    for (const auto& element : *node.as_array()) {
      nodes.emplace_back();
      if (auto ok = take_one_node(element, nodes.back()); !ok) return ok;
    }
    if (nodes.size() > kMaxNodes) return wrong(key, node, fmt::format("at most {} tables", kMaxNodes));
    set_nodes(std::move(nodes), CpusGiven::kYes, config_);
    return {};
  }
  Checked<void> take_plug(std::string_view key, const toml::node& node) {
    config_.plug.clear();
    const toml::array* list = node.as_array();
    if (list == nullptr) return wrong(key, node, "a list such as [\"512M,node=1\"]");
    for (const auto& element : *list) {
      const auto text = element.value_exact<std::string_view>();
      if (!text) return wrong(key, element, "memory such as \"512M,node=1\"");
      auto spec = parse_plug_spec(*text);
      if (!spec) return user_error(fmt::format("{}: {}", place(file_, element), spec.error().sentence));
      config_.plug.push_back(*spec);
    }
    return {};
  }
  Checked<void> take_one_swap(std::string_view key, const toml::node& node) {
    const auto text = node.value_exact<std::string_view>();
    if (!text) return wrong(key, node, "an area such as \"zram:128M\", or a list of them");
    auto spec = parse_swap_spec(*text);
    if (!spec) return user_error(fmt::format("{}: {}", place(file_, node), spec.error().sentence));
    config_.swap.push_back(*spec);
    return {};
  }
  Checked<void> take_swap(std::string_view key, const toml::node& node) {
    config_.swap.clear();
    if (!node.is_array()) return take_one_swap(key, node);
    for (const auto& element : *node.as_array()) {
      if (auto ok = take_one_swap(key, element); !ok) return ok;
    }
    return {};
  }
  Checked<void> take_numbers(std::string_view key, std::string_view prefix, const toml::node& node,
                             std::map<std::string, std::int64_t>& into) {
    if (!node.is_table()) return wrong(key, node, "a table of numbers");
    for (const auto& [name, element] : *node.as_table()) {
      const auto number = element.value_exact<std::int64_t>();
      if (!number) return wrong(fmt::format("{}.{}", key, name.str()), element, "a whole number");
      into[fmt::format("{}{}", prefix, name.str())] = *number;
    }
    return {};
  }
  Checked<void> take_vm(std::string_view key, const toml::node& node) { return take_numbers(key, "vm.", node, config_.sysctl); }
  Checked<void> take_cost(std::string_view key, const toml::node& node) { return take_numbers(key, "", node, config_.cost); }

  std::string_view file_;
  MachineConfig& config_;
};

// A TOML string of any text: what its rules demand is escaped.
std::string toml_string(std::string_view text) {
  std::ostringstream out;
  out << toml::value<std::string>(std::string(text));
  return std::move(out).str();
}

std::string node_toml(const phys::NodeConfig& node) {
  std::string out = fmt::format("[[node]]\nram = \"{}\"\n", format_size(node.bytes));
  if (!node.cpus.empty()) out += fmt::format("cpus = \"{}\"\n", format_number_list(node.cpus));
  if (!node.distances.empty()) out += fmt::format("distance = [{}]\n", fmt::join(node.distances, ", "));
  if (node.memory.empty()) return out;
  std::string ranges;
  for (const Range<PhysAddr>& r : node.memory) {
    ranges += fmt::format("{}\"{:#x}-{:#x}\"", ranges.empty() ? "" : ", ", r.begin.value(), r.end.value() - 1);
  }
  return out + fmt::format("memory = [{}]\n", ranges);
}

std::string swap_text(const SwapSpec& spec) {
  std::string text = fmt::format("{}:{}", spec.kind == SwapKind::kZram ? "zram" : "disk", format_size(spec.bytes));
  if (spec.priority) text += fmt::format(",priority={}", *spec.priority);
  if (spec.ratio) text += fmt::format(",ratio={}", *spec.ratio);
  if (spec.limit) text += fmt::format(",limit={}", format_size(*spec.limit));
  return text;
}

}  // namespace

Checked<void> read_machine_toml(std::string_view text, std::string_view name, MachineConfig& config) {
  toml::table parsed;
  try {
    parsed = toml::parse(text, name);
  } catch (const toml::parse_error& wrong) {
    return user_error(fmt::format("{}:{}: not TOML: {}", name, wrong.source().begin.line, wrong.description()));
  }
  MachineConfig read = config;
  if (auto ok = Reader(name, read).read(parsed); !ok) return ok;
  config = std::move(read);
  return {};
}

Checked<void> read_machine_file(const std::string& path, MachineConfig& config) {
  const auto text = read_text(path, "machine file");
  if (!text) return std::unexpected(text.error());
  return read_machine_toml(*text, path, config);
}

Checked<void> read_e820_file(const std::string& path, MachineConfig& config) {
  const auto text = read_text(path, "firmware map");
  if (!text) return std::unexpected(text.error());
  if (auto taken = take_firmware_map(*text, config); !taken) {
    return user_error(fmt::format("{}: {}", path, taken.error().sentence));
  }
  return {};
}

std::string to_toml(const MachineConfig& config) {
  std::string out = fmt::format("ram = \"{}\"\ncpus = {}\nnodes = {}\n", format_size(config.ram), config.cpus, config.nodes);
  const auto list = [](const auto& values, auto&& text) {
    std::string joined;
    for (const auto& value : values) joined += fmt::format("{}\"{}\"", joined.empty() ? "" : ", ", text(value));
    return joined;
  };
  if (config.firmware_map) {
    out += fmt::format("e820 = \"\"\"\n{}\n\"\"\"\n", fmt::join(config.firmware_map->lines("BIOS-e820"), "\n"));
  }
  if (!config.cmdline.empty()) out += fmt::format("cmdline = {}\n", toml_string(config.cmdline));
  if (!config.node_ram.empty()) {
    out += fmt::format("node_ram = [{}]\n", list(config.node_ram, [](std::uint64_t bytes) { return format_size(bytes); }));
  }
  if (!config.plug.empty()) out += fmt::format("plug = [{}]\n", list(config.plug, plug_text));
  out += fmt::format("swap = [{}]\n", list(config.swap, swap_text));
  out += fmt::format("profile = \"{}\"\nseed = {}\nkernel_reserved = \"{}\"\npreempt = {}\n", config.profile, config.seed,
                     format_size(config.kernel_reserved), config.preempt_permille);
  if (config.arch != MachineConfig{}.arch) out += fmt::format("arch = {}\n", toml_string(config.arch));
  if (!config.tlb.empty()) out += fmt::format("tlb = {}\n", toml_string(config.tlb));
  if (config.slab != MachineConfig{}.slab) out += fmt::format("slab = {}\n", toml_string(config.slab));
  if (!config.slab_debug.empty()) out += fmt::format("slab_debug = {}\n", toml_string(config.slab_debug));
  if (!config.alloc_policy.empty()) out += fmt::format("alloc_policy = {}\n", toml_string(config.alloc_policy));
  for (const auto& [name, value] : config.sysctl) out += fmt::format("{} = {}\n", name, value);
  for (const phys::NodeConfig& node : config.node) out += node_toml(node);
  if (!config.cost.empty()) out += "[cost]\n";
  for (const auto& [name, value] : config.cost) out += fmt::format("{} = {}\n", name, value);
  return out;
}

}  // namespace quire::kernel
