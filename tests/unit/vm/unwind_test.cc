// Taking a machine down while tasks stand in the middle of their work.
#include <gtest/gtest.h>

#include "quire/sim/wait_queue.h"
#include "quire/vm/mmu_gather.h"
#include "vm_machine.h"

namespace quire::vm {
namespace {

TEST(Unwind, AGatherThatWasNotFinishedGoesWithItsTask) {
  VmMachine m;
  Mm& mm = m.mm_alloc();
  sim::WaitQueue never(m.scheduler, "never_woken");
  m.scheduler.spawn("zapper", [&] {
    MmuGather tlb(m.vm, mm, FlushSite::kOther);
    tlb.note_range(VirtAddr(0x1000));
    never.wait();
    tlb.finish();
  });
  EXPECT_EQ(m.scheduler.run().end(), sim::RunEnd::kDeadlock);
  m.scheduler.unwind_tasks();
  EXPECT_EQ(m.scheduler.report(), "");
}

}  // namespace
}  // namespace quire::vm
