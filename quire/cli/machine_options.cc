#include "quire/cli/machine_options.h"

#include <fmt/format.h>

#include <numeric>
#include <type_traits>

#include "quire/base/size.h"
#include "quire/cli/numbers.h"
#include "quire/like/recorded.h"

namespace quire::cli {

namespace {

Checked<std::uint64_t> size_option(std::string_view option, std::string_view text) {
  auto bytes = parse_size(text);
  if (!bytes) return user_error(fmt::format("{} {}: {}", option, text, bytes.error().sentence));
  return *bytes;
}

Checked<void> assign_all(const std::vector<std::string>& texts, std::string_view option,
                         std::map<std::string, std::int64_t>& into) {
  for (const std::string& text : texts) {
    auto pair = kernel::parse_assignment(text, option);
    if (!pair) return std::unexpected(pair.error());
    into[pair->first] = pair->second;
  }
  return {};
}

}  // namespace

void MachineOptions::add_to(CLI::App& app, RamOption ram) {
  const std::string group = "Machine";
  app.add_option("--machine", file_, "A TOML file that describes the machine; other options override it")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--like", like_, "The machine that this folder describes (see quire capture)")->type_name("DIR")->group(group);
  if (ram == RamOption::kOne) {
    app.add_option("--ram", one_ram_, "RAM, as in 64M (default 512M)")->type_name("SIZE")->group(group);
  } else {
    app.add_option("--ram", ram_, "RAM of each machine, as in 24M,32M,64M")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->type_name("SIZE,SIZE,...")
        ->group(group);
  }
  app.add_option("--e820", e820_,
                 "The firmware's memory map in place of --ram: lines as the kernel prints them; a boot log will do")
      ->type_name("FILE")
      ->group(group);
  app.add_option(
         "--cmdline", cmdline_,
         "Kernel parameters: mem=, memmap=, kernelcore=, movablecore=, cma=; slub_debug=, slab_nomerge, slub_min_objects=, "
         "slub_min_order=, slub_max_order=; nohugevmalloc; highmem= on i386")
      ->type_name("TEXT")
      ->group(group);
  app.add_option("--cpus", cpus_, "Number of CPUs (default 1)")->type_name("N")->group(group);
  app.add_option("--nodes", nodes_, "Number of NUMA nodes (default 1)")->type_name("N")->group(group);
  app.add_option("--node-ram", node_ram_, "RAM of each node, when they differ")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("SIZE,SIZE,...")
      ->group(group);
  app.add_option("--node", node_,
                 "One node, in place of --ram and --nodes: ram=SIZE (0: none), cpus=0-3:8, distance=10:20 (one number to each "
                 "node); repeat for each node")
      ->type_name("ram=SIZE,...")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false)
      ->group(group);
  app.add_option(
         "--plug", plug_,
         "Memory that comes when the machine has booted: SIZE[,at=ADDRESS][,node=N][,online=movable|kernel|no], or pmemN "
         "(a region of memmap=SIZE!START as RAM); may be repeated")
      ->type_name("SIZE,...")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("--swap", swap_,
                 "A swap area: zram:SIZE[,ratio=X][,limit=SIZE][,priority=N] or disk:SIZE[,priority=N]; may be repeated")
      ->type_name("KIND:SIZE")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("--profile", profile_, "Whose allocation and reclaim: linux-6 (default)")->type_name("NAME")->group(group);
  app.add_option("--arch", arch_,
                 "x86-64 (default), x86-64-la57 (five levels of page tables), or whose zones: i386, i386-pae; programs run on "
                 "the first two only")
      ->type_name("NAME")
      ->group(group);
  app.add_option("--tlb", tlb_,
                 "Entries and ways of the CPUs' TLBs: l1_4k=64x4,l1_2m=32x4,l1_1g=4x4,l2=1536x12,l2_1g=16x4 or some of these "
                 "(default: these, Skylake's)")
      ->type_name("ARRAY=NxW,...")
      ->group(group);
  app.add_option("--slab", slab_, "What kernel objects come from: slab (default) or slub")->type_name("NAME")->group(group);
  app.add_option("--slab-debug", slab_debug_,
                 "Kernel objects under debugging, as the parameter slub_debug=: F checks, Z red zones, P poison, U owners, "
                 "T trace; for the caches named, or for all. What it finds is printed at the end")
      ->type_name("FZPU[,CACHE,...]")
      ->group(group);
  app.add_option("--alloc-policy", alloc_policy_,
                 "Whose way of finding a page: linux-2.4, linux-4.0, linux-6 (default: the profile's)")
      ->type_name("NAME")
      ->group(group);
  app.add_option("--seed", seed_, "Decides every race and tie; the same seed repeats a run (default 0)")
      ->type_name("N")
      ->group(group);
  app.add_option("--kernel-reserved", kernel_reserved_, "What the kernel's image takes (default 16M)")
      ->type_name("SIZE")
      ->group(group);
  app.add_option("--preempt", preempt_, "Extra seeded preemption at sync points, per mille (default 0)")
      ->type_name("N")
      ->group(group);
  app.add_option("--sysctl", sysctl_, "A tunable, as in vm.swappiness=10; may be repeated")
      ->type_name("NAME=N")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("--cost", cost_, "A figure of the cost model, as in clear_page=100; may be repeated")
      ->type_name("NAME=N")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false)
      ->group(group);
}

Checked<void> MachineOptions::take_numbers(kernel::MachineConfig& config) const {
  const auto take = [](std::string_view option, const std::optional<std::string>& text, const Bounds& bounds,
                       auto& into) -> Checked<void> {
    if (!text) return {};
    const auto number = whole_number(option, *text, bounds);
    if (!number) return std::unexpected(number.error());
    into = static_cast<std::remove_reference_t<decltype(into)>>(*number);
    return {};
  };
  if (auto ok = take("--cpus", cpus_, {.least = 1, .most = kernel::kMaxCpus, .what = "CPUs"}, config.cpus); !ok) return ok;
  if (auto ok = take("--nodes", nodes_, {.least = 1, .most = kernel::kMaxNodes, .what = "nodes"}, config.nodes); !ok) return ok;
  if (auto ok = take("--seed", seed_, {}, config.seed); !ok) return ok;
  return take("--preempt", preempt_, {.most = 1000, .what = "preemptions per mille"}, config.preempt_permille);
}

// The folder says what the hardware is; what runs on it is for other options to say.
Checked<void> MachineOptions::take_like(kernel::MachineConfig& config) const {
  const std::pair<std::string_view, bool> hardware[] = {{"--machine", !file_.empty()},
                                                        {"--ram", one_ram_ || !ram_.empty()},
                                                        {"--e820", !e820_.empty()},
                                                        {"--cmdline", cmdline_.has_value()},
                                                        {"--cpus", cpus_.has_value()},
                                                        {"--nodes", nodes_.has_value()},
                                                        {"--node", !node_.empty()},
                                                        {"--node-ram", !node_ram_.empty()},
                                                        {"--kernel-reserved", kernel_reserved_.has_value()}};
  for (const auto& [option, given] : hardware) {
    if (given) return user_error(fmt::format("--like says what the machine is made of: leave {} out", option));
  }
  const auto folder = like::read_folder(like_);
  if (!folder) return user_error(fmt::format("--like: {}", folder.error().sentence));
  auto machine = like::describe(*folder);
  if (!machine) return user_error(fmt::format("--like: {}", machine.error().sentence));
  config = std::move(machine->config);
  notes_ = std::move(machine->notes);
  return {};
}

Checked<void> MachineOptions::take_nodes(kernel::MachineConfig& config) const {
  if (node_.empty()) {
    if (nodes_ || !node_ram_.empty()) config.node.clear();  // of the machine file
    return {};
  }
  if (nodes_ || !node_ram_.empty()) {
    return user_error("--node describes each node in full: leave --nodes and --node-ram out");
  }
  std::vector<phys::NodeConfig> nodes;
  for (const std::string& text : node_) {
    auto node = kernel::parse_node_spec(text);
    if (!node) return user_error(fmt::format("--{}", node.error().sentence));
    nodes.push_back(std::move(*node));
  }
  const std::uint64_t ram = config.ram;
  kernel::set_nodes(std::move(nodes), cpus_ ? kernel::CpusGiven::kYes : kernel::CpusGiven::kNo, config);
  if (config.firmware_map) config.ram = ram;  // the map's; the check compares the two
  return {};
}

Checked<kernel::MachineConfig> MachineOptions::without_ram() const {
  kernel::MachineConfig config;
  if (!like_.empty()) {
    if (auto ok = take_like(config); !ok) return std::unexpected(ok.error());
  }
  if (!file_.empty()) {
    if (auto ok = kernel::read_machine_file(file_, config); !ok) return std::unexpected(ok.error());
  }
  if (auto ok = take_numbers(config); !ok) return std::unexpected(ok.error());
  if (!e820_.empty()) {
    if (one_ram_ || !ram_.empty() || !node_ram_.empty()) {
      return user_error(
          "--e820 says how much RAM there is: leave --ram and --node-ram out, or cut memory with --cmdline mem=SIZE");
    }
    if (auto ok = kernel::read_e820_file(e820_, config); !ok) return std::unexpected(ok.error());
  }
  if (cmdline_) config.cmdline = *cmdline_;
  if (profile_) config.profile = *profile_;
  if (arch_) config.arch = *arch_;
  if (tlb_) config.tlb = *tlb_;
  if (slab_) config.slab = *slab_;
  if (slab_debug_) config.slab_debug = *slab_debug_;
  if (alloc_policy_) config.alloc_policy = *alloc_policy_;
  if (kernel_reserved_) {
    const auto bytes = size_option("--kernel-reserved", *kernel_reserved_);
    if (!bytes) return std::unexpected(bytes.error());
    config.kernel_reserved = *bytes;
  }
  if (!plug_.empty()) config.plug.clear();
  for (const std::string& text : plug_) {
    auto spec = kernel::parse_plug_spec(text);
    if (!spec) return user_error(fmt::format("--{}", spec.error().sentence));
    config.plug.push_back(*spec);
  }
  if (!swap_.empty()) config.swap.clear();
  for (const std::string& text : swap_) {
    auto spec = kernel::parse_swap_spec(text);
    if (!spec) return user_error(fmt::format("--{}", spec.error().sentence));
    config.swap.push_back(*spec);
  }
  if (auto ok = assign_all(sysctl_, "--sysctl", config.sysctl); !ok) return std::unexpected(ok.error());
  if (config.recorded) {  // what is asked for now counts more than what was recorded
    if (config.sysctl.contains("vm.min_free_kbytes")) config.recorded->min_free_kbytes.reset();
    if (config.sysctl.contains("vm.watermark_scale_factor")) config.recorded->watermark_scale_factor.reset();
  }
  if (auto ok = assign_all(cost_, "--cost", config.cost); !ok) return std::unexpected(ok.error());
  if (!node_ram_.empty()) config.node_ram.clear();
  for (const std::string& text : node_ram_) {
    const auto bytes = size_option("--node-ram", text);
    if (!bytes) return std::unexpected(bytes.error());
    config.node_ram.push_back(*bytes);
  }
  if (!node_ram_.empty()) {
    if (!nodes_) config.nodes = static_cast<unsigned>(config.node_ram.size());
    config.ram = std::accumulate(config.node_ram.begin(), config.node_ram.end(), std::uint64_t{0});
  }
  if (auto ok = take_nodes(config); !ok) return std::unexpected(ok.error());
  return config;
}

Checked<std::vector<kernel::MachineConfig>> MachineOptions::configs() const {
  auto base = without_ram();
  if (!base) return std::unexpected(base.error());
  std::vector<kernel::MachineConfig> machines;
  std::vector<std::string> sizes = ram_;
  if (one_ram_) sizes.push_back(*one_ram_);
  if (!sizes.empty() && base->firmware_map) {
    return user_error(
        fmt::format("--ram {}: the machine file's firmware map says how much RAM there is; cut memory with "
                    "--cmdline mem=SIZE instead",
                    sizes.front()));
  }
  if (!sizes.empty() && !node_.empty()) {
    return user_error(fmt::format("--ram {}: the --node options say how much RAM there is; leave --ram out", sizes.front()));
  }
  if (sizes.empty()) machines.push_back(*base);
  for (const std::string& text : sizes) {
    const auto bytes = size_option("--ram", text);
    if (!bytes) return std::unexpected(bytes.error());
    machines.push_back(*base);
    machines.back().ram = *bytes;
  }
  for (const kernel::MachineConfig& machine : machines) {
    if (auto ok = kernel::check(machine); !ok) return std::unexpected(ok.error());
  }
  return machines;
}

Checked<kernel::MachineConfig> MachineOptions::config() const {
  auto machines = configs();
  if (!machines) return std::unexpected(machines.error());
  return machines->front();
}

}  // namespace quire::cli
