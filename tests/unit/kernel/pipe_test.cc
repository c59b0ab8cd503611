#include "quire/kernel/pipe.h"

#include "small_machine.h"

namespace quire::kernel {
namespace {

TEST(Pipe, WhoIsKilledWaitsForNothingMore) {
  const auto machine = boot_small();
  Pipe pipe(machine->phys());
  pipe.open_reader();
  pipe.open_writer();
  Pipe full(machine->phys());
  full.open_reader();
  full.open_writer();
  Result<std::uint64_t> got = 1;
  Result<std::uint64_t> put = 1;
  Result<std::uint64_t> put_part = 1;
  Process& reader = start(*machine, "reader", [&](Process&) { got = pipe.read(10); });
  Process& writer = start(*machine, "writer", [&](Process&) {
    put_part = full.write(17 * kPageSize);
    put = full.write(kPageSize);
  });
  start(*machine, "killer", [&](Process&) {
    machine->scheduler().sleep_for(sim::kSecond);
    machine->processes().kill(reader, 9);
    machine->processes().kill(writer, 9);
  });
  ASSERT_TRUE(machine->run().done());
  EXPECT_EQ(got.error(), Errno::kIntr);
  EXPECT_EQ(put_part, 16 * kPageSize);
  EXPECT_EQ(put.error(), Errno::kIntr);
  EXPECT_EQ(reader.state, ProcessState::kZombie);
  EXPECT_EQ(reader.exit.signal, 9);
}

}  // namespace
}  // namespace quire::kernel
