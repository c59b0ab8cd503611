// execve of ELF files made by hand: what Linux promises, one test a promise. How a real program lies is exec_host_test's.
#include <array>
#include <csignal>

#include "exec_test.h"

namespace quire::kernel {
namespace {

TEST_F(ExecTest, SegmentsLieWhereTheFileSaysWithTheirRights) {
  add("/bin/program", ElfBytes{});
  in_process([&](Process& self) {
    const auto image = exec(self, "/bin/program");
    ASSERT_TRUE(image) << image.error().why;
    EXPECT_EQ(image->entry, VirtAddr(0x401010));
    EXPECT_EQ(areas(*self.mm),
              "400000-401000 r--f 0\n401000-402000 r-xf 1000\n402000-403000 rw-f 2000\n403000-405000 rw-a 0\n");
    EXPECT_EQ(self.comm, "program");
    EXPECT_EQ(machine_->scheduler().current()->name(), "program");
  });
}

TEST_F(ExecTest, BehindTheFilesBytesMemoryIsZero) {
  add("/bin/program", ElfBytes{});
  in_process([&](Process& self) {
    ASSERT_TRUE(exec(self, "/bin/program"));
    for (const std::uint64_t at : {0x4020ffull, 0x402000ull}) {
      EXPECT_EQ(read<std::uint8_t>(*self.mm, VirtAddr(at)), at & 0xff);  // the file's
    }
    for (const std::uint64_t at : {0x402100ull, 0x402fffull, 0x403000ull, 0x4047ffull}) {
      EXPECT_EQ(read<std::uint8_t>(*self.mm, VirtAddr(at)), 0) << std::hex << at;
    }
    // The file itself is as it was: the page was copied.
    std::byte byte{};
    file::KernelBuffer to(std::span(&byte, 1));
    file::File& file = **machine_->vfs().open(*fs().lookup("/bin/program"), file::FileMode::kRead);
    ASSERT_TRUE(machine_->vfs().pread(file, 0x2101, 1, to));
    EXPECT_EQ(byte, std::byte{1});
    machine_->vfs().fput(file);
  });
}

TEST_F(ExecTest, TheLayoutFieldsAreSet) {
  add("/bin/program", ElfBytes{});
  in_process([&](Process& self) {
    ASSERT_TRUE(exec(self, "/bin/program"));
    const vm::Mm& mm = *self.mm;
    EXPECT_EQ(mm.start_code, VirtAddr(0x401000));
    EXPECT_EQ(mm.end_code, VirtAddr(0x402000));
    EXPECT_EQ(mm.start_data, VirtAddr(0x402000));
    EXPECT_EQ(mm.end_data, VirtAddr(0x402100));
    EXPECT_EQ(mm.start_brk, VirtAddr(0x405000));
    EXPECT_EQ(mm.brk, mm.start_brk);
    EXPECT_EQ(machine_->vm().brk(*self.mm, mm.brk + kPageSize), VirtAddr(0x406000));
  });
}

TEST_F(ExecTest, ASegmentWithMemoryBeyondItsFileMayHaveOthersBehindIt) {
  ElfBytes elf;
  elf.segments.push_back(ElfBytes::load(PF_R | PF_W, 0x2000, 0x410000, 0x10, 0x10));
  add("/bin/program", elf);
  in_process([&](Process& self) {
    ASSERT_TRUE(exec(self, "/bin/program"));
    EXPECT_EQ(areas(*self.mm),
              "400000-401000 r--f 0\n401000-402000 r-xf 1000\n402000-403000 rw-f 2000\n403000-405000 rw-a 0\n"
              "410000-411000 rw-f 2000\n");
    EXPECT_EQ(read<std::uint8_t>(*self.mm, VirtAddr(0x402101)), 0);
    EXPECT_EQ(self.mm->brk, VirtAddr(0x411000));
  });
}

TEST_F(ExecTest, TheStackHasArgumentsEnvironmentAndAuxiliaryVector) {
  add("/bin/program", ElfBytes{});
  in_process([&](Process& self) {
    const auto image = exec(self, "/bin/program", {"program", "-v", ""}, {"HOME=/root"});
    ASSERT_TRUE(image);
    vm::Mm& mm = *self.mm;
    EXPECT_EQ(image->stack.value() % 16, 0u);
    const auto word = [&](std::uint64_t n) { return read<std::uint64_t>(mm, image->stack + n * 8); };
    EXPECT_EQ(word(0), 3u);
    EXPECT_EQ(read_string(mm, word(1)), "program");
    EXPECT_EQ(read_string(mm, word(2)), "-v");
    EXPECT_EQ(read_string(mm, word(3)), "");
    EXPECT_EQ(word(4), 0u);
    EXPECT_EQ(read_string(mm, word(5)), "HOME=/root");
    EXPECT_EQ(word(6), 0u);
    std::map<std::uint64_t, std::uint64_t> auxv;
    for (std::uint64_t n = 7; word(n) != AT_NULL; n += 2) auxv[word(n)] = word(n + 1);
    EXPECT_EQ(auxv[AT_PHDR], 0x400040u);
    EXPECT_EQ(auxv[AT_PHENT], 56u);
    EXPECT_EQ(auxv[AT_PHNUM], 3u);
    EXPECT_EQ(auxv[AT_PAGESZ], 4096u);
    EXPECT_EQ(auxv[AT_BASE], 0u);
    EXPECT_EQ(auxv[AT_ENTRY], 0x401010u);
    EXPECT_EQ(read_string(mm, auxv[AT_EXECFN]), "/bin/program");
    EXPECT_EQ(read_string(mm, auxv[AT_PLATFORM]), "x86_64");
    EXPECT_EQ(auxv[AT_SYSINFO_EHDR], mm.vdso.value());
    EXPECT_EQ(mm.start_stack, image->stack);
    EXPECT_EQ(mm.arg_start, VirtAddr(word(1)));
    EXPECT_EQ(mm.arg_end - mm.arg_start, sizeof("program") + sizeof("-v") + 1);
    EXPECT_EQ(mm.env_start, mm.arg_end);
    EXPECT_EQ(mm.env_end - mm.env_start, sizeof("HOME=/root"));
  });
}

TEST_F(ExecTest, WithoutArgumentsThereIsOneThatIsEmpty) {
  add("/bin/program", ElfBytes{});
  in_process([&](Process& self) {
    const auto image = exec(self, "/bin/program", {});
    ASSERT_TRUE(image);
    EXPECT_EQ(read<std::uint64_t>(*self.mm, image->stack), 1u);
    EXPECT_EQ(read_string(*self.mm, read<std::uint64_t>(*self.mm, image->stack + 8)), "");
  });
}

TEST_F(ExecTest, TheStackIsRoundedUpBy128KiBAndExecutableWhereTheProgramWantsIt) {
  ElfBytes wants;
  wants.segments.push_back(ElfBytes::other(PT_GNU_STACK, PF_R | PF_W | PF_X));
  add("/bin/plain", ElfBytes{});
  add("/bin/wants", wants);
  in_process([&](Process& self) {
    for (const bool executable : {false, true}) {
      ASSERT_TRUE(exec(self, executable ? "/bin/wants" : "/bin/plain"));
      const vm::Vma& stack = *self.mm->mm_vmas.last();
      EXPECT_EQ(stack.vm_end, self.mm->task_size);
      EXPECT_EQ(stack.vm_end - stack.vm_start, 132 * kKiB);
      EXPECT_EQ(stack.has(vm::VmFlags::kExec), executable);
      EXPECT_TRUE(stack.has(vm::VmFlags::kGrowsDown));
    }
  });
}

TEST_F(ExecTest, AnInterpreterBeginsAndTheProgramLiesAtTwoThirds) {
  ElfBytes program(ET_DYN, 0);
  program.interpreter = "/lib/ld.so";
  add("/bin/program", program);
  add("/lib/ld.so", ElfBytes(ET_DYN, 0));
  in_process([&](Process& self) {
    const auto image = exec(self, "/bin/program");
    ASSERT_TRUE(image) << image.error().why;
    EXPECT_EQ(self.mm->mm_vmas.first()->vm_start, VirtAddr(0x555555554000));
    EXPECT_EQ(image->entry, VirtAddr(self.mm->mmap_base.value() - 0x5000 + 0x1010));
    EXPECT_EQ(self.mm->start_code, VirtAddr(0x555555555000));
    EXPECT_EQ(self.mm->brk, VirtAddr(0x555555559000));
  });
}

TEST_F(ExecTest, VvarAndVdsoLieSideBySideAndMayBeRead) {
  add("/bin/program", ElfBytes{});
  in_process([&](Process& self) {
    ASSERT_TRUE(exec(self, "/bin/program"));
    vm::Mm& mm = *self.mm;
    EXPECT_EQ(mm.vdso + 2 * kPageSize, mm.mmap_base);
    const std::int64_t pages_of_program = mm.counter(vm::Rss::kFilePages);
    EXPECT_EQ(read<std::uint64_t>(mm, mm.vdso), 0u);
    EXPECT_EQ(read<std::uint64_t>(mm, mm.vdso - 4 * kPageSize), 0u);
    const auto beyond = machine_->vm().access(mm, mm.vdso - 3 * kPageSize, arch::Access::kRead);
    EXPECT_EQ(static_cast<int>(beyond.signal), SIGBUS);
    // [vvar] is mapped by frame: it counts as nobody's memory, [vdso] as a page of a file.
    EXPECT_EQ(mm.counter(vm::Rss::kFilePages), pages_of_program + 1);
    machine_->vm().validate();
    EXPECT_TRUE(machine_->vm().munmap(mm, mm.vdso, 2 * kPageSize));
  });
}

// As the host's kernel answers: no file stands behind these pages, and [vvar] is mapped by frame.
TEST_F(ExecTest, AdviceAboutTheKernelsOwnPagesIsAnsweredAndReadsNothing) {
  using vm::Advice;
  struct Answer {
    Advice advice;
    Errno vdso, vvar;
  };
  constexpr Errno kDone{};
  constexpr Errno kInval = Errno::kInval;
  static constexpr Answer kAnswers[] = {
      {Advice::kNormal, kDone, kDone},         {Advice::kRandom, kDone, kDone},        {Advice::kSequential, kDone, kDone},
      {Advice::kWillNeed, kDone, kDone},       {Advice::kDontNeed, kDone, kInval},     {Advice::kFree, kInval, kInval},
      {Advice::kRemove, kInval, kInval},       {Advice::kDontFork, kDone, kDone},      {Advice::kDoFork, kDone, kInval},
      {Advice::kMergeable, kDone, kDone},      {Advice::kUnmergeable, kDone, kDone},   {Advice::kHugePage, kDone, kDone},
      {Advice::kNoHugePage, kDone, kDone},     {Advice::kDontDump, kDone, kDone},      {Advice::kDoDump, kInval, kInval},
      {Advice::kWipeOnFork, kDone, kDone},     {Advice::kKeepOnFork, kDone, kDone},    {Advice::kCold, kDone, kInval},
      {Advice::kPageOut, kDone, kInval},       {Advice::kPopulateRead, kDone, kInval}, {Advice::kPopulateWrite, kInval, kInval},
      {Advice::kDontNeedLocked, kDone, kInval}};
  add("/bin/program", ElfBytes{});
  in_process([&](Process& self) {
    ASSERT_TRUE(exec(self, "/bin/program"));
    vm::Mm& mm = *self.mm;
    const VirtAddr vdso = mm.vdso;
    const VirtAddr vvar = vdso - SpecialMappings::kVvarPages * kPageSize;
    const auto errno_of = [](const Status& status) { return status ? Errno{} : status.error(); };
    for (const Answer& answer : kAnswers) {
      SCOPED_TRACE(fmt::format("advice {}", static_cast<int>(answer.advice)));
      EXPECT_EQ(errno_of(machine_->vm().madvise(mm, vdso, 2 * kPageSize, answer.advice)), answer.vdso);
      EXPECT_EQ(errno_of(machine_->vm().madvise(mm, vvar, 4 * kPageSize, answer.advice)), answer.vvar);
      EXPECT_EQ(mm.mm_vmas.lookup(vdso)->vm_file->mapping().nrpages(), 0u);
      EXPECT_EQ(mm.mm_vmas.lookup(vvar)->vm_file->mapping().nrpages(), 0u);
    }
    std::array<std::uint8_t, 2> resident{};
    EXPECT_TRUE(machine_->vm().mincore(mm, vdso, 2 * kPageSize, resident));
    EXPECT_EQ(resident, (std::array<std::uint8_t, 2>{1, 1}));
  });
}

// --- address spaces ----------------------------------------------------------------------------------------------------------

TEST_F(ExecTest, TheOldAddressSpaceGoesAndAVforkParentGoesOn) {
  add("/bin/program", ElfBytes{});
  in_process([&](Process& self) {
    ProcessTable& table = machine_->processes();
    vm::Mm* const shared = self.mm;
    bool execed = false;
    Process* child = *table.vfork(self, [&](Thread& thread) {
      Process& me = *thread.process;
      EXPECT_EQ(me.mm, shared);
      EXPECT_EQ(shared->mm_users, 2u);
      EXPECT_TRUE(exec(me, "/bin/program"));
      EXPECT_NE(me.mm, shared);
      execed = true;
      machine_->scheduler().sleep_for(sim::kSecond);
      table.exit_thread(thread, {});
    });
    EXPECT_TRUE(execed);
    EXPECT_EQ(child->state, ProcessState::kRunning);
    EXPECT_EQ(shared->mm_users, 1u);
    EXPECT_EQ(child->mm->mm_users, 1u);
    EXPECT_EQ(child->mm->mm_count, 1u);
    ASSERT_TRUE(table.wait(self, *child));
  });
}

TEST_F(ExecTest, FaultsOfTheOldProgramStillCount) {
  add("/bin/program", ElfBytes{});
  in_process([&](Process& self) {
    const auto at = machine_->vm().mmap(*self.mm, VirtAddr(0), 8 * kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                                        vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0);
    ASSERT_EQ(machine_->vm().touch_user(*self.mm, *at, 8 * kPageSize, arch::Access::kWrite), 8 * kPageSize);
    ASSERT_TRUE(exec(self, "/bin/program"));
    EXPECT_GE(self.minor_faults(), 8u + self.mm->min_flt);
    EXPECT_GE(self.peak_rss(), 8u);
  });
}

}  // namespace
}  // namespace quire::kernel
