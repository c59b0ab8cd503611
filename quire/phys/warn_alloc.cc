// What the kernel's log says of an allocation that failed: the request, then the state of memory (warn_alloc, show_mem,
// show_free_areas), in Linux's lines. Composed only when somebody reads the log.
#include <fmt/format.h>

#include "quire/phys/phys_mem.h"

namespace quire::phys {

namespace {

constexpr sim::Nanos kWarnInterval = 5'000'000'000;  // DEFAULT_RATELIMIT_INTERVAL
constexpr unsigned kWarnBurst = 10;                  // DEFAULT_RATELIMIT_BURST
constexpr std::uint64_t kKiBPerPage = kPageSize / kKiB;

std::uint64_t pcp_pages(const Zone& zone) {
  std::uint64_t pages = 0;
  for (unsigned cpu = 0; cpu < zone.cpus(); ++cpu) pages += static_cast<std::uint64_t>(zone.pcp(cpu).count);
  return pages;
}

}  // namespace

bool PhysMem::warn_ratelimited() {
  const sim::Nanos now = scheduler_.now();
  if (warned_ == 0 || now - warn_interval_began_ >= kWarnInterval) {
    warn_interval_began_ = now;
    warned_ = 0;
  }
  return warned_++ < kWarnBurst;
}

void PhysMem::warn_alloc(const AllocContext& ac) {
  if (log_sink_) warn_alloc(ac.gfp, fmt::format("page allocation failure: order:{}", ac.order.value()));
}

void PhysMem::warn_alloc(Gfp gfp, std::string_view what) {
  if (!log_sink_ || any(gfp, Gfp::kNoWarn) || !warn_ratelimited()) return;
  std::string allowed = "0";
  if (nodes_.size() > 1) allowed += fmt::format("-{}", nodes_.size() - 1);
  log_line(fmt::format("{}: {}, mode:{:#x}({}), nodemask=(null),cpuset=/,mems_allowed={}", scheduler_.context().name(), what,
                       bits(gfp), gfp_names(gfp), allowed));
  show_mem();
}

void PhysMem::show_mem() {
  const auto node_pages = [this](NodeStat s) { return global_node_page_state(s); };
  std::uint64_t free_pcp = 0;
  for_each_populated_zone([&](const Zone& zone) { free_pcp += pcp_pages(zone); });
  log_line("Mem-Info:");
  log_line(fmt::format("active_anon:{} inactive_anon:{} isolated_anon:{}", node_pages(NodeStat::kNrActiveAnon),
                       node_pages(NodeStat::kNrInactiveAnon), node_pages(NodeStat::kNrIsolatedAnon)));
  log_line(fmt::format(" active_file:{} inactive_file:{} isolated_file:{}", node_pages(NodeStat::kNrActiveFile),
                       node_pages(NodeStat::kNrInactiveFile), node_pages(NodeStat::kNrIsolatedFile)));
  log_line(fmt::format(" unevictable:{} dirty:{} writeback:{}", node_pages(NodeStat::kNrUnevictable),
                       node_pages(NodeStat::kNrDirty), node_pages(NodeStat::kNrWriteback)));
  log_line(fmt::format(" slab_reclaimable:{} slab_unreclaimable:{}", node_pages(NodeStat::kNrSlabReclaimable),
                       node_pages(NodeStat::kNrSlabUnreclaimable)));
  log_line(fmt::format(" mapped:{} shmem:{} pagetables:{}", node_pages(NodeStat::kNrMapped), node_pages(NodeStat::kNrShmem),
                       node_pages(NodeStat::kNrPageTablePages)));
  log_line(fmt::format(" kernel_misc_reclaimable:{}", node_pages(NodeStat::kNrKernelMiscReclaimable)));
  log_line(fmt::format(" free:{} free_pcp:{} free_cma:{}", global_zone_page_state(ZoneStat::kNrFreePages), free_pcp,
                       global_zone_page_state(ZoneStat::kNrFreeCma)));
  for_each_populated_zone([&](const Zone& zone) { show_zone(zone); });
  log_line(fmt::format("{} total pagecache pages", node_pages(NodeStat::kNrFilePages)));
}

// One zone: its marks and what lies in it, what it keeps from requests that could go higher, its free blocks.
void PhysMem::show_zone(const Zone& zone) {
  const auto kib = [](std::uint64_t pages) { return pages * kKiBPerPage; };
  const auto state = [&](ZoneStat s) { return kib(static_cast<std::uint64_t>(zone.state(s))); };
  const std::string head = fmt::format("Node {} {}", zone.node().nid().value(), zone.name());
  log_line(fmt::format(
      "{} free:{}kB boost:{}kB min:{}kB low:{}kB high:{}kB reserved_highatomic:{}KB active_anon:{}kB inactive_anon:{}kB "
      "active_file:{}kB inactive_file:{}kB unevictable:{}kB writepending:{}kB present:{}kB managed:{}kB mlocked:{}kB "
      "bounce:{}kB "
      "free_pcp:{}kB local_pcp:{}kB free_cma:{}kB",
      head, kib(zone.free_pages()), kib(zone.watermark_boost()), kib(zone.wmark_pages(Watermark::kMin)),
      kib(zone.wmark_pages(Watermark::kLow)), kib(zone.wmark_pages(Watermark::kHigh)), kib(zone.nr_reserved_highatomic()),
      state(ZoneStat::kNrZoneActiveAnon), state(ZoneStat::kNrZoneInactiveAnon), state(ZoneStat::kNrZoneActiveFile),
      state(ZoneStat::kNrZoneInactiveFile), state(ZoneStat::kNrZoneUnevictable), state(ZoneStat::kNrZoneWritePending),
      kib(zone.present_pages()), kib(zone.managed_pages()), state(ZoneStat::kNrMlock), state(ZoneStat::kNrBounce),
      kib(pcp_pages(zone)), kib(static_cast<std::uint64_t>(zone.pcp(scheduler_.cpu()).count)), state(ZoneStat::kNrFreeCma)));
  std::string reserve = "lowmem_reserve[]:";
  for_each_zone_type([&](ZoneType type) { reserve += fmt::format(" {}", zone.lowmem_reserve(type)); });
  log_line(reserve);

  std::string blocks = head + ":";
  std::uint64_t total = 0;
  for (unsigned order = 0; order < kNrOrders; ++order) {
    const std::uint64_t n = zone.nr_free(Order(order));
    total += n << order;
    std::string types;
    for (unsigned type = 0; type < kMigrateTypes && n != 0; ++type) {
      if (!zone.free_area(Order(order)).free_list[type].empty()) types += "UMEHCI"[type];
    }
    blocks += fmt::format(" {}*{}kB{}", n, kib(std::uint64_t{1} << order), types.empty() ? "" : fmt::format(" ({})", types));
  }
  log_line(fmt::format("{} = {}kB", blocks, kib(total)));
}

}  // namespace quire::phys
