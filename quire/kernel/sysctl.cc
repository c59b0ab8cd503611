#include "quire/kernel/sysctl.h"

#include <fmt/format.h>

#include <array>
#include <limits>
#include <vector>

#include "quire/base/nearest.h"

namespace quire::kernel {

namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kIntMax = std::numeric_limits<std::int32_t>::max();  // what proc_dointvec takes

// Defaults as Debian 12's 6.1 shows them in /proc/sys/vm.
constexpr std::array kRows = std::to_array<SysctlRow>({
    {"kernel.randomize_va_space", 2, 0, 2, "0: programs lie where they lie; 1: at random places; 2: their heap too"},
    {"vm.compact_unevictable_allowed", 1, 0, 1, "0: compaction leaves mlocked pages where they are"},
    {"vm.compaction_proactiveness", 20, 0, 100, "how eagerly kcompactd works of its own accord; 0: never"},
    {"vm.dirty_background_ratio", 10, 0, 100, "percent of available memory that may be dirty before the flusher starts"},
    {"vm.dirty_expire_centisecs", 3000, 0, kIntMax, "age at which the flusher writes a dirty page"},
    {"vm.dirty_ratio", 20, 0, 100, "percent of available memory that may be dirty before writers must wait"},
    {"vm.dirty_writeback_centisecs", 500, 0, kIntMax, "period of the flusher; 0 stops it"},
    {"vm.extfrag_threshold", 500, 0, 1000, "fragmentation index up to which reclaim is tried rather than compaction"},
    {"vm.legacy_va_layout", 0, 0, kIntMax, "not 0: mappings go upwards from a third of user space"},
    {"vm.max_map_count", 65530, 0, kIntMax, "areas that one process may have"},
    {"vm.min_free_kbytes", -1, 1, kIntMax, "free memory that the zones' min watermarks keep, KiB"},
    {"vm.min_slab_ratio", 5, 0, 100, "percent of a node in slabs from which zone reclaim shrinks them"},
    {"vm.min_unmapped_ratio", 1, 0, 100, "percent of a node in unmapped page cache that zone reclaim leaves alone"},
    {"vm.mmap_min_addr", 65536, 0, kMost, "lowest address that a program may map"},
    {"vm.mmap_rnd_bits", 28, 28, 32, "bits of a page number by which mappings are randomised"},
    {"vm.oom_kill_allocating_task", 0, 0, kIntMax, "not 0: the OOM killer takes the process that asked for memory"},
    {"vm.overcommit_memory", 0, 0, 2, "0 heuristic, 1 always, 2 never beyond the commit limit"},
    {"vm.overcommit_ratio", 50, 0, kIntMax, "percent of RAM in the commit limit of mode 2"},
    {"vm.page-cluster", 3, 0, 31, "swap readahead: 2^n pages at once"},
    {"vm.swappiness", 60, 0, 200, "weight of anonymous against file memory in reclaim"},
    {"vm.watermark_boost_factor", 15000, 0, kIntMax, "boost of watermarks after fragmenting fallbacks, 1/10000"},
    {"vm.watermark_scale_factor", 10, 1, 3000, "distance between watermarks, 1/10000 of the zone"},
    {"vm.zone_reclaim_mode", 0, 0, kIntMax,
     "1 reclaims a node's page cache before another node is used, 2 may write, 4 may unmap"},
});

}  // namespace

std::span<const SysctlRow> sysctl_rows() { return kRows; }

const SysctlRow* find_sysctl(std::string_view name) {
  for (const SysctlRow& row : kRows) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

Checked<void> check_sysctl(std::string_view name, std::int64_t value) {
  const SysctlRow* row = find_sysctl(name);
  if (row == nullptr) {
    std::vector<std::string_view> names;
    for (const SysctlRow& known : kRows) names.push_back(known.name);
    const std::string_view guess = nearest(name, names);
    return user_error(guess.empty() ? fmt::format("unknown tunable '{}'; known are: {}", name, fmt::join(names, ", "))
                                    : fmt::format("unknown tunable '{}'; did you mean '{}'?", name, guess));
  }
  if (value < row->least || value > row->most) {
    return user_error(row->most == kMost
                          ? fmt::format("{} = {} is out of range: the least is {}", name, value, row->least)
                          : fmt::format("{} = {} is out of range: from {} to {}", name, value, row->least, row->most));
  }
  return {};
}

}  // namespace quire::kernel
