#include "quire/phys/watermarks.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace quire::phys {

namespace {

constexpr std::uint64_t kMinFreeKbytesFloor = 128;
constexpr std::uint64_t kMinFreeKbytesCeiling = 262144;
constexpr std::uint64_t kKbytesPerPage = kPageSize / kKiB;

std::uint64_t int_sqrt(std::uint64_t x) {
  auto root = static_cast<std::uint64_t>(std::sqrt(static_cast<double>(x)));
  while (root * root > x) --root;
  while ((root + 1) * (root + 1) <= x) ++root;
  return root;
}

// Both factors are page counts or smaller tunables: below 2^36 and 2^28.
std::uint64_t mult_div(std::uint64_t a, std::uint64_t b, std::uint64_t divisor) { return a * b / divisor; }

std::int32_t zone_batchsize(const Zone& zone) {
  // A thousandth of the zone, at most 1 MiB, in quarters: one below a power of two spreads pages over cache sets.
  std::uint64_t batch = std::min<std::uint64_t>(zone.managed_pages() >> 10, kMiB / kPageSize) / 4;
  batch = std::max<std::uint64_t>(batch, 1);
  return static_cast<std::int32_t>(std::bit_floor(batch + batch / 2) - 1);
}

}  // namespace

unsigned Watermarks::online_cpus() const {
  std::size_t n = 0;
  for (const auto& node : nodes_) n += node->cpus().size();
  return static_cast<unsigned>(n);
}

std::uint64_t Watermarks::nr_free_buffer_pages() const {
  std::uint64_t sum = 0;
  for (const auto& node : nodes_) {
    node->for_each_zone([&](const Zone& zone) {
      if (zone.type() > ZoneType::kNormal) return;
      const std::uint64_t high = zone.wmark_pages(Watermark::kHigh);
      if (zone.managed_pages() > high) sum += zone.managed_pages() - high;
    });
  }
  return sum;
}

std::uint64_t Watermarks::calculate_min_free_kbytes() const {
  const std::uint64_t lowmem_kbytes = nr_free_buffer_pages() * kKbytesPerPage;
  return std::clamp(int_sqrt(lowmem_kbytes * 16), kMinFreeKbytesFloor, kMinFreeKbytesCeiling);
}

std::uint64_t Watermarks::recommended_min_free_kbytes() const {
  std::uint64_t zones = 0;
  for (const auto& node : nodes_) {
    node->for_each_zone([&](const Zone& zone) {
      if (zone.populated() && zone.type() <= ZoneType::kNormal) ++zones;
    });
  }
  // Two pageblocks a zone to stay ahead of fragmentation, and one for each pair of fallback types.
  std::uint64_t pages = kPageblockPages * zones * 2 + kPageblockPages * zones * kMigratePcpTypes * kMigratePcpTypes;
  pages = std::min(pages, nr_free_buffer_pages() / 20);
  return pages * kKbytesPerPage;
}

std::uint64_t Watermarks::setup(const WatermarkTunables& tunables) {
  setup_per_zone_wmarks(tunables);
  refresh_zone_stat_thresholds();
  if (tunables.rule != AllocPolicyKind::kLinux24) setup_per_zone_lowmem_reserve(tunables);
  return calculate_totalreserve_pages();
}

std::uint64_t Watermarks::update_wmarks(const WatermarkTunables& tunables) {
  setup_per_zone_wmarks(tunables);
  return calculate_totalreserve_pages();
}

std::uint64_t Watermarks::update_protection(const WatermarkTunables& tunables) {
  if (tunables.rule != AllocPolicyKind::kLinux24) setup_per_zone_lowmem_reserve(tunables);
  return calculate_totalreserve_pages();
}

void Watermarks::update_pagesets(const WatermarkTunables& tunables) {
  for (const auto& node : nodes_) {
    node->for_each_zone([&](Zone& zone) { zone_pcp_update(zone, tunables); });
  }
}

void Watermarks::setup_per_zone_wmarks(const WatermarkTunables& tunables) {
  const std::uint64_t pages_min = tunables.min_free_kbytes / kKbytesPerPage;
  std::uint64_t lowmem_pages = 0;
  for (const auto& node : nodes_) {
    node->for_each_zone([&](const Zone& zone) { lowmem_pages += is_highmem(zone, tunables) ? 0 : zone.managed_pages(); });
  }
  for (const auto& node : nodes_) {
    node->for_each_zone([&](Zone& zone) {
      const std::uint64_t min = lowmem_pages == 0 ? 0 : mult_div(pages_min, zone.managed_pages(), lowmem_pages);
      if (is_highmem(zone, tunables)) {
        set_highmem_marks(zone, min, tunables);
      } else {
        set_marks(zone, min, tunables);
      }
      zone_pcp_update(zone, tunables);
    });
  }
}

// HighMem, and ZONE_MOVABLE where that is cut from it.
bool Watermarks::is_highmem(const Zone& zone, const WatermarkTunables& tunables) const {
  if (tunables.arch == Arch::kX86_64) return false;
  if (zone.type() == ZoneType::kHighMem) return true;
  if (zone.type() != ZoneType::kMovable) return false;
  return std::ranges::any_of(nodes_, [](const auto& node) { return node->zone(ZoneType::kHighMem).spanned_pages() != 0; });
}

// The kernel's own requests cannot use it, so it needs no reserve for them: a few pages that are quickly found.
void Watermarks::set_highmem_marks(Zone& zone, std::uint64_t share, const WatermarkTunables& tunables) {
  constexpr std::uint64_t kSwapClusterMax = 32;
  const std::uint64_t min = std::clamp<std::uint64_t>(zone.managed_pages() / 1024, kSwapClusterMax, 128);
  std::uint64_t gap = share / 4;
  if (tunables.rule == AllocPolicyKind::kLinux24) return set_marks(zone, 0, tunables);
  if (tunables.rule == AllocPolicyKind::kLinux6) {
    gap = std::max(gap, mult_div(zone.managed_pages(), tunables.watermark_scale_factor, 10000));
  }
  zone.watermark_boost_ = 0;
  zone.watermark_ = {min, min + gap, min + 2 * gap, min + 3 * gap};
}

void Watermarks::set_marks(Zone& zone, std::uint64_t min, const WatermarkTunables& tunables) {
  constexpr std::uint64_t kZoneBalanceRatio = 128;
  constexpr std::uint64_t kZoneBalanceMin = 20;
  constexpr std::uint64_t kZoneBalanceMax = 255;
  zone.watermark_boost_ = 0;
  std::uint64_t gap = min / 4;
  switch (tunables.rule) {
    case AllocPolicyKind::kLinux24:
      if (tunables.min_free_kbytes == 0 && zone.managed()) {
        min = std::clamp(zone.managed_pages() / kZoneBalanceRatio, kZoneBalanceMin, kZoneBalanceMax);
      }
      gap = min;
      break;
    case AllocPolicyKind::kLinux40: break;
    case AllocPolicyKind::kLinux6:
      gap = std::max(gap, mult_div(zone.managed_pages(), tunables.watermark_scale_factor, 10000));
      break;
  }
  zone.watermark_ = {min, min + gap, min + 2 * gap, min + 3 * gap};
}

void Watermarks::zone_pcp_update(Zone& zone, const WatermarkTunables& tunables) const {
  const std::int32_t batch = std::max(1, zone_batchsize(zone));
  const std::uint64_t total = tunables.percpu_pagelist_high_fraction == 0
                                  ? zone.wmark_pages(Watermark::kLow)
                                  : zone.managed_pages() / tunables.percpu_pagelist_high_fraction;
  std::uint64_t sharers = zone.node().cpus().size();
  if (sharers == 0) sharers = online_cpus();
  const auto high = static_cast<std::int32_t>(total / std::max<std::uint64_t>(sharers, 1));
  const bool no_lists = tunables.rule == AllocPolicyKind::kLinux24;  // a high mark of 0 sends each page on to the buddy
  zone.pageset_batch_ = no_lists ? 1 : batch;
  zone.pageset_high_ = no_lists ? 0 : std::max(high, batch * 4);
  for (unsigned cpu = 0; cpu < zone.cpus_; ++cpu) {
    zone.pcp_[cpu].batch = zone.pageset_batch_;
    zone.pcp_[cpu].high = zone.populated() ? zone.pageset_high_ : 0;
  }
}

void Watermarks::setup_per_zone_lowmem_reserve(const WatermarkTunables& tunables) {
  const std::vector<std::uint32_t>& ratios = tunables.lowmem_reserve_ratio;
  for (const auto& node : nodes_) {
    for (unsigned low = 0; low + 1 < kZoneTypes; ++low) {
      Zone& zone = node->zone(static_cast<ZoneType>(low));
      const auto index = static_cast<std::size_t>(zone_index(tunables.arch, zone.type()));
      const std::uint32_t ratio = index < ratios.size() ? ratios[index] : 0;
      const bool none = ratio == 0 || zone.managed_pages() == 0;
      std::uint64_t above = 0;
      for (unsigned high = low + 1; high < kZoneTypes; ++high) {
        above += node->zone(static_cast<ZoneType>(high)).managed_pages();
        zone.lowmem_reserve_[high] = none ? 0 : static_cast<std::int64_t>(above / ratio);
      }
    }
  }
}

void Watermarks::refresh_zone_stat_thresholds() {
  constexpr unsigned kShift128MiB = 27 - kPageShift;
  constexpr std::uint32_t kMaxThreshold = 125;
  for (const auto& node : nodes_) {
    node->for_each_zone([&](Zone& zone) {
      const std::uint64_t mem = zone.managed_pages() >> kShift128MiB;
      const auto threshold = static_cast<std::uint32_t>(2 * std::bit_width(online_cpus()) * (1 + std::bit_width(mem)));
      zone.stat_threshold_ = std::min(threshold, kMaxThreshold);
    });
  }
}

std::uint64_t Watermarks::calculate_totalreserve_pages() const {
  std::uint64_t total = 0;
  for (const auto& node : nodes_) {
    node->for_each_zone([&](const Zone& zone) {
      std::uint64_t most = 0;
      for (unsigned i = static_cast<unsigned>(zone.type()); i < kZoneTypes; ++i) {
        most = std::max(most, static_cast<std::uint64_t>(zone.lowmem_reserve(static_cast<ZoneType>(i))));
      }
      total += std::min(most + zone.wmark_pages(Watermark::kHigh), zone.managed_pages());
    });
  }
  return total;
}

}  // namespace quire::phys
