// Where later mechanisms enter the fault tree, and that the ordinary path goes on where they decline.
#include "quire/vm/fault_hooks.h"

#include "vm_machine.h"

namespace quire::vm {
namespace {

class Counting final : public FaultHooks {
 public:
  FaultOutcome hugetlb_fault(Vma&, VirtAddr, FaultFlags, sim::ReleasableReadGuard*) override { return told("hugetlb"); }
  FaultOutcome create_huge_pmd(Vma&, VirtAddr, FaultFlags) override { return told("huge_pmd"); }
  FaultOutcome do_numa_page(Vma&, VirtAddr, FaultFlags) override { return told("numa"); }
  FaultOutcome handle_userfault(Vma&, VirtAddr, FaultFlags flags, UffdReason reason,
                                sim::ReleasableReadGuard* mmap_lock) QUIRE_NO_THREAD_SAFETY_ANALYSIS override {
    const FaultOutcome said = told(reason == UffdReason::kMissing ? "missing" : "wp");
    if (!resolve) return said;
    if (mmap_lock == nullptr || any(flags, FaultFlags::kTried)) return FaultOutcome::kSigbus;
    mmap_lock->release();
    std::exchange(resolve, nullptr)();
    return FaultOutcome::kRetry;
  }
  std::string take() { return std::exchange(heard_, ""); }
  FaultOutcome answer = FaultOutcome::kFallback;  // of the userfault
  std::function<void()> resolve;                  // what another task does while the faulting one waits without mmap_lock

 private:
  FaultOutcome told(const std::string& what) {
    heard_ += what + " ";
    return what == "missing" || what == "wp" ? answer : FaultOutcome::kFallback;
  }
  std::string heard_;
};

class FaultHooksTest : public ::testing::Test {
 protected:
  VmMachine m_{{.zram = 8 * kMiB}};
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
  arch::Pte entry(VirtAddr at) { return *m_.vm.pgtable().pte_offset(mm_, at); }
  // UFFDIO_WRITEPROTECT of one page.
  void protect(VirtAddr at) {
    ASSERT_TRUE(m_.vm.mprotect(mm_, at, kPageSize, Prot::kRead));  // no CPU remembers that it may be written
    *m_.vm.pgtable().pte_offset(mm_, at) = arch::pte_mkuffd_wp(entry(at));
    area(at).vm_flags |= VmFlags::kWrite;
  }
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

TEST_F(FaultHooksTest, AUserfaultfdHearsOfWritesToEntriesThatItHasProtected) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2);
    area(at).vm_flags |= VmFlags::kUffdWp;
    EXPECT_EQ(m_.read(mm_, at), 0);  // the zero page, read-only
    EXPECT_TRUE(m_.write(mm_, at, 1).ok());
    EXPECT_EQ(hooks_.take(), "huge_pmd huge_pmd ") << "a page that is to be copied is nobody's business";
    protect(at);
    EXPECT_EQ(m_.read(mm_, at), 1);
    EXPECT_EQ(hooks_.take(), "");
    hooks_.answer = FaultOutcome::kSigbus;
    EXPECT_EQ(m_.write(mm_, at, 2).signal, Signal::kBus);
    EXPECT_EQ(hooks_.take(), "huge_pmd wp ");
    hooks_.answer = FaultOutcome::kFallback;
    *m_.vm.pgtable().pte_offset(mm_, at) = arch::pte_clear_uffd_wp(entry(at));
    EXPECT_TRUE(m_.write(mm_, at, 3).ok());
    EXPECT_EQ(hooks_.take(), "huge_pmd ");
  });
}

// As a userfaultfd's reader, who needs the lock to bring the page.
TEST_F(FaultHooksTest, AUserfaultMayBeResolvedByATaskThatNeedsTheLock) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 2);
    area(at).vm_flags |= VmFlags::kUffdMissing;
    bool resolved = false;
    hooks_.resolve = [&] {
      EXPECT_TRUE(m_.vm.munmap(mm_, at + kPageSize, kPageSize));  // takes the lock for writing
      hooks_.answer = FaultOutcome::kFallback;
      resolved = true;
    };
    EXPECT_TRUE(m_.write(mm_, at, 1).ok());
    EXPECT_TRUE(resolved);
    EXPECT_EQ(hooks_.take(), "huge_pmd missing huge_pmd missing ");
    EXPECT_EQ(mm_.maj_flt, 1u);
    // Where the lock is held to the end, the hook is told so.
    ASSERT_TRUE(m_.vm.madvise(mm_, at, kPageSize, Advice::kDontNeed));
    hooks_.resolve = [] { FAIL(); };
    EXPECT_TRUE(fails_with(m_.vm.madvise(mm_, at, kPageSize, Advice::kPopulateWrite), Errno::kFault));
    hooks_.resolve = nullptr;
  });
}

TEST_F(FaultHooksTest, AProtectionStaysThroughSwapAndIsNotAChilds) {
  in_task([&] {
    const VirtAddr at = m_.anon(mm_, 1);
    area(at).vm_flags |= VmFlags::kUffdWp;
    ASSERT_TRUE(m_.write(mm_, at, 1).ok());
    protect(at);
    const auto expect_none_in_a_child = [&] {
      Mm& child = *m_.vm.dup_mm(mm_).value();
      EXPECT_FALSE(child.mm_vmas.lookup(at)->has(VmFlags::kUffdWp));
      const arch::Pte copied = *m_.vm.pgtable().pte_offset(child, at);
      EXPECT_FALSE(copied.present() ? arch::pte_uffd_wp(copied) : arch::pte_swp_uffd_wp(copied));
      m_.vm.mmput(child);
    };
    expect_none_in_a_child();
    EXPECT_TRUE(arch::pte_uffd_wp(entry(at)));
    ASSERT_TRUE(m_.swap_out(mm_, at));
    EXPECT_TRUE(arch::pte_swp_uffd_wp(entry(at)));
    expect_none_in_a_child();
    EXPECT_EQ(m_.read(mm_, at), 1);
    EXPECT_TRUE(arch::pte_uffd_wp(entry(at)));
    ASSERT_TRUE(m_.swap_out(mm_, at));
    hooks_.take();
    hooks_.answer = FaultOutcome::kSigbus;
    EXPECT_EQ(m_.write(mm_, at, 2).signal, Signal::kBus) << "what a write reads in is protected, too";
    EXPECT_EQ(hooks_.take(), "huge_pmd huge_pmd wp ");
    hooks_.answer = FaultOutcome::kFallback;
    EXPECT_EQ(m_.read(mm_, at), 1);
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
