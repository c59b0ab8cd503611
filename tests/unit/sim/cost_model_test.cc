#include "quire/sim/cost_model.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace quire::sim {
namespace {

TEST(CostModel, EveryFieldIsNamedOnceAndHasASource) {
  std::set<std::string_view> names;
  for (const CostModel::Entry& e : CostModel::entries()) {
    EXPECT_TRUE(names.insert(e.name).second) << e.name;
    EXPECT_FALSE(e.source.empty()) << e.name;
    EXPECT_TRUE(e.unit == "ns" || e.unit == "ps" || e.unit == "bytes/s") << e.name;
  }
  EXPECT_TRUE(names.contains("page_fault_entry"));
}

TEST(CostModel, SetChangesTheNamedFieldAlone) {
  CostModel costs;
  const CostModel defaults;
  ASSERT_TRUE(costs.set("ipi", 77));
  EXPECT_EQ(costs.ipi, 77u);
  costs.ipi = defaults.ipi;
  EXPECT_EQ(costs, defaults);
}

TEST(CostModel, SetRefusesUnknownNamesAndZeroBandwidth) {
  CostModel costs;
  EXPECT_EQ(costs.set("no_such_cost", 1).error(), Errno::kNoEnt);
  EXPECT_EQ(costs.set("disk_bandwidth", 0).error(), Errno::kInval);
  EXPECT_EQ(costs, CostModel());
}

TEST(CostModel, ForEachGivesCurrentValues) {
  CostModel costs;
  costs.wakeup = 4242;
  bool seen = false;
  costs.for_each([&](std::string_view name, std::uint64_t value) { seen |= name == "wakeup" && value == 4242; });
  EXPECT_TRUE(seen);
}

TEST(CostModel, TransferTimeRoundsUpAndDoesNotOverflow) {
  EXPECT_EQ(CostModel::transfer_time(1, 1'000'000'000), 1u);
  EXPECT_EQ(CostModel::transfer_time(4096, 2'000'000'000), 2048u);
  EXPECT_EQ(CostModel::transfer_time(1, 3'000'000'000), 1u);
  EXPECT_EQ(CostModel::transfer_time(std::uint64_t{1} << 40, std::uint64_t{1} << 30), 1024 * kSecond);
  CostModel costs;
  costs.instruction_ps = 300;
  EXPECT_EQ(costs.instructions(1'000'000), 300'000u);
}

}  // namespace
}  // namespace quire::sim
