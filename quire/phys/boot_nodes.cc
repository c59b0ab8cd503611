// RAM and CPUs over the NUMA nodes, and the order in which a node falls back to the others.
#include <algorithm>
#include <limits>
#include <numeric>

#include "quire/phys/boot.h"
#include "quire/phys/boot_log.h"

namespace quire::phys {

namespace {

constexpr std::uint64_t kNumaAlign = 8 * kMiB;    // QEMU deals RAM out in these
constexpr std::uint64_t kNodeDataBytes = 172032;  // sizeof(pg_data_t) of the reference kernel, whole pages
constexpr unsigned kLocalDistance = 10;
constexpr unsigned kRemoteDistance = 20;

}  // namespace

BootStatus PhysBoot::initmem_init() {
  if (BootStatus status = split_ram(); !status) return status;
  if (config_.alloc_policy == AllocPolicyKind::kLinux24) {
    if (BootStatus status = setup_bootmem(); !status) return status;
  }
  return alloc_node_data();
}

// RAM as it is plugged in, before the firmware keeps parts of it: what nodes are dealt from.
std::vector<Range<PhysAddr>> PhysBoot::installed_ram() const {
  std::vector<Range<PhysAddr>> out;
  if (config_.firmware_map) {
    for (const E820Entry& e : map_.entries()) {
      if (e.type == E820Type::kRam) out.push_back(e.range);
    }
    return out;
  }
  PhysAddr below{};
  Range<PhysAddr> above{};
  for (const E820Entry& e : map_.entries()) {
    if (e.range.end <= PhysAddr(0xf000'0000)) below = e.range.end;
    if (e.type == E820Type::kRam && e.range.begin >= PhysAddr(4 * kGiB)) above = e.range;
  }
  out.push_back({PhysAddr(0), below});
  if (!above.empty()) out.push_back(above);
  return out;
}

BootStatus PhysBoot::split_ram() {
  if (config_.nodes.empty()) {
    memblock_.set_node({PhysAddr(0), memblock_.end_of_dram()}, Nid(0));
    node_bytes_ = {ram_bytes_};
    log("No NUMA configuration found");
    log("Faking a node at [mem {:#018x}-{:#018x}]", 0, memblock_.end_of_dram().value() - 1);
    return {};
  }
  const std::size_t n = config_.nodes.size();
  if (std::ranges::any_of(config_.nodes, [](const NodeConfig& c) { return !c.memory.empty(); })) return take_node_memory();
  for (const NodeConfig& node : config_.nodes) node_bytes_.push_back(node.bytes);
  if (std::ranges::all_of(node_bytes_, [](std::uint64_t b) { return b == 0; })) {
    for (std::uint64_t& bytes : node_bytes_) bytes = align_down(ram_bytes_ / n, kNumaAlign);
    node_bytes_.back() = ram_bytes_ - node_bytes_.front() * (n - 1);
    if (node_bytes_.front() == 0) {
      return boot_error(
          fmt::format("{} MiB of RAM cannot be dealt to {} nodes in steps of 8 MiB; give more --ram or "
                      "fewer --nodes",
                      ram_bytes_ / kMiB, n));
    }
  }
  const std::uint64_t sum = std::accumulate(node_bytes_.begin(), node_bytes_.end(), std::uint64_t{0});
  std::uint64_t installed = 0;
  for (const Range<PhysAddr>& r : installed_ram()) installed += r.size();
  if (sum != installed) {
    return boot_error(fmt::format("the nodes' memory adds up to {} KiB but the machine has {} KiB; make the sizes agree",
                                  sum / kKiB, installed / kKiB));
  }
  std::vector<Range<PhysAddr>> left = installed_ram();
  std::size_t at = 0;
  for (std::size_t i = 0; i < n; ++i) {
    std::uint64_t want = node_bytes_[i];
    while (want != 0) {
      Range<PhysAddr> piece = left[at];
      if (piece.size() > want) piece.end = piece.begin + want;
      want -= piece.size();
      left[at].begin = piece.end;
      if (left[at].empty()) ++at;
      memblock_.set_node(piece, Nid(static_cast<int>(i)));
      installed_.emplace_back(piece, Nid(static_cast<int>(i)));
      log("ACPI: SRAT: Node {0} PXM {0} [mem {1:#010x}-{2:#010x}]", i, piece.begin.value(), piece.end.value() - 1);
    }
  }
  return {};
}

// Nodes that name their memory: what is on none of them is not memory.
BootStatus PhysBoot::take_node_memory() {
  RangeSet covered;
  for (std::size_t i = 0; i < config_.nodes.size(); ++i) {
    const Nid nid(static_cast<int>(i));
    std::uint64_t bytes = 0;
    for (const Range<PhysAddr>& given : config_.nodes[i].memory) {
      const Range<PhysAddr> range{align_up(given.begin, kPageSize), align_down(given.end, kPageSize)};
      if (range.empty()) continue;
      for (const MemblockRegion& m : memblock_.memory()) bytes += m.range.intersect(range).size();
      memblock_.set_node(range, nid);
      covered.add(range);
      log("ACPI: SRAT: Node {0} PXM {0} [mem {1:#010x}-{2:#010x}]", i, range.begin.value(), range.end.value() - 1);
    }
    node_bytes_.push_back(bytes);
  }
  for (const Range<PhysAddr>& gap : covered.gaps({PhysAddr(0), memblock_.end_of_dram()})) memblock_.remove(gap);
  if (memblock_.memory().empty()) {
    return boot_error("the nodes' ranges hold no usable memory; name ranges that the firmware's map calls usable");
  }
  return {};
}

BootStatus PhysBoot::alloc_node_data() {
  if (config_.arch != Arch::kX86_64) return {};  // one node, whose data is part of the kernel
  for (std::size_t i = 0; i < node_bytes_.size(); ++i) {
    const Nid nid(static_cast<int>(i));
    const auto at = boot_alloc({.size = kNodeDataBytes, .align = 64, .nid = nid});
    if (!at) return std::unexpected(too_small("node data"));
    if (node_bytes_[i] == 0) continue;
    log("NODE_DATA({}) allocated [mem {:#010x}-{:#010x}]", i, at->value(), at->value() + kNodeDataBytes - 1);
  }
  return {};
}

void PhysBoot::create_nodes() {
  PhysMem& mem = *mem_;
  const std::size_t n = node_bytes_.size();
  sim::LockClass& zone_lock = scheduler_.locks().lock_class("zone_lock");
  for (std::size_t i = 0; i < n; ++i) {
    const Nid nid(static_cast<int>(i));
    mem.nodes_.push_back(std::make_unique<Node>(nid, scheduler_, zone_lock, config_.cpus));
    Node& node = *mem.nodes_.back();
    if (i < config_.nodes.size()) node.distance_ = config_.nodes[i].distances;
    for (std::size_t j = node.distance_.size(); j < n; ++j) {
      node.distance_.push_back(i == j ? kLocalDistance : kRemoteDistance);
    }
  }
  const bool cpus_given = std::ranges::any_of(config_.nodes, [](const NodeConfig& c) { return !c.cpus.empty(); });
  mem.cpu_to_node_.assign(config_.cpus, Nid(0));
  for (unsigned cpu = 0; cpu < config_.cpus; ++cpu) {
    std::size_t home = cpus_given ? 0 : cpu % n;
    for (std::size_t i = 0; i < config_.nodes.size(); ++i) {
      if (std::ranges::find(config_.nodes[i].cpus, cpu) != config_.nodes[i].cpus.end()) home = i;
    }
    mem.cpu_to_node_[cpu] = Nid(static_cast<int>(home));
    mem.nodes_[home]->cpus_.push_back(cpu);
  }
  mem.zones_by_id_.assign(n * 8, nullptr);
  for (const auto& node : mem.nodes_) {
    node->for_each_zone([&](Zone& zone) {
      const auto id = static_cast<std::size_t>(node->nid().value()) * 8 + static_cast<std::size_t>(zone.type());
      mem.zones_by_id_[id] = &zone;
    });
  }
}

void PhysBoot::build_all_zonelists() {
  PhysMem& mem = *mem_;
  // With so little memory each type's first page would take a large part of it; 2.4 does not know the types at all.
  constexpr std::uint64_t kTypesOfReference = kMigrateTypes - 1;  // the reference kernel is built without CMA
  mem.page_group_by_mobility_ =
      total_pages() >= kPageblockPages * kTypesOfReference && config_.alloc_policy != AllocPolicyKind::kLinux24;
  for (const std::string& line : mem.build_all_zonelists(PhysMem::CpusOnNodes::kNotYet)) log("{}", line);
  ZoneType policy_zone = ZoneType::kDma;
  mem.for_each_populated_zone([&](Zone& zone) {
    if (zone.type() <= ZoneType::kNormal) policy_zone = std::max(policy_zone, zone.type());
  });
  log("Built {} zonelists, mobility grouping {}.  Total pages: {}", mem.nodes_.size(),
      mem.page_group_by_mobility_ ? "on" : "off", total_pages());
  if (config_.arch == Arch::kX86_64) log("Policy zone: {}", zone_name(policy_zone));
}

}  // namespace quire::phys
