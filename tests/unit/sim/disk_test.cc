#include "quire/sim/disk.h"

#include <gtest/gtest.h>

#include <vector>

#include "sim_fixture.h"

namespace quire::sim {
namespace {

constexpr DiskConfig kDisk{.read_latency = 100'000, .write_latency = 20'000, .bandwidth = 1'000'000'000, .queue_depth = 2};

TEST(Disk, ALoneRequestTakesLatencyAndTransfer) {
  Sim sim;
  Disk disk(sim.scheduler, kDisk);
  Nanos done = 0;
  WaitQueue queue(sim.scheduler, "io");
  sim.scheduler.spawn("reader", [&] {
    sim.scheduler.charge(500);
    EXPECT_EQ(disk.submit(DiskOp::kRead, 0, 4'000,
                          [&] {
                            done = sim.scheduler.now();
                            queue.wake_all();
                          }),
              104'500u);
    EXPECT_EQ(disk.stats().in_flight, 1u);
    queue.wait_until([&] { return done != 0; });
    EXPECT_EQ(sim.scheduler.now(), 104'500u);
  });
  EXPECT_TRUE(sim.scheduler.run().done());
  EXPECT_EQ(done, 104'500u);
  EXPECT_EQ(disk.stats().reads, 1u);
  EXPECT_EQ(disk.stats().read_bytes, 4'000u);
  EXPECT_EQ(disk.stats().read_time, 104'000u);
  EXPECT_EQ(disk.stats().in_flight, 0u);
}

TEST(Disk, LatenciesOverlapUpToTheQueueDepthAndTheChannelIsShared) {
  Sim sim;
  Disk disk(sim.scheduler, kDisk);
  std::vector<Nanos> ends;
  for (int i = 0; i < 3; ++i) {
    disk.submit(DiskOp::kRead, 0, 10'000, [&] { ends.push_back(sim.scheduler.now()); });
  }
  EXPECT_EQ(sim.scheduler.run_until(kSecond).end(), RunEnd::kDone);
  // The third starts when the first has left its slot.
  EXPECT_EQ(ends, (std::vector<Nanos>{110'000, 120'000, 110'000 + 100'000 + 10'000}));
  EXPECT_EQ(disk.stats().max_in_flight, 3u);
  EXPECT_EQ(disk.stats().busy, 30'000u);
}

TEST(Disk, SeekIsSavedBySequentialRequests) {
  Sim sim;
  DiskConfig config = kDisk;
  config.seek = 5'000'000;
  config.queue_depth = 1;
  Disk disk(sim.scheduler, config);
  EXPECT_EQ(disk.submit(DiskOp::kWrite, 0, 1'000, {}), 21'000u);  // the head starts at offset 0
  EXPECT_EQ(disk.submit(DiskOp::kWrite, 1'000, 1'000, {}), 42'000u);
  EXPECT_EQ(disk.submit(DiskOp::kWrite, 9'000, 1'000, {}), 63'000u + 5'000'000u);
}

TEST(Disk, SlowIoFaultMultipliesLatency) {
  Sim sim;
  FaultInjection faults(1);
  faults.set(FaultPoint::kIoSlow, {.nth = 2});
  Disk disk(sim.scheduler, kDisk, &faults);
  EXPECT_EQ(disk.submit(DiskOp::kWrite, 0, 1'000, {}), 21'000u);
  EXPECT_EQ(disk.submit(DiskOp::kWrite, 0, 1'000, {}), 201'000u);
}

}  // namespace
}  // namespace quire::sim
