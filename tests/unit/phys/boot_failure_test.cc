// Each allocation that boot makes fails once, on machines of several shapes: boot says so in a sentence, or does without, and
// what it has taken of the host goes back (the sanitizers' leak check sees to that).
#include "machine.h"
#include "quire/sim/fault_injection.h"

namespace quire::phys {
namespace {

struct Shape {
  const char* name;
  PhysConfig config;
};

std::vector<Shape> shapes() {
  std::vector<Shape> all = {{"one node", small_machine(64)},
                            {"three nodes", small_machine(600)},
                            {"bootmem", small_machine(64)},
                            {"holes", small_machine(5000)},
                            {"i386", small_machine(1500)}};
  all[1].config.nodes = {{.bytes = 200 * kMiB}, {.bytes = 0}, {.bytes = 400 * kMiB}};
  all[2].config.alloc_policy = AllocPolicyKind::kLinux24;
  all[3].config.data_mode = DataMode::kDataless;
  all[3].config.cmdline = "memmap=64M!512M movablecore=1G";
  all[4].config.arch = Arch::kI386;
  return all;
}

TEST(BootFailure, AnyOneAllocationMayFail) {
  for (Shape& shape : shapes()) {
    SCOPED_TRACE(shape.name);
    unsigned refused = 0;
    for (std::uint64_t nth = 1;; ++nth) {
      SCOPED_TRACE(nth);
      sim::FaultInjection faults(1);
      faults.set(sim::FaultPoint::kPageAlloc, {.nth = nth});
      shape.config.faults = &faults;
      TestMachine machine(shape.config);
      const bool failed = faults.failures(sim::FaultPoint::kPageAlloc) != 0;
      if (machine.mem == nullptr) {
        ++refused;
        EXPECT_TRUE(failed);
        EXPECT_NE(machine.error.find("cannot hold"), std::string::npos) << machine.error;
      } else {
        machine.mem->validate();
      }
      if (!failed) {
        ASSERT_NE(machine.mem, nullptr) << machine.error;
        EXPECT_GT(nth, 3u);  // boot does allocate
        break;
      }
    }
    EXPECT_GT(refused, 0u);
  }
}

}  // namespace
}  // namespace quire::phys
