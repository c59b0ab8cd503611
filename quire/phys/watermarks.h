// How many pages each zone keeps back: the min/low/high watermarks, the protection of low zones against requests that
// could be served higher up (lowmem_reserve), and the sizes of the per-CPU lists that follow from them. Formulas and
// order of computation as in Linux 6.1 (mm/page_alloc.c's init_per_zone_wmark_min and what it calls).
//
// All of it follows from each zone's managed pages at the moment of computing.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quire/phys/node.h"
#include "quire/phys/phys_config.h"

namespace quire::phys {

struct WatermarkTunables {
  // Whose formula: 2.4 gives each zone a 128th of its pages (20 … 255) as min, twice and three times that as low and high,
  // and protects no zone; 4.0 has low and high a quarter and a half above min.
  AllocPolicyKind rule = AllocPolicyKind::kLinux6;
  Arch arch = Arch::kX86_64;
  std::uint64_t min_free_kbytes = 0;  // 2.4: 0: as it computes
  std::uint32_t watermark_scale_factor = 10;
  std::vector<std::uint32_t> lowmem_reserve_ratio;  // by the kernel's zone numbers
  std::uint32_t percpu_pagelist_high_fraction = 0;
};

class Watermarks {
 public:
  using Nodes = std::span<const std::unique_ptr<Node>>;

  explicit Watermarks(Nodes nodes) : nodes_(nodes) {}

  // Pages above the high watermark in zones that a GFP_USER request may use.
  [[nodiscard]] std::uint64_t nr_free_buffer_pages() const;
  // sqrt(16 × lowmem in KiB), between 128 KiB and 256 MiB.
  [[nodiscard]] std::uint64_t calculate_min_free_kbytes() const;
  // What khugepaged wants so that each migrate type finds a pageblock of its own.
  [[nodiscard]] std::uint64_t recommended_min_free_kbytes() const;

  // Sets every zone's watermarks (and takes boosts back), per-CPU list sizes, stat thresholds and protection; gives
  // totalreserve_pages.
  std::uint64_t setup(const WatermarkTunables& tunables);
  // The parts of it that a tunable's handler recomputes: watermarks with per-CPU list sizes, per-CPU list sizes alone, and
  // protection. Each gives totalreserve_pages.
  std::uint64_t update_wmarks(const WatermarkTunables& tunables);
  std::uint64_t update_protection(const WatermarkTunables& tunables);
  void update_pagesets(const WatermarkTunables& tunables);
  // How far a CPU's part of a zone's counters may drift, by the zone's size and the number of CPUs.
  void refresh_zone_stat_thresholds();

 private:
  void setup_per_zone_wmarks(const WatermarkTunables& tunables);
  [[nodiscard]] bool is_highmem(const Zone& zone, const WatermarkTunables& tunables) const;
  static void set_highmem_marks(Zone& zone, std::uint64_t share, const WatermarkTunables& tunables);
  static void set_marks(Zone& zone, std::uint64_t min, const WatermarkTunables& tunables);
  void setup_per_zone_lowmem_reserve(const WatermarkTunables& tunables);
  void zone_pcp_update(Zone& zone, const WatermarkTunables& tunables) const;
  [[nodiscard]] std::uint64_t calculate_totalreserve_pages() const;
  [[nodiscard]] unsigned online_cpus() const;

  Nodes nodes_;
};

}  // namespace quire::phys
