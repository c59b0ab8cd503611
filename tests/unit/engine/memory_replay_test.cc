// Recorded calls on memory.
#include <linux/mempolicy.h>
#include <sys/mman.h>

#include "replay_fixture.h"

namespace quire::engine {
namespace {

class MemoryReplay : public ReplayTest {
 protected:
  static constexpr std::uint64_t kAddress = test::TraceBuilder::kFirstPage << kPageShift;
};

// Those that there is no doing here.
TEST_F(MemoryReplay, PoliciesOfPlacementAreCounted) {
  for (const std::uint64_t mode : {MPOL_DEFAULT, MPOL_LOCAL, MPOL_INTERLEAVE, MPOL_PREFERRED}) {
    syscall(SYS_set_mempolicy, 0, {mode});
  }
  for (const std::uint64_t mode : {MPOL_DEFAULT, MPOL_LOCAL, MPOL_BIND}) {
    syscall(SYS_mbind, 0, {kAddress, kPageSize, mode, 0, 0, 0});
  }
  trace_.exit();
  replay();
  const std::map<std::string, std::uint64_t> counted = {{"set_mempolicy: ENOSYS", 2}, {"mbind: ENOSYS", 1}};
  EXPECT_EQ(stats().diverged, counted);
}

TEST_F(MemoryReplay, PkeyMprotectChangesTheRights) {
  trace_.write(0);
  syscall(SYS_pkey_mprotect, 0, {kAddress, kPageSize, PROT_READ, 1});
  trace_.read(0).write(0).exit();
  replay();
  EXPECT_EQ(stats().diverged_calls, 0u);
  EXPECT_EQ(stats().stray_accesses, 1u);  // the page cannot be written any more
}

}  // namespace
}  // namespace quire::engine
