#include "quire/phys/phys_mem.h"

#include "quire/phys/cma.h"
#include "quire/phys/device_memory.h"
#include "quire/phys/memory_hotplug.h"
#include "quire/phys/watermarks.h"

namespace quire::phys {

PhysMem::PhysMem(const PhysConfig& config, sim::Scheduler& scheduler, TraceRegistry& traces, Arena arena)
    : scheduler_(scheduler),
      vmemmap_(arena.vmemmap()),
      base_(arena.base()),
      trace_(traces),
      alloc_cost_(scheduler.costs().alloc_page),
      free_cost_(scheduler.costs().free_page),
      config_(config),
      arena_(std::move(arena)),
      data_mode_(config.data_mode),
      // Older kernels know no boost.
      buddy_(vmemmap_, sparse_, trace_, *this,
             config.alloc_policy == AllocPolicyKind::kLinux6 ? config.watermark_boost_factor : 0),
      policy_(make_alloc_policy(config.alloc_policy)),
      page_waits_(scheduler, "folio"),
      oom_lock_(scheduler, scheduler.locks().lock_class("oom_lock")) {
  // Per-CPU lists of larger blocks came with 5.13; 2.4 has none at all, which its lists' high mark of 0 says.
  if (config.alloc_policy != AllocPolicyKind::kLinux6) pcp_max_order_ = Order(0);
}

PhysMem::~PhysMem() = default;

WatermarkTunables PhysMem::watermark_tunables() const {
  const bool of_2_4 = config_.alloc_policy == AllocPolicyKind::kLinux24;
  return {.rule = config_.alloc_policy,
          .arch = config_.arch,
          .min_free_kbytes = of_2_4 ? config_.min_free_kbytes.value_or(0) : min_free_kbytes_,
          .watermark_scale_factor = config_.watermark_scale_factor,
          .lowmem_reserve_ratio = config_.lowmem_reserve_ratio,
          .percpu_pagelist_high_fraction = config_.percpu_pagelist_high_fraction};
}

void PhysMem::update_watermarks() { totalreserve_pages_ = Watermarks(nodes_).setup(watermark_tunables()); }

// What Linux does at boot and whenever memory comes or goes. (At boot PhysBoot does it step by step.)
void PhysMem::init_per_zone_wmark_min() {
  Watermarks watermarks(nodes_);
  min_free_kbytes_ = std::max(user_min_free_kbytes_, watermarks.calculate_min_free_kbytes());
  update_watermarks();
  if (!khugepaged_) return;
  min_free_kbytes_ = std::max(min_free_kbytes_, watermarks.recommended_min_free_kbytes());
  update_watermarks();
}

void PhysMem::set_min_free_kbytes(std::uint64_t kib) {
  user_min_free_kbytes_ = kib;
  min_free_kbytes_ = kib;
  config_.min_free_kbytes = kib;
  totalreserve_pages_ = Watermarks(nodes_).update_wmarks(watermark_tunables());
}

void PhysMem::set_watermark_scale_factor(std::uint32_t factor) {
  config_.watermark_scale_factor = factor;
  totalreserve_pages_ = Watermarks(nodes_).update_wmarks(watermark_tunables());
}

void PhysMem::set_lowmem_reserve_ratio(std::span<const std::uint32_t> ratios) {
  config_.lowmem_reserve_ratio.assign(ratios.begin(), ratios.end());
  totalreserve_pages_ = Watermarks(nodes_).update_protection(watermark_tunables());
}

void PhysMem::set_percpu_pagelist_high_fraction(std::uint32_t fraction) {
  config_.percpu_pagelist_high_fraction = fraction;
  Watermarks(nodes_).update_pagesets(watermark_tunables());
}

std::int64_t PhysMem::global_node_page_state(NodeStat s) const {
  std::int64_t sum = 0;
  for (const auto& node : nodes_) sum += node->stats[s];
  return sum;
}

std::int64_t PhysMem::global_zone_page_state(ZoneStat s) const {
  std::int64_t sum = 0;
  for (const auto& node : nodes_) {
    node->for_each_zone([&](const Zone& zone) { sum += zone.stats[s]; });
  }
  return sum;
}

std::int64_t PhysMem::global_numa_state(NumaStat s) const {
  std::int64_t sum = 0;
  for (const auto& node : nodes_) {
    node->for_each_zone([&](const Zone& zone) { sum += zone.numa[s]; });
  }
  return sum;
}

std::uint64_t PhysMem::totalram_pages() const {
  std::uint64_t sum = 0;
  for (const auto& node : nodes_) sum += node->managed_pages();
  return sum;
}

MemInfo PhysMem::meminfo() const {
  MemInfo info;
  info.totalram = totalram_pages();
  info.freeram = static_cast<std::uint64_t>(global_zone_page_state(ZoneStat::kNrFreePages));
  for (const auto& node : nodes_) info.present += node->present_pages();
  info.totalreserve = totalreserve_pages_;
  return info;
}

}  // namespace quire::phys
