#include "quire/kernel/machine_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>

#include "quire/base/nearest.h"
#include "quire/base/size.h"
#include "quire/base/types.h"
#include "quire/kernel/slab_options.h"
#include "quire/kernel/sysctl.h"
#include "quire/kernel/tlb_options.h"
#include "quire/phys/alloc/alloc_policy.h"
#include "quire/sim/cost_model.h"

namespace quire::kernel {

namespace {

constexpr std::array<std::string_view, 3> kProfiles = {"linux-2.4", "linux-4.0", "linux-6"};

template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Checked<void> parse_swap_option(std::string_view text, std::string_view option, SwapSpec& spec) {
  const auto equals = option.find('=');
  const std::string_view name = option.substr(0, equals);
  const std::string_view value = equals == std::string_view::npos ? "" : option.substr(equals + 1);
  if (name == "priority") {
    spec.priority = parse_number<int>(value);
    if (!spec.priority || *spec.priority < 0 || *spec.priority > 32767) {
      return user_error(fmt::format("swap '{}': priority is a number from 0 to 32767, not '{}'", text, value));
    }
  } else if (name == "ratio" && spec.kind == SwapKind::kZram) {
    spec.ratio = parse_number<double>(value);
    if (!spec.ratio || !(*spec.ratio >= 1.0) || *spec.ratio > 1000) {
      return user_error(
          fmt::format("swap '{}': ratio is a number from 1 to 1000 (uncompressed / compressed), not '{}'", text, value));
    }
  } else if (name == "limit" && spec.kind == SwapKind::kZram) {
    const auto bytes = parse_size(value);
    if (!bytes) return user_error(fmt::format("swap '{}': limit: {}", text, bytes.error().sentence));
    spec.limit = *bytes;
  } else {
    return user_error(fmt::format("swap '{}': unknown option '{}'; {} takes {}", text, name,
                                  spec.kind == SwapKind::kZram ? "zram" : "disk",
                                  spec.kind == SwapKind::kZram ? "priority=N, ratio=X, limit=SIZE" : "priority=N"));
  }
  return {};
}

// Far below what any kernel boots with: a size this small was meant with another unit.
constexpr std::uint64_t kLeastRam = 1ull << 20;
// What a node needs for its own tables when all are small, and what each 128M of RAM needs for its part of the memory map.
constexpr std::uint64_t kLeastNodeRam = 9ull << 18;
constexpr std::uint64_t kMemoryMapPart = 2ull << 20;
constexpr std::uint64_t kSection = 128ull << 20;

Checked<void> check_ram(const MachineConfig& config) {
  if (config.ram >= kLeastRam) return {};
  return user_error(fmt::format("RAM of {} {} holds no kernel: write the unit as well, as in 64M", config.ram,
                                config.ram == 1 ? "byte" : "bytes"));
}

Checked<void> check_min_free(const MachineConfig& config) {
  const auto given = config.sysctl.find("vm.min_free_kbytes");
  if (given == config.sysctl.end() || config.recorded) return {};
  const std::uint64_t nodes = config.nodes > 1 ? config.nodes * kLeastNodeRam : 0;
  const std::uint64_t taken = config.kernel_reserved + (config.ram + kSection - 1) / kSection * kMemoryMapPart + nodes;
  const std::uint64_t left = config.ram > taken ? config.ram - taken : 0;
  const std::uint64_t most = std::max(left / 2, kLeastRam) / 1024;
  if (static_cast<std::uint64_t>(given->second) <= most) return {};
  return user_error(
      fmt::format("vm.min_free_kbytes = {} leaves a machine of {} too little to allocate from: the most is {}, "
                  "half of what its kernel does not take",
                  given->second, format_size(config.ram), most));
}

Checked<void> check_nodes(const MachineConfig& config) {
  if (config.nodes < 1 || config.nodes > kMaxNodes) {
    return user_error(fmt::format("--nodes {}: a machine has 1 to {} nodes", config.nodes, kMaxNodes));
  }
  if (!config.node.empty()) return {};
  if (config.node_ram.empty()) {
    if (config.nodes == 1 || config.ram / config.nodes >= kLeastNodeRam) return {};
    return user_error(
        fmt::format("--nodes {} share {} of RAM: too little for the tables of each; give --ram {}M or more, or "
                    "fewer nodes",
                    config.nodes, format_size(config.ram), ((config.nodes * kLeastNodeRam) >> 20) + 1));
  }
  if (config.node_ram.size() != config.nodes) {
    return user_error(
        fmt::format("--node-ram names {} sizes, but the machine has {} nodes", config.node_ram.size(), config.nodes));
  }
  const std::uint64_t sum = std::accumulate(config.node_ram.begin(), config.node_ram.end(), std::uint64_t{0});
  if (sum != config.ram) {
    return user_error(fmt::format("the nodes' RAM sums up to {}, but --ram is {}", format_size(sum), format_size(config.ram)));
  }
  return {};
}

constexpr std::string_view kLa57 = "x86-64-la57";
struct NamedArch {
  std::string_view name;
  phys::Arch arch;
};
constexpr std::array kArchs = {NamedArch{"x86-64", phys::Arch::kX86_64}, NamedArch{kLa57, phys::Arch::kX86_64},
                               NamedArch{"i386", phys::Arch::kI386}, NamedArch{"i386-pae", phys::Arch::kI386Pae}};

Checked<void> check_arch(const MachineConfig& config) {
  if (!find_arch(config.arch)) {
    std::vector<std::string_view> names;
    for (const NamedArch& known : kArchs) names.push_back(known.name);
    const std::string_view guess = nearest(config.arch, names);
    return user_error(fmt::format("unknown architecture '{}'; {}there are: {}", config.arch,
                                  guess.empty() ? "" : fmt::format("did you mean '{}'? ", guess), fmt::join(names, ", ")));
  }
  if (find_arch(config.arch) != phys::Arch::kX86_64 && config.nodes > 1) {
    return user_error(
        fmt::format("--arch {}: such a machine has one node, not {}; leave --nodes out", config.arch, config.nodes));
  }
  return {};
}

Checked<void> check_alloc_policy(const MachineConfig& config) {
  if (config.alloc_policy.empty() || phys::find_alloc_policy(config.alloc_policy)) return {};
  const auto known = phys::alloc_policy_names();
  const std::string_view guess = nearest(config.alloc_policy, known);
  return user_error(fmt::format("unknown allocation policy '{}'; {}there are: {}", config.alloc_policy,
                                guess.empty() ? "" : fmt::format("did you mean '{}'? ", guess), fmt::join(known, ", ")));
}

}  // namespace

std::optional<phys::Arch> find_arch(std::string_view name) {
  const auto it = std::ranges::find(kArchs, name, &NamedArch::name);
  if (it == kArchs.end()) return std::nullopt;
  return it->arch;
}

arch::Geometry page_table_geometry(std::string_view name) {
  return name == kLa57 ? arch::Geometry::x86_64_5level() : arch::Geometry::x86_64_4level();
}

Checked<void> check_runs_programs(const MachineConfig& config) {
  if (find_arch(config.arch) == phys::Arch::kX86_64) return {};
  return user_error(
      fmt::format("--arch {}: this machine has zones but no page tables yet, so no program runs on it and no page of one "
                  "faults; use quire boot or quire explain alloc, or leave --arch out",
                  config.arch));
}

Checked<SwapSpec> parse_swap_spec(std::string_view text) {
  const auto colon = text.find(':');
  const std::string_view kind = text.substr(0, colon);
  SwapSpec spec;
  if (kind == "zram") {
    spec.kind = SwapKind::kZram;
  } else if (kind == "disk") {
    spec.kind = SwapKind::kDisk;
  } else {
    return user_error(fmt::format("swap '{}': write KIND:SIZE with KIND zram or disk, as in zram:128M", text));
  }
  std::string_view rest = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  const auto comma = rest.find(',');
  const auto bytes = parse_size(rest.substr(0, comma));
  if (!bytes) return user_error(fmt::format("swap '{}': {}", text, bytes.error().sentence));
  if (*bytes < 2 * kPageSize || *bytes > (std::uint64_t{1} << 44)) {
    return user_error(fmt::format("swap '{}': the size must be between 8K and 16T", text));
  }
  spec.bytes = *bytes;
  while (rest.find(',') != std::string_view::npos) {
    rest = rest.substr(rest.find(',') + 1);
    if (auto ok = parse_swap_option(text, rest.substr(0, rest.find(',')), spec); !ok) return std::unexpected(ok.error());
  }
  return spec;
}

Checked<std::pair<std::string, std::int64_t>> parse_assignment(std::string_view text, std::string_view option) {
  const auto equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return user_error(fmt::format("{} {}: write NAME=NUMBER", option, text));
  }
  const std::string_view value = text.substr(equals + 1);
  const auto number = parse_number<std::int64_t>(value);
  if (!number) return user_error(fmt::format("{} {}: '{}' is not a whole number", option, text, value));
  return std::pair{std::string(text.substr(0, equals)), *number};
}

Checked<void> check(const MachineConfig& config) {
  if (config.cpus < 1 || config.cpus > kMaxCpus) {
    return user_error(fmt::format("--cpus {}: a machine has 1 to {} CPUs", config.cpus, kMaxCpus));
  }
  if (auto ok = check_node_table(config); !ok) return ok;
  if (auto ok = check_ram(config); !ok) return ok;
  if (auto ok = check_nodes(config); !ok) return ok;
  if (config.profile != "linux-6") {
    if (std::ranges::find(kProfiles, config.profile) != kProfiles.end()) {
      return user_error(fmt::format("profile '{}' is not built yet; linux-6 is", config.profile));
    }
    const std::string_view guess = nearest(config.profile, kProfiles);
    return user_error(fmt::format("unknown profile '{}'; {}", config.profile,
                                  guess.empty() ? "write linux-6" : fmt::format("did you mean '{}'?", guess)));
  }
  if (auto ok = check_alloc_policy(config); !ok) return ok;
  if (auto ok = check_arch(config); !ok) return ok;
  if (auto slab = slab_config(config); !slab) return std::unexpected(slab.error());
  const auto tlb = parse_tlb(config.tlb);
  if (!tlb) return std::unexpected(tlb.error());
  if (auto ok = check_tlbs(*tlb, config.cpus); !ok) return ok;
  if (config.preempt_permille > 1000) {
    return user_error(fmt::format("--preempt {}: per mille, so at most 1000", config.preempt_permille));
  }
  for (const auto& [name, value] : config.sysctl) {
    if (auto ok = check_sysctl(name, value); !ok) return ok;
  }
  if (auto ok = check_min_free(config); !ok) return ok;
  sim::CostModel costs;
  for (const auto& [name, value] : config.cost) {
    if (value < 0) return user_error(fmt::format("cost {} = {}: a cost is not negative", name, value));
    if (!costs.set(name, static_cast<std::uint64_t>(value))) {
      std::vector<std::string_view> names;
      costs.for_each([&](std::string_view known, std::uint64_t) { names.push_back(known); });
      const std::string_view guess = nearest(name, names);
      return user_error(guess.empty() ? fmt::format("unknown cost '{}'; known are: {}", name, fmt::join(names, ", "))
                                      : fmt::format("unknown cost '{}'; did you mean '{}'?", name, guess));
    }
  }
  return {};
}

}  // namespace quire::kernel
