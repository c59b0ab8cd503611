// A whole machine: everything below, composed, booted in order, and torn down again.
//
//   Machine::boot(config)   scheduler → physical memory → slab → kernel space → LRU → swap → files → address spaces → reclaim →
//                           kswapd, flusher → swapon
//   processes()             make processes and give their threads something to run
//   run()                   until all of them have ended
//
// Nothing is global: machines live side by side in one host process, each confined to one host thread at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "quire/base/tracepoint.h"
#include "quire/base/user_error.h"
#include "quire/compact/compaction.h"
#include "quire/file/vfs.h"
#include "quire/kernel/machine_config.h"
#include "quire/kernel/process_table.h"
#include "quire/kernel/shm.h"
#include "quire/kvirt/kernel_space.h"
#include "quire/lru/lru.h"
#include "quire/phys/phys_mem.h"
#include "quire/reclaim/folio_actions.h"
#include "quire/reclaim/reclaim.h"
#include "quire/sim/disk.h"
#include "quire/sim/fault_injection.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/slab_system.h"
#include "quire/slab/xa_node_cache.h"
#include "quire/swap/swap_system.h"
#include "quire/swap/zram.h"
#include "quire/vm/vm.h"

namespace quire::kernel {

class Machine {
 public:
  // Checks the configuration and boots. The error names what is wrong with the figures, or what did not fit.
  static Checked<std::unique_ptr<Machine>> boot(const MachineConfig& config);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // Runs until every process has ended (or everything waits for ever, which the outcome tells).
  sim::RunOutcome run() { return scheduler_->run(); }

  [[nodiscard]] const MachineConfig& config() const { return config_; }
  [[nodiscard]] TraceRegistry& traces() { return traces_; }
  [[nodiscard]] sim::Scheduler& scheduler() { return *scheduler_; }
  [[nodiscard]] sim::FaultInjection& faults() { return faults_; }
  [[nodiscard]] phys::PhysMem& phys() { return *phys_; }
  [[nodiscard]] slab::SlabSystem& slab() { return *slab_; }
  [[nodiscard]] kvirt::KernelSpace& kernel_space() { return *kernel_space_; }
  [[nodiscard]] lru::Lru& lru() { return *lru_; }
  [[nodiscard]] swap::SwapSystem& swap() { return *swap_; }
  [[nodiscard]] file::Vfs& vfs() { return *vfs_; }
  [[nodiscard]] vm::Vm& vm() { return *vm_; }
  [[nodiscard]] compact::Compaction& compaction() { return *compaction_; }
  [[nodiscard]] reclaim::Reclaim& reclaim() { return *reclaim_; }
  [[nodiscard]] ProcessTable& processes() { return *processes_; }
  [[nodiscard]] Shm& shm() { return *shm_; }
  // zram devices among the swap areas, in the order of the configuration.
  [[nodiscard]] const std::vector<swap::Zram*>& zrams() const { return zrams_; }

  // After a run, in boot context: lets kswapd and the flusher finish what they have in hand (no folio isolated or under
  // writeback), for a minute of the machine's time at most.
  void settle();
  // Every structure of every floor; for a machine at rest (no task inside the kernel: settle() first).
  void validate();

 private:
  // madvise(MADV_PAGEOUT) asks reclaim, which stands above vm.
  class PageoutThroughReclaim final : public vm::Pageout {
   public:
    explicit PageoutThroughReclaim(reclaim::Reclaim& reclaim) : reclaim_(reclaim) {}
    std::uint64_t reclaim_pages(phys::FolioList& folios) override { return reclaim_.reclaim_folio_list(folios); }

   private:
    reclaim::Reclaim& reclaim_;
  };

  explicit Machine(const MachineConfig& config);
  Checked<void> boot_phys(const sim::CostModel& costs);
  Checked<void> boot_memory_management();
  void apply_sysctl();
  Checked<void> plug_all();
  Checked<Range<PhysAddr>> plug_module(const PlugSpec& spec, PhysAddr next);
  Checked<Range<PhysAddr>> plug_region(const PlugSpec& spec);
  Checked<void> swapon_all();
  Checked<void> swapon(const SwapSpec& spec, unsigned index);

  const MachineConfig config_;
  TraceRegistry traces_;
  sim::FaultInjection faults_;
  std::unique_ptr<sim::Scheduler> scheduler_;
  std::unique_ptr<phys::PhysMem> phys_;
  std::unique_ptr<slab::SlabSystem> slab_;
  std::unique_ptr<kvirt::KernelSpace> kernel_space_;
  std::unique_ptr<slab::XaNodeCache> xa_nodes_;
  std::unique_ptr<lru::Lru> lru_;
  std::vector<std::unique_ptr<sim::Disk>> disks_;
  std::unique_ptr<swap::SwapSystem> swap_;
  std::vector<swap::Zram*> zrams_;
  std::unique_ptr<file::Vfs> vfs_;
  std::unique_ptr<vm::Vm> vm_;
  std::unique_ptr<compact::Compaction> compaction_;
  std::unique_ptr<reclaim::VmFolioActions> actions_;
  std::unique_ptr<reclaim::Reclaim> reclaim_;
  std::unique_ptr<PageoutThroughReclaim> pageout_;
  std::unique_ptr<Shm> shm_;
  std::unique_ptr<ProcessTable> processes_;
};

}  // namespace quire::kernel
