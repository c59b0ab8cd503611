// What a machine is made of, as a person says it: on the command line or in a TOML file. The same names serve both.
//
//   --ram 64M --cpus 2 --nodes 2 --swap zram:128M --profile linux-6 --seed 7 --kernel-reserved 16M --sysctl vm.swappiness=10
//   --node ram=1G,cpus=0-3,distance=10:20 --node ram=0,cpus=4-7,distance=20:10     (in place of --ram and --nodes)
//
//   ram = "64M"
//   cpus = 2
//   swap = ["zram:128M"]
//   slab = "slub"
//   slab_debug = "FZPU"
//   vm.swappiness = 10
//   [[node]]
//   ram = "1G"
//   cpus = "0-3"
//   distance = [10, 20]
//   [cost]
//   clear_page = 100
//
// Parsing checks form only; `check()` checks that the figures go together. What the hardware would refuse (RAM too small
// to boot) is found by the boot itself.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/arch/geometry.h"
#include "quire/base/user_error.h"
#include "quire/phys/data_mode.h"
#include "quire/phys/firmware_map.h"
#include "quire/phys/memory_hotplug.h"
#include "quire/phys/phys_config.h"
#include "quire/sim/cpu_mask.h"

namespace quire::kernel {

enum class SwapKind : std::uint8_t { kZram, kDisk };

// One swap area. `bytes` is its size (zram: of uncompressed data).
struct SwapSpec {
  SwapKind kind = SwapKind::kZram;
  std::uint64_t bytes = 0;
  std::optional<int> priority;         // as swapon(8) -p; areas without one get -2, -3, ...
  std::optional<double> ratio;         // zram of a dataless machine: uncompressed / compressed, >= 1
  std::optional<std::uint64_t> limit;  // zram: most bytes of RAM it may take (mem_limit)
};

// Memory that is plugged in when the machine has booted: a module, or a persistent region (memmap=nn!ss) given to the system
// as RAM, as the dax kmem driver does.
struct PlugSpec {
  std::uint64_t bytes = 0;                                              // of a module
  std::optional<unsigned> region;                                       // instead: which region, counted by address
  std::optional<std::uint64_t> at;                                      // where a module goes; none: behind what is there
  unsigned node = 0;                                                    // whose memory it becomes
  std::optional<phys::OnlineType> online = phys::OnlineType::kMovable;  // none: its memory blocks stay offline
};

struct MachineConfig {
  std::uint64_t ram = 512ull << 20;               // bytes, all nodes together; with a firmware map, what is usable in it
  std::optional<phys::FirmwareMap> firmware_map;  // none: the map that QEMU's PC has for `ram`
  std::string cmdline;                            // kernel parameters: phys/kernel_parameters.h, kernel/slab_options.h
  unsigned cpus = 1;
  unsigned nodes = 1;
  std::vector<std::uint64_t> node_ram;         // bytes a node; empty: ram split evenly
  std::vector<phys::NodeConfig> node;          // each node in full, in place of nodes and node_ram; `nodes` is their number
  std::optional<phys::RecordedBoot> recorded;  // of a machine that was seen elsewhere; not part of a machine file
  std::vector<PlugSpec> plug;
  std::vector<SwapSpec> swap;
  std::string profile = "linux-6";
  // "x86-64-la57": with five levels of page tables. "i386", "i386-pae": zones of that machine; programs run on x86-64 only.
  std::string arch = "x86-64";
  std::string tlb;            // sizes of the CPUs' TLBs where they are not Skylake's: kernel/tlb_options.h
  std::string slab = "slab";  // the allocator of kernel objects: "slab" or "slub"
  std::string slab_debug;     // as slub_debug=; of the two this one counts
  std::string alloc_policy;   // "linux-2.4", "linux-4.0", "linux-6"; empty: the profile's
  std::uint64_t seed = 0;
  std::uint64_t kernel_reserved = 16ull << 20;  // bytes of kernel image and its static data
  phys::DataMode data_mode = phys::DataMode::kDataless;
  std::map<std::string, std::int64_t> sysctl;  // "vm.swappiness" → value
  std::map<std::string, std::int64_t> cost;    // cost model figures by name
  std::uint64_t preempt_permille = 0;          // extra seeded preemption at sync points, for race hunting
};

inline constexpr unsigned kMaxCpus = sim::CpuMask::kMaxCpus;
inline constexpr unsigned kMaxNodes = 64;

// "zram:128M", "disk:1G,priority=5", "zram:1G,ratio=2.5,limit=200M".
Checked<SwapSpec> parse_swap_spec(std::string_view text);
// "512M", "1G,at=8G,node=1,online=kernel", "pmem0,node=1,online=no"; and back.
Checked<PlugSpec> parse_plug_spec(std::string_view text);
[[nodiscard]] std::string plug_text(const PlugSpec& spec);
// "ram=1G,cpus=0-3:8,distance=10:20": lists within a word are joined by colons.
Checked<phys::NodeConfig> parse_node_spec(std::string_view text);
// Puts a list of nodes into `config`, with the RAM and CPUs that follow: all nodes' RAM; as many CPUs as the nodes name, when
// `cpus_given` says nothing else.
enum class CpusGiven : std::uint8_t { kNo, kYes };
void set_nodes(std::vector<phys::NodeConfig> nodes, CpusGiven cpus_given, MachineConfig& config);
// That each CPU is on one node and that the distances are a square with 10 on its diagonal.
Checked<void> check_node_table(const MachineConfig& config);
// "vm.swappiness=10" into `config.sysctl`; "vm.overcommit_memory" without a value is an error.
Checked<std::pair<std::string, std::int64_t>> parse_assignment(std::string_view text, std::string_view option);
// Reads a TOML file over `config`: what the file does not name stays as it was.
Checked<void> read_machine_file(const std::string& path, MachineConfig& config);
// The firmware's map out of a file with lines as the kernel prints them (a boot log will do), and `ram` with it.
Checked<void> read_e820_file(const std::string& path, MachineConfig& config);
// The same from text; `name` is what errors call it.
Checked<void> read_machine_toml(std::string_view text, std::string_view name, MachineConfig& config);
// That the figures go together: cpus and nodes in range, RAM that is no slip of the unit, nodes that hold their own tables,
// node sizes that sum up, a known profile, known tunables, and a min_free_kbytes that leaves memory to allocate (Linux takes
// any value and then kills what asks for memory; a machine with such a value cannot boot here).
Checked<void> check(const MachineConfig& config);
// That programs can run on it; the error says why not.
Checked<void> check_runs_programs(const MachineConfig& config);
[[nodiscard]] std::optional<phys::Arch> find_arch(std::string_view name);
// The page tables of an architecture by that name: five levels, or four.
[[nodiscard]] arch::Geometry page_table_geometry(std::string_view name);
// The configuration as TOML that read_machine_toml takes back.
std::string to_toml(const MachineConfig& config);

}  // namespace quire::kernel
