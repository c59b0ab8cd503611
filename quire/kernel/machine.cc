#include "quire/kernel/machine.h"

#include <fmt/format.h>

#include <optional>

#include "quire/base/size.h"
#include "quire/kernel/slab_options.h"
#include "quire/kernel/tlb_options.h"
#include "quire/swap/disk_swap.h"

namespace quire::kernel {

namespace {

sim::SchedulerConfig scheduler_config(const MachineConfig& config) {
  sim::SchedulerConfig out;
  out.cpus = config.cpus;
  out.seed = config.seed;
  // A real machine's wake-ups are never exactly as late as each other; the seed says how late.
  out.wakeup_jitter = 200;
  out.preempt_permille = static_cast<unsigned>(config.preempt_permille);
  return out;
}

phys::PhysConfig phys_config(const MachineConfig& config) {
  phys::PhysConfig out;
  out.ram_bytes = config.ram;
  out.firmware_map = config.firmware_map;
  out.cmdline = config.cmdline;
  std::uint64_t plugged = 0;
  for (const PlugSpec& spec : config.plug) plugged += spec.bytes;
  const auto modules = std::ranges::count_if(config.plug, [](const PlugSpec& spec) { return !spec.region; });
  out.max_ram_bytes = config.ram + plugged;
  out.memory_slots = static_cast<unsigned>(modules);
  out.cpus = config.cpus;
  out.kernel_reserved = config.kernel_reserved;
  out.data_mode = config.data_mode;
  out.arch = find_arch(config.arch).value_or(phys::Arch::kX86_64);
  const std::string& alloc_policy = config.alloc_policy.empty() ? config.profile : config.alloc_policy;
  out.alloc_policy = phys::find_alloc_policy(alloc_policy).value_or(phys::AllocPolicyKind::kLinux6);
  out.nodes = config.node;
  if (config.recorded) out.recorded = *config.recorded;
  for (unsigned n = 0; n < config.nodes && config.nodes > 1 && config.node.empty(); ++n) {
    const std::uint64_t even = align_down(config.ram / config.nodes, kPageSize);
    const std::uint64_t rest = n + 1 == config.nodes ? config.ram - even * config.nodes : 0;
    out.nodes.push_back({.bytes = config.node_ram.empty() ? even + rest : config.node_ram[n], .cpus = {}, .distances = {}});
  }
  const auto tunable = [&config](std::string_view name) -> std::optional<std::uint64_t> {
    const auto it = config.sysctl.find(std::string(name));
    return it == config.sysctl.end() ? std::nullopt : std::optional(static_cast<std::uint64_t>(it->second));
  };
  out.min_free_kbytes = tunable("vm.min_free_kbytes");
  out.watermark_scale_factor = static_cast<std::uint32_t>(tunable("vm.watermark_scale_factor").value_or(10));
  out.watermark_boost_factor = static_cast<std::uint32_t>(tunable("vm.watermark_boost_factor").value_or(15000));
  return out;
}

}  // namespace

Machine::Machine(const MachineConfig& config) : config_(config), faults_(config.seed) {}

Checked<std::unique_ptr<Machine>> Machine::boot(const MachineConfig& config) {
  if (auto ok = check(config); !ok) return std::unexpected(ok.error());
  sim::CostModel costs;
  for (const auto& [name, value] : config.cost) {
    if (!costs.set(name, static_cast<std::uint64_t>(value))) {
      return user_error(fmt::format("cost {} = {} is not possible: it must be above 0", name, value));
    }
  }
  std::unique_ptr<Machine> machine(new Machine(config));
  if (auto ok = machine->boot_phys(costs); !ok) return std::unexpected(ok.error());
  if (auto ok = machine->boot_memory_management(); !ok) return std::unexpected(ok.error());
  machine->apply_sysctl();
  if (auto ok = machine->plug_all(); !ok) return std::unexpected(ok.error());
  if (auto ok = machine->swapon_all(); !ok) return std::unexpected(ok.error());
  return machine;
}

Checked<void> Machine::boot_phys(const sim::CostModel& costs) {
  scheduler_ = std::make_unique<sim::Scheduler>(scheduler_config(config_), costs, traces_);
  auto phys = phys::PhysMem::boot(phys_config(config_), *scheduler_, traces_);
  if (!phys) return user_error(phys.error().message);
  phys_ = std::move(*phys);
  phys_->set_fault_injection(&faults_);
  return {};
}

Checked<void> Machine::boot_memory_management() {
  slab_ = std::make_unique<slab::SlabSystem>(*phys_, *scheduler_, slab_config(config_).value());
  slab_->set_fault_injection(&faults_);
  auto kernel_space = kvirt::KernelSpace::create(*phys_, *slab_, page_table_geometry(config_.arch));
  if (!kernel_space) {
    return user_error(
        fmt::format("RAM too small: {} hold no page tables for the kernel; boot with more --ram", format_size(config_.ram)));
  }
  kernel_space_ = std::move(*kernel_space);
  xa_nodes_ = std::make_unique<slab::XaNodeCache>(*slab_);
  lru_ = std::make_unique<lru::Lru>(*phys_, *scheduler_, traces_);
  swap_ = std::make_unique<swap::SwapSystem>(*phys_, *xa_nodes_, *lru_, *scheduler_);
  swap_->set_fault_injection(&faults_);
  vfs_ =
      std::make_unique<file::Vfs>(file::FileServices{*phys_, *slab_, *xa_nodes_, *lru_, *swap_, *scheduler_, faults_, traces_});
  vm_ = std::make_unique<vm::Vm>(vm::VmParts{*phys_, *scheduler_, *slab_, *lru_, *swap_, *vfs_, traces_},
                                 page_table_geometry(config_.arch), parse_tlb(config_.tlb).value());
  vm_->seed_layouts(config_.seed);
  // Programs run on x86-64 only; an i386 kernel's half has another shape.
  if (kernel_space_->layout().is_64bit()) vm_->pgtable().set_init_mm(&kernel_space_->init_mm());
  compaction_ = std::make_unique<compact::Compaction>(*vm_, traces_);
  actions_ = std::make_unique<reclaim::VmFolioActions>(*vm_, vfs_->filemap(), vfs_->writeback(), *swap_);
  reclaim_ =
      std::make_unique<reclaim::Reclaim>(reclaim::ReclaimParts{*phys_, *scheduler_, *slab_, *lru_, *swap_, *actions_, traces_},
                                         reclaim::make_reclaim_policy(config_.profile));
  pageout_ = std::make_unique<PageoutThroughReclaim>(*reclaim_);
  vm_->set_pageout(pageout_.get());
  shm_ = std::make_unique<Shm>(*slab_, *vfs_, *vm_);
  processes_ = std::make_unique<ProcessTable>(*phys_, *slab_, *kernel_space_, *vfs_, *vm_);
  reclaim_->set_oom_victims(processes_.get());
  reclaim_->set_compaction(compaction_.get());
  reclaim_->start();
  compaction_->start();
  vfs_->writeback().start_flusher();
  return {};
}

void Machine::apply_sysctl() {
  const auto apply = [this](std::string_view name, auto&& set) {
    const auto it = config_.sysctl.find(std::string(name));
    if (it != config_.sysctl.end()) set(it->second);
  };
  file::DirtyTunables& dirty = vfs_->writeback().tunables();
  vm::VmTunables& vm = vm_->tunables();
  apply("vm.swappiness", [&](auto v) { reclaim_->tunables().swappiness = static_cast<unsigned>(v); });
  apply("vm.oom_kill_allocating_task", [&](auto v) { reclaim_->tunables().oom_kill_allocating_task = v != 0; });
  apply("vm.zone_reclaim_mode", [&](auto v) { reclaim_->tunables().zone_reclaim_mode = static_cast<unsigned>(v); });
  apply("vm.min_unmapped_ratio", [&](auto v) { reclaim_->tunables().min_unmapped_ratio = static_cast<unsigned>(v); });
  apply("vm.min_slab_ratio", [&](auto v) { reclaim_->tunables().min_slab_ratio = static_cast<unsigned>(v); });
  apply("vm.page-cluster", [&](auto v) { swap_->tunables().page_cluster = static_cast<unsigned>(v); });
  apply("vm.dirty_ratio", [&](auto v) { dirty.dirty_ratio = static_cast<std::uint32_t>(v); });
  apply("vm.dirty_background_ratio", [&](auto v) { dirty.dirty_background_ratio = static_cast<std::uint32_t>(v); });
  apply("vm.dirty_expire_centisecs", [&](auto v) { dirty.dirty_expire_centisecs = static_cast<std::uint32_t>(v); });
  apply("vm.dirty_writeback_centisecs", [&](auto v) { dirty.dirty_writeback_centisecs = static_cast<std::uint32_t>(v); });
  compact::CompactionTunables& compaction = compaction_->tunables();
  apply("vm.compaction_proactiveness", [&](auto v) { compaction.compaction_proactiveness = static_cast<unsigned>(v); });
  apply("vm.extfrag_threshold", [&](auto v) { phys_->set_extfrag_threshold(static_cast<int>(v)); });
  apply("vm.compact_unevictable_allowed", [&](auto v) { compaction.compact_unevictable_allowed = v != 0; });
  apply("kernel.randomize_va_space", [&](auto v) { vm.randomize_va_space = static_cast<unsigned>(v); });
  apply("vm.legacy_va_layout", [&](auto v) { vm.legacy_va_layout = v != 0; });
  apply("vm.mmap_rnd_bits", [&](auto v) { vm.mmap_rnd_bits = static_cast<unsigned>(v); });
  apply("vm.max_map_count", [&](auto v) { vm.max_map_count = static_cast<int>(v); });
  apply("vm.mmap_min_addr", [&](auto v) { vm.mmap_min_addr = VirtAddr(static_cast<std::uint64_t>(v)); });
  apply("vm.overcommit_memory", [&](auto v) { vm.overcommit_memory = static_cast<vm::OvercommitMode>(v); });
  apply("vm.overcommit_ratio", [&](auto v) { vm.overcommit_ratio = static_cast<unsigned>(v); });
}

Checked<void> Machine::swapon_all() {
  for (unsigned i = 0; i < config_.swap.size(); ++i) {
    if (auto ok = swapon(config_.swap[i], i); !ok) return ok;
  }
  return {};
}

Checked<void> Machine::swapon(const SwapSpec& spec, unsigned index) {
  const auto refused = [&spec, this](Errno error) {
    return user_error(
        fmt::format("swap area of {}: {}; its tables must fit into the machine's {} of RAM, so make one "
                    "smaller or the other larger",
                    format_size(spec.bytes), errno_name(error), format_size(config_.ram)));
  };
  std::unique_ptr<swap::SwapDevice> device;
  if (spec.kind == SwapKind::kZram) {
    swap::ZramConfig config;
    config.name = fmt::format("/dev/zram{}", zrams_.size());
    config.disksize = align_down(spec.bytes, kPageSize);
    config.mem_limit = spec.limit.value_or(0);
    if (spec.ratio) config.ratio_permille = static_cast<unsigned>(*spec.ratio * 1000);
    auto zram = swap::Zram::create(config, *phys_, *slab_, *scheduler_);
    if (!zram) return refused(zram.error());
    zrams_.push_back(zram->get());
    device = std::move(*zram);
  } else {
    disks_.push_back(std::make_unique<sim::Disk>(*scheduler_, sim::DiskConfig::from_costs(scheduler_->costs()), &faults_));
    swap::DiskSwapConfig config;
    config.name = fmt::format("/dev/sd{}2", static_cast<char>('b' + index % 25));
    config.size = align_down(spec.bytes, kPageSize);
    auto disk = swap::DiskSwap::create(config, *disks_.back(), *phys_, *scheduler_);
    if (!disk) return refused(disk.error());
    device = std::move(*disk);
  }
  if (auto area = swap_->swapon(std::move(device), spec.priority); !area) return refused(area.error());
  return {};
}

Machine::~Machine() {
  // What sleeps (kswapd, the flusher, processes of an aborted run) lets go of what it holds while all of it still stands.
  if (scheduler_) scheduler_->unwind_tasks();
}

void Machine::settle() {
  const auto in_hand = [this] {
    using phys::NodeStat;
    std::int64_t pages = 0;
    for (const NodeStat stat : {NodeStat::kNrIsolatedAnon, NodeStat::kNrIsolatedFile, NodeStat::kNrWriteback}) {
      pages += phys_->global_node_page_state(stat);
    }
    return pages != 0;
  };
  for (unsigned seconds = 0; seconds < 60 && in_hand(); ++seconds) {
    static_cast<void>(scheduler_->run_until(scheduler_->now() + sim::kSecond));
  }
}

void Machine::validate() {
  scheduler_->validate();
  phys_->validate();
  slab_->validate();
  kernel_space_->validate();
  lru_->validate();
  swap_->validate();
  vfs_->validate();
  vm_->validate();
  reclaim_->validate();
  shm_->validate();
}

}  // namespace quire::kernel
