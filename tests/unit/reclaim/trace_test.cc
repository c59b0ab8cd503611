// The tracepoints say what the counters say, under the names and fields of 6.1.
#include <map>
#include <string>

#include "reclaim_machine.h"

namespace quire::reclaim {
namespace {

using Sums = std::map<std::string, std::map<std::string, std::int64_t>>;

void listen_all(ReclaimMachine& m, Sums& sums, std::map<std::string, std::vector<std::string>>& fields) {
  for (TracepointBase* t : m.traces.all()) {
    if (t->name().substr(0, 9) != "mm_vmscan") continue;
    t->listen([&](const EventView& event) {
      auto& sum = sums[std::string(event.name())];
      auto& names = fields[std::string(event.name())];
      const bool first = names.empty();
      ++sum["events"];
      event.fields([&](std::string_view name, FieldValue value) {
        if (first) names.emplace_back(name);
        if (const auto* u = std::get_if<std::uint64_t>(&value)) sum[std::string(name)] += static_cast<std::int64_t>(*u);
      });
    });
  }
}

TEST(ReclaimTrace, AgreesWithTheCounters) {
  ReclaimMachine m;
  m.add_zram(64 * kMiB);
  Sums sums;
  std::map<std::string, std::vector<std::string>> fields;
  listen_all(m, sums, fields);
  m.run([&] {
    Space space(m, 8000);
    Rng rng(1);
    for (int n = 0; n < 30000; ++n) ASSERT_NE(space.write(rng.below(space.size()), 1), Space::Touch::kNoMemory);
    space.clear();
  });
  auto& inactive = sums["mm_vmscan_lru_shrink_inactive"];
  EXPECT_EQ(inactive["nr_scanned"], m.event(VmEvent::kPgscanKswapd) + m.event(VmEvent::kPgscanDirect));
  EXPECT_EQ(inactive["nr_reclaimed"], m.event(VmEvent::kPgstealKswapd) + m.event(VmEvent::kPgstealDirect));
  EXPECT_EQ(inactive["nr_activate_anon"] + inactive["nr_activate_file"], m.event(VmEvent::kPgactivate));
  EXPECT_EQ(sums["mm_vmscan_lru_shrink_active"]["nr_deactivated"], m.event(VmEvent::kPgdeactivate));
  EXPECT_EQ(sums["mm_vmscan_write_folio"]["events"], m.node_stat(phys::NodeStat::kNrVmscanWrite));
  EXPECT_EQ(sums["mm_vmscan_kswapd_wake"]["events"], m.event(VmEvent::kPageoutrun));
  EXPECT_EQ(fields["mm_vmscan_lru_isolate"], (std::vector<std::string>{"isolate_mode", "classzone", "order", "nr_requested",
                                                                       "nr_scanned", "nr_skipped", "nr_taken", "lru"}));
  EXPECT_EQ(
      fields["mm_vmscan_lru_shrink_inactive"],
      (std::vector<std::string>{"nid", "nr_scanned", "nr_reclaimed", "nr_dirty", "nr_writeback", "nr_congested", "nr_immediate",
                                "nr_activate_anon", "nr_activate_file", "nr_ref_keep", "nr_unmap_fail", "priority", "flags"}));
}

}  // namespace
}  // namespace quire::reclaim
