#include "quire/kernel/pipe.h"

#include "small_machine.h"

namespace quire::kernel {
namespace {

// A pipe with both ends open.
struct OpenPipe {
  explicit OpenPipe(Machine& machine) : pipe(*Pipe::alloc_pipe_info(machine.phys(), machine.slab())) {
    pipe.open_reader();
    pipe.open_writer();
  }
  ~OpenPipe() { Pipe::free_pipe_info(pipe); }
  Pipe* operator->() { return &pipe; }
  Pipe& pipe;
};

TEST(Pipe, WhoIsKilledWaitsForNothingMore) {
  const auto machine = boot_small();
  OpenPipe pipe(*machine);
  OpenPipe full(*machine);
  Result<std::uint64_t> got = 1;
  Result<std::uint64_t> put = 1;
  Result<std::uint64_t> put_part = 1;
  Process& reader = start(*machine, "reader", [&](Process&) { got = pipe->read(10); });
  Process& writer = start(*machine, "writer", [&](Process&) {
    put_part = full->write(17 * kPageSize);
    put = full->write(kPageSize);
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
  EXPECT_EQ(reader.state, ProcessState::kReaped);
  EXPECT_EQ(reader.exit.signal, 9);
}

TEST(Pipe, SmallWritesShareAPage) {
  const auto machine = boot_small();
  OpenPipe pipe(*machine);
  start(*machine, "writer", [&](Process&) {
    for (std::uint64_t i = 0; i < Pipe::kBuffers * kPageSize; ++i) ASSERT_TRUE(pipe->write(1));
    EXPECT_EQ(pipe->bytes(), Pipe::kBuffers * kPageSize);
    // A page whose front was read has no more room at its end than before.
    EXPECT_EQ(pipe->read(kPageSize + 10), kPageSize + 10);
    EXPECT_EQ(pipe->write(kPageSize - 1), kPageSize - 1);
    EXPECT_EQ(pipe->write(1), 1u);
    EXPECT_EQ(pipe->read(Pipe::kBuffers * kPageSize), Pipe::kBuffers * kPageSize - 10);
    EXPECT_EQ(pipe->bytes(), 0u);
  });
  EXPECT_TRUE(machine->run().done());
}

}  // namespace
}  // namespace quire::kernel
