#include "quire/kernel/process_table.h"

#include <set>

#include "quire/reclaim/oom.h"
#include "small_machine.h"

namespace quire::kernel {
namespace {

using sim::FaultPoint;

TEST(ProcessTable, AProcessThatCouldNotBeMadeLeavesNothingBehind) {
  const auto machine = boot_small();
  ProcessTable& table = machine->processes();
  unsigned failed = 0;
  std::size_t made = 1;
  start(*machine, "parent", [&](Process& parent) {
    const auto child = [&table](Thread& thread) { table.exit_thread(thread, {}); };
    const auto try_all = [&](auto&& make) {
      for (std::uint64_t nth = 1; nth <= 16; ++nth) {
        machine->faults().set(FaultPoint::kPageAlloc, {.nth = nth});
        const Result<Process*> process = make();
        machine->faults().set(FaultPoint::kPageAlloc, {});
        process ? ++made : ++failed;
        ASSERT_EQ(table.all().size(), made);
      }
    };
    try_all([&] { return table.create("created", child); });
    try_all([&] { return table.fork(parent, child); });
    try_all([&] { return table.vfork(parent, child); });
  });
  ASSERT_TRUE(machine->run().done());
  EXPECT_GT(failed, 3u);
  std::set<int> pids;
  for (const auto& process : table.all()) EXPECT_TRUE(pids.insert(process->pid).second) << process->pid;
}

}  // namespace
}  // namespace quire::kernel
