#include "quire/sim/fault_injection.h"

#include <gtest/gtest.h>

#include <vector>

namespace quire::sim {
namespace {

std::vector<int> failing_calls(FaultInjection& faults, int calls, FaultPoint point = FaultPoint::kPageAlloc) {
  std::vector<int> failed;
  for (int i = 1; i <= calls; ++i) {
    if (faults.should_fail(point)) failed.push_back(i);
  }
  return failed;
}

TEST(FaultInjection, NothingFailsUnlessArmed) {
  FaultInjection faults(1);
  EXPECT_TRUE(failing_calls(faults, 1000).empty());
  faults.set(FaultPoint::kSlabAlloc, {.probability = 100});
  EXPECT_TRUE(failing_calls(faults, 1000).empty());
  EXPECT_EQ(failing_calls(faults, 3, FaultPoint::kSlabAlloc).size(), 3u);
}

TEST(FaultInjection, NthFailsExactlyOnce) {
  FaultInjection faults(1);
  faults.set(FaultPoint::kPageAlloc, {.nth = 4});
  EXPECT_EQ(failing_calls(faults, 20), std::vector{4});
}

TEST(FaultInjection, IntervalAndTimes) {
  FaultInjection faults(1);
  faults.set(FaultPoint::kPageAlloc, {.probability = 100, .interval = 5, .times = 3});
  EXPECT_EQ(failing_calls(faults, 50), (std::vector{5, 10, 15}));
  EXPECT_EQ(faults.failures(FaultPoint::kPageAlloc), 3u);
}

TEST(FaultInjection, SpaceSucceedsFirst) {
  FaultInjection faults(1);
  faults.set(FaultPoint::kIoWrite, {.probability = 100, .space = 10'000});
  EXPECT_FALSE(faults.should_fail(FaultPoint::kIoWrite, 4096));
  EXPECT_FALSE(faults.should_fail(FaultPoint::kIoWrite, 4096));
  EXPECT_TRUE(faults.should_fail(FaultPoint::kIoWrite, 4096));
}

TEST(FaultInjection, ProbabilityIsSeeded) {
  FaultInjection a(7);
  FaultInjection b(7);
  FaultInjection c(8);
  for (FaultInjection* f : {&a, &b, &c}) f->set(FaultPoint::kPageAlloc, {.probability = 20});
  const std::vector<int> failed = failing_calls(a, 10'000);
  EXPECT_EQ(failed, failing_calls(b, 10'000));
  EXPECT_NE(failed, failing_calls(c, 10'000));
  EXPECT_GT(failed.size(), 1'800u);
  EXPECT_LT(failed.size(), 2'200u);
}

TEST(FaultInjection, PointsHaveNames) {
  for (unsigned i = 0; i < static_cast<unsigned>(FaultPoint::kCount); ++i) {
    const auto point = static_cast<FaultPoint>(i);
    EXPECT_EQ(fault_point_by_name(fault_point_name(point)).value(), point);
  }
  EXPECT_EQ(fault_point_by_name("no").error(), Errno::kNoEnt);
}

}  // namespace
}  // namespace quire::sim
