// Where later mechanisms enter the fault tree, and that the ordinary path goes on where they decline.
#include "quire/vm/fault_hooks.h"

#include "vm_machine.h"

namespace quire::vm {
namespace {

class Counting final : public FaultHooks {
 public:
  FaultOutcome hugetlb_fault(Vma&, VirtAddr, FaultFlags) override { return told("hugetlb"); }
  FaultOutcome create_huge_pmd(Vma&, VirtAddr, FaultFlags) override { return told("huge_pmd"); }
  FaultOutcome do_numa_page(Vma&, VirtAddr, FaultFlags) override { return told("numa"); }
  FaultOutcome handle_userfault(Vma&, VirtAddr, FaultFlags, UffdReason reason) override {
    return told(reason == UffdReason::kMissing ? "missing" : "wp");
  }
  std::string take() { return std::exchange(heard_, ""); }
  FaultOutcome answer = FaultOutcome::kFallback;  // of the userfault

 private:
  FaultOutcome told(const std::string& what) {
    heard_ += what + " ";
    return what == "missing" || what == "wp" ? answer : FaultOutcome::kFallback;
  }
  std::string heard_;
};

class FaultHooksTest : public ::testing::Test {
 protected:
  VmMachine m_;
  Mm& mm_ = m_.mm_alloc();
  Counting hooks_;
  void in_task(std::function<void()> body) {
    m_.run([&] {
      m_.vm.set_fault_hooks(&hooks_);
      body();
      m_.vm.set_fault_hooks(nullptr);
      m_.vm.mmput(mm_);
    });
    m_.validate();
  }
  Vma& area(VirtAddr at) { return *mm_.mm_vmas.lookup(at); }
};

TEST_F(FaultHooksTest, AHugePageIsOfferedForEachFaultAndTheOrdinaryPathGoesOn) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2);
    EXPECT_TRUE(m_.write(mm_, at, 1).ok());
    EXPECT_EQ(hooks_.take(), "huge_pmd ");
    EXPECT_EQ(m_.read(mm_, at), 1);
    EXPECT_EQ(hooks_.take(), "") << "no fault, no question";
  });
}

TEST_F(FaultHooksTest, AUserfaultfdHearsOfMissingPagesOnlyWhereItAskedForThem) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2);
    area(at).vm_flags |= VmFlags::kUffdMissing;
    EXPECT_TRUE(m_.write(mm_, at, 1).ok());
    EXPECT_EQ(hooks_.take(), "huge_pmd missing ");
    hooks_.answer = FaultOutcome::kSigbus;
    EXPECT_EQ(m_.write(mm_, at + kPageSize, 1).signal, Signal::kBus);
    EXPECT_EQ(m_.read(mm_, at), 1) << "what is mapped is not missing";
  });
}

TEST_F(FaultHooksTest, AUserfaultfdHearsOfWritesToReadOnlyEntries) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    area(at).vm_flags |= VmFlags::kUffdWp;
    EXPECT_EQ(m_.read(mm_, at), 0);  // the zero page, read-only
    EXPECT_EQ(hooks_.take(), "huge_pmd ");
    hooks_.answer = FaultOutcome::kSigbus;
    EXPECT_EQ(m_.write(mm_, at, 1).signal, Signal::kBus);
    EXPECT_EQ(hooks_.take(), "huge_pmd wp ");
    hooks_.answer = FaultOutcome::kFallback;
    EXPECT_TRUE(m_.write(mm_, at, 1).ok());
  });
}

TEST_F(FaultHooksTest, AHugetlbAreaIsTheHooksAlone) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    area(at).vm_flags |= VmFlags::kHugeTlb;
    EXPECT_EQ(m_.write(mm_, at, 1).signal, Signal::kBus);
    EXPECT_EQ(hooks_.take(), "hugetlb ");
    area(at).vm_flags &= ~VmFlags::kHugeTlb;
  });
}

}  // namespace
}  // namespace quire::vm
