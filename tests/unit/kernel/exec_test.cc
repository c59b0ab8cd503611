// execve of ELF files made by hand: what Linux promises, one test a promise. How a real program lies is exec_host_test's.
#include "quire/kernel/exec.h"

#include <array>
#include <csignal>
#include <random>

#include "elf_bytes.h"
#include "small_machine.h"

namespace quire::kernel {
namespace {

using sim::FaultPoint;
using ::testing::HasSubstr;
using Strings = std::vector<std::string_view>;

class ExecTest : public ::testing::Test {
 protected:
  ExecTest() : machine_(boot_with_data()) {}

  void add(const std::string& path, const ElfBytes& elf) { add_bytes(path, elf.bytes()); }
  void add_bytes(const std::string& path, std::vector<std::byte> bytes) {
    ASSERT_TRUE(fs().create(path, std::make_unique<BytesBacking>(std::move(bytes))));
  }
  file::FileSystem& fs() {
    if (fs_ == nullptr) fs_ = &machine_->vfs().mount({});
    return *fs_;
  }
  // In a process of its own, which is without randomisation unless `body` says so.
  void in_process(const std::function<void(Process&)>& body) {
    start(*machine_, "old", [&](Process& self) {
      self.personality = vm::Personality::kAddrNoRandomize;
      body(self);
    });
    ASSERT_TRUE(machine_->run().done());
    machine_->validate();
  }
  ExecResult<ExecImage> exec(Process& self, std::string_view path, const Strings& argv = {"program"},
                             const Strings& envp = {}) {
    return machine_->processes().execve(self, {path, argv, envp});
  }
  // Objects in use, without those that files' pages need or may need next.
  Objects objects_left() {
    machine_->vfs().drop_pagecache();
    Objects left = objects(*machine_);
    left.erase("radix_tree_node");
    return left;
  }
  // The old program stands as it was, and the call said so; nothing is left of the new one.
  void expect_refused(Process& self, std::string_view path, Errno error, std::string_view why, const Strings& argv = {"x"}) {
    vm::Mm* const old = self.mm;
    const Objects before = objects_left();
    const auto result = exec(self, path, argv);
    ASSERT_FALSE(result) << path;
    EXPECT_EQ(objects_left(), before) << path;
    EXPECT_EQ(errno_name(result.error().error), errno_name(error)) << path << ": " << result.error().why;
    EXPECT_THAT(std::string(result.error().why), HasSubstr(std::string(why)));
    EXPECT_EQ(self.mm, old);
    EXPECT_EQ(self.comm, "old");
    EXPECT_FALSE(self.killed());
  }
  std::string areas(const vm::Mm& mm) {
    std::string text;
    for (const vm::Vma& vma : mm.mm_vmas) {
      if (vma.vm_start >= VirtAddr(0x700000000000)) continue;
      text += fmt::format("{:x}-{:x} {}{}{}{} {:x}\n", vma.vm_start.value(), vma.vm_end.value(),
                          vma.has(vm::VmFlags::kRead) ? 'r' : '-', vma.has(vm::VmFlags::kWrite) ? 'w' : '-',
                          vma.has(vm::VmFlags::kExec) ? 'x' : '-', vma.vm_file != nullptr ? 'f' : 'a',
                          vma.vm_file != nullptr ? vma.vm_pgoff.value() << kPageShift : 0);
    }
    return text;
  }
  unsigned address_spaces() {
    unsigned count = 0;
    for ([[maybe_unused]] const vm::Mm& mm : machine_->vm().mms()) ++count;
    return count;
  }
  template <class T>
  T read(vm::Mm& mm, VirtAddr at) {
    T value{};
    EXPECT_EQ(machine_->vm().copy_from_user(mm, std::as_writable_bytes(std::span(&value, 1)), at), sizeof(T)) << at.value();
    return value;
  }
  std::string read_string(vm::Mm& mm, std::uint64_t at) {
    std::string text;
    for (char c = 0; (c = read<char>(mm, VirtAddr(at))) != '\0'; ++at) text += c;
    return text;
  }

  std::unique_ptr<Machine> machine_;
  file::FileSystem* fs_ = nullptr;
};

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
    EXPECT_EQ(read<std::uint64_t>(mm, mm.vdso), 0u);
    EXPECT_EQ(read<std::uint64_t>(mm, mm.vdso - 4 * kPageSize), 0u);
    const auto beyond = machine_->vm().access(mm, mm.vdso - 3 * kPageSize, arch::Access::kRead);
    EXPECT_EQ(static_cast<int>(beyond.signal), SIGBUS);
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

// --- what is refused -------------------------------------------------------------------------------------------------------

TEST_F(ExecTest, WhatIsNoProgramIsRefusedAndTheOldOneGoesOn) {
  const auto broken = [&](const std::string& path, auto&& change) {
    ElfBytes elf;
    change(elf);
    add(path, elf);
  };
  add_bytes("/empty", {});
  add_bytes("/script", {std::byte{'#'}, std::byte{'!'}});
  broken("/magic", [](ElfBytes& elf) { elf.header.e_ident[1] = 'F'; });
  broken("/core", [](ElfBytes& elf) { elf.header.e_type = ET_CORE; });
  broken("/arm", [](ElfBytes& elf) { elf.header.e_machine = EM_AARCH64; });
  broken("/entry-size", [](ElfBytes& elf) { elf.header.e_phentsize = 32; });
  broken("/many", [](ElfBytes& elf) { elf.header.e_phnum = 74; });
  broken("/short", [](ElfBytes& elf) { elf.header.e_phoff = 0x2ff0; });
  broken("/no-interpreter", [](ElfBytes& elf) { elf.interpreter = "/lib/nowhere"; });
  broken("/interpreter-is-short", [](ElfBytes& elf) { elf.interpreter = "/script"; });
  broken("/interpreter-is-text", [](ElfBytes& elf) { elf.interpreter = "/magic"; });
  broken("/interpreter-is-arm", [](ElfBytes& elf) { elf.interpreter = "/arm"; });
  broken("/interpreter-is-cut", [](ElfBytes& elf) { elf.interpreter = "/short"; });
  in_process([&](Process& self) {
    expect_refused(self, "/nothing", Errno::kNoEnt, "no file of that name");
    expect_refused(self, std::string(4095, 'x'), Errno::kNoEnt, "no file of that name");
    expect_refused(self, std::string(4096, 'x'), Errno::kNameTooLong, "4,096 bytes");
    expect_refused(self, "/empty", Errno::kNoExec, "no ELF header");
    expect_refused(self, "/script", Errno::kNoExec, "no ELF header");
    expect_refused(self, "/magic", Errno::kNoExec, "no ELF header");
    expect_refused(self, "/core", Errno::kNoExec, "e_type");
    expect_refused(self, "/arm", Errno::kNoExec, "e_machine");
    expect_refused(self, "/entry-size", Errno::kNoExec, "e_phentsize");
    expect_refused(self, "/many", Errno::kNoExec, "e_phnum");
    expect_refused(self, "/short", Errno::kNoExec, "e_phoff");
    expect_refused(self, "/no-interpreter", Errno::kNoEnt, "no file");
    expect_refused(self, "/interpreter-is-short", Errno::kIo, "cannot be read");
    expect_refused(self, "/interpreter-is-text", Errno::kLibBad, "no ELF header");
    expect_refused(self, "/interpreter-is-arm", Errno::kLibBad, "e_machine");
    expect_refused(self, "/interpreter-is-cut", Errno::kLibBad, "e_phoff");
  });
}

TEST_F(ExecTest, ANameOfAnInterpreterThatIsNoneIsRefused) {
  const auto named = [&](const std::string& path, std::uint64_t offset, std::uint64_t bytes) {
    ElfBytes elf;
    Elf64_Phdr name = ElfBytes::other(PT_INTERP, PF_R);
    name.p_offset = offset;
    name.p_filesz = bytes;
    elf.segments.insert(elf.segments.begin(), name);
    add(path, elf);
  };
  named("/no-zero", 0x900, 16);  // bytes 0 to 15
  named("/one-byte", 0x900, 1);
  named("/longer-than-a-path", 0x900, 4097);
  named("/not-in-the-file", 0x100000, 16);
  in_process([&](Process& self) {
    expect_refused(self, "/no-zero", Errno::kNoExec, "does not end");
    expect_refused(self, "/one-byte", Errno::kNoExec, "empty or longer than a path");
    expect_refused(self, "/longer-than-a-path", Errno::kNoExec, "empty or longer than a path");
    expect_refused(self, "/not-in-the-file", Errno::kIo, "cannot be read");
  });
}

TEST(ExecDataless, AFileWithoutContentsIsNoProgram) {
  const auto machine = boot_small();
  ASSERT_TRUE(machine->vfs().mount({}).create("/bin/program", std::make_unique<BytesBacking>(ElfBytes{}.bytes())));
  start(*machine, "old", [&](Process& self) {
    const auto result = machine->processes().execve(self, {"/bin/program", {}, {}});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().error, Errno::kNoExec);
  });
  ASSERT_TRUE(machine->run().done());
}

TEST_F(ExecTest, ArgumentsMayTakeAQuarterOfTheStackAndEach128KiB) {
  add("/bin/program", ElfBytes{});
  const std::string most(128 * kKiB - 1, 'a');
  const std::string more(128 * kKiB, 'a');
  in_process([&](Process& self) {
    expect_refused(self, "/bin/program", Errno::kTooBig, "longer than 128 KiB", {more});
    self.mm->rlimits.stack = 1 * kMiB;  // a quarter is 256 KiB
    expect_refused(self, "/bin/program", Errno::kTooBig, "stack's limit", {most, most});
    ASSERT_TRUE(exec(self, "/bin/program", {most}));
    EXPECT_EQ(self.mm->rlimits.stack, 1 * kMiB);  // limits stay
  });
}

TEST_F(ExecTest, AProcessOfSeveralThreadsIsRefused) {
  add("/bin/program", ElfBytes{});
  in_process([&](Process& self) {
    ProcessTable& table = machine_->processes();
    ASSERT_TRUE(table.clone_thread(self, [&](Thread& thread) { table.exit_thread(thread, {}); }));
    expect_refused(self, "/bin/program", Errno::kAgain, "other threads");
  });
}

TEST_F(ExecTest, BehindThePointOfNoReturnAnErrorKills) {
  ElfBytes high;
  high.segments[2].p_vaddr = 0x7ffffffff000;
  ElfBytes sizes;
  sizes.segments[2].p_filesz = 0x3000;  // more than in memory
  ElfBytes entry;
  entry.header.e_entry = ~std::uint64_t{0};
  ElfBytes nothing;
  nothing.segments.clear();
  nothing.segments.push_back(ElfBytes::other(PT_NOTE, PF_R));
  nothing.header.e_entry = 0x7ffffffff000;
  add("/high", high);
  add("/sizes", sizes);
  add("/entry", entry);
  add("/nothing", nothing);
  add("/object", ElfBytes(ET_REL));
  ElfBytes object;
  object.interpreter = "/object";
  add("/interpreter-is-object", object);
  for (const char* path : {"/high", "/sizes", "/entry", "/nothing", "/interpreter-is-object"}) {
    Process* process = nullptr;
    in_process([&](Process& self) {
      process = &self;
      const auto result = exec(self, path);
      ASSERT_FALSE(result) << path;
      EXPECT_TRUE(self.killed()) << path;
    });
    EXPECT_EQ(process->exit.signal, SIGSEGV) << path;
  }
}

TEST_F(ExecTest, AnInterpreterThatCannotBeMappedKills) {
  const auto interpreted = [&](const std::string& name, const ElfBytes& interpreter) {
    add("/ld-" + name, interpreter);
    ElfBytes program(ET_DYN, 0);
    program.interpreter = "/ld-" + name;
    add("/" + name, program);
  };
  ElfBytes nothing(ET_DYN, 0);
  nothing.segments = {ElfBytes::other(PT_NOTE, PF_R)};
  ElfBytes sizes(ET_DYN, 0);
  sizes.segments[2].p_filesz = 0x3000;  // more than in memory
  ElfBytes readonly(ET_DYN, 0);
  readonly.segments[2].p_flags = PF_R;  // its page cannot be cleared behind the file's bytes
  ElfBytes entry(ET_DYN, 0);
  entry.header.e_entry = 0x7ffffffff000;
  interpreted("nothing", nothing);
  interpreted("sizes", sizes);
  interpreted("readonly", readonly);
  interpreted("entry", entry);
  for (const char* path : {"/nothing", "/sizes", "/readonly", "/entry"}) {
    Process* process = nullptr;
    const Objects before = objects_left();
    in_process([&](Process& self) {
      process = &self;
      EXPECT_FALSE(exec(self, path)) << path;
    });
    EXPECT_EQ(process->exit.signal, SIGSEGV) << path;
    EXPECT_EQ(objects_left(), before) << path;
  }
}

TEST_F(ExecTest, AnInterpreterOfFixedPlaceLiesOverTheProgramAndItsOwnInterpreterIsNotAskedFor) {
  ElfBytes over;
  over.header.e_entry = 0x401020;
  over.segments[1].p_filesz = over.segments[1].p_memsz = 0x800;
  over.interpreter = "/nowhere";
  ElfBytes program;
  program.interpreter = "/over";
  add("/over", over);
  add("/program", program);
  in_process([&](Process& self) {
    const auto image = exec(self, "/program");
    ASSERT_TRUE(image) << image.error().why;
    EXPECT_EQ(image->entry, VirtAddr(0x401020));
    const vm::Vma* code = self.mm->mm_vmas.lookup(VirtAddr(0x401000));
    EXPECT_EQ(code->vm_file->sb().path_of(code->vm_file->inode()), "/over");
  });
}

TEST_F(ExecTest, OfTwoWordsOnTheStackTheLastStands) {
  ElfBytes elf;
  elf.segments.push_back(ElfBytes::other(PT_GNU_STACK, PF_R | PF_W | PF_X));
  elf.segments.push_back(ElfBytes::other(PT_GNU_STACK, PF_R | PF_W));
  add("/program", elf);
  in_process([&](Process& self) {
    ASSERT_TRUE(exec(self, "/program"));
    EXPECT_FALSE(self.mm->mm_vmas.last()->has(vm::VmFlags::kExec));
  });
}

TEST_F(ExecTest, ThePersonalityMayWantPageZero) {
  add("/program", ElfBytes{});
  in_process([&](Process& self) {
    self.personality |= vm::Personality::kMmapPageZero;
    ASSERT_TRUE(exec(self, "/program"));
    EXPECT_EQ(self.mm->mm_vmas.first()->vm_start, VirtAddr(0x400000)) << "where vm.mmap_min_addr forbids it, it is left out";
    machine_->vm().tunables().mmap_min_addr = VirtAddr(0);
    ASSERT_TRUE(exec(self, "/program"));
    const vm::Vma* zero = self.mm->mm_vmas.first();
    EXPECT_EQ(zero->range(), (Range<VirtAddr>{VirtAddr(0), VirtAddr(kPageSize)}));
    EXPECT_TRUE(zero->has(vm::VmFlags::kExec));
    EXPECT_FALSE(zero->has(vm::VmFlags::kWrite));
  });
}

// Five levels change nothing for a program that does not ask for addresses beyond the window.
TEST(ExecFiveLevels, AProgramLiesAsWithFour) {
  MachineConfig config;
  config.ram = 32 * kMiB;
  config.kernel_reserved = 4 * kMiB;
  config.data_mode = phys::DataMode::kData;
  config.arch = "x86-64-la57";
  const auto machine = std::move(*Machine::boot(config));
  ElfBytes program(ET_DYN, 0);
  program.interpreter = "/ld.so";
  file::FileSystem& fs = machine->vfs().mount({});
  ASSERT_TRUE(fs.create("/program", std::make_unique<BytesBacking>(program.bytes())));
  ASSERT_TRUE(fs.create("/ld.so", std::make_unique<BytesBacking>(ElfBytes(ET_DYN, 0).bytes())));
  start(*machine, "old", [&](Process& self) {
    self.personality = vm::Personality::kAddrNoRandomize;
    const auto image = machine->processes().execve(self, {"/program", {}, {}});
    ASSERT_TRUE(image) << image.error().why;
    EXPECT_EQ(self.mm->mm_vmas.first()->vm_start, VirtAddr(0x555555554000));
    EXPECT_EQ(self.mm->mm_vmas.last()->vm_end, VirtAddr(0x7ffffffff000));
    EXPECT_EQ(self.mm->vdso + 2 * kPageSize, image->entry - 0x1010);
    EXPECT_EQ(image->entry, VirtAddr(self.mm->mmap_base.value() - 0x5000 + 0x1010));
  });
  ASSERT_TRUE(machine->run().done());
  machine->validate();
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

// --- randomisation -----------------------------------------------------------------------------------------------------------

struct Places {
  VirtAddr program, mmap_base, stack, brk_gap_end, vdso;
  bool operator==(const Places&) const = default;
};

Places places(std::uint64_t seed, unsigned randomize_va_space, vm::Personality personality) {
  const auto machine = boot_with_data(32 * kMiB, seed);
  machine->vm().tunables().randomize_va_space = randomize_va_space;
  file::FileSystem& fs = machine->vfs().mount({});
  ElfBytes program(ET_DYN, 0);
  program.interpreter = "/ld.so";
  EXPECT_TRUE(fs.create("/program", std::make_unique<BytesBacking>(program.bytes())));
  EXPECT_TRUE(fs.create("/ld.so", std::make_unique<BytesBacking>(ElfBytes(ET_DYN, 0).bytes())));
  Places result;
  start(*machine, "old", [&](Process& self) {
    self.personality = personality;
    const std::array<std::string_view, 1> argv{"program"};
    ASSERT_TRUE(machine->processes().execve(self, {"/program", argv, {}}));
    const vm::Mm& mm = *self.mm;
    const VirtAddr begin = mm.start_code - 0x1000;
    result = {begin, mm.mmap_base, mm.start_stack, VirtAddr(mm.start_brk - begin), mm.vdso};
    EXPECT_EQ(begin.value() % kPageSize, 0u);
    EXPECT_EQ(mm.start_brk.value() % kPageSize, 0u);
    EXPECT_LE(mm.start_brk - begin, 0x5000 + 32 * kMiB);
    EXPECT_LE(mm.start_stack.value(), 0x7ffffffff000u);
    EXPECT_GE(mm.start_stack.value(), 0x7ffffffff000u - (16ull << 30) - 8 * kPageSize);
    EXPECT_LE(mm.mmap_base.value(), mm.start_stack.value() - 128 * kMiB + (16ull << 30));
  });
  EXPECT_TRUE(machine->run().done());
  return result;
}

TEST(ExecLayout, ASeedRepeatsItAndAnotherGivesAnother) {
  const Places one = places(1, 2, vm::Personality::kNone);
  EXPECT_EQ(places(1, 2, vm::Personality::kNone), one);
  const Places two = places(2, 2, vm::Personality::kNone);
  EXPECT_NE(two.program, one.program);
  EXPECT_NE(two.mmap_base, one.mmap_base);
  EXPECT_NE(two.stack, one.stack);
  EXPECT_NE(two.brk_gap_end, one.brk_gap_end);
  EXPECT_NE(two.vdso, one.vdso);
}

// Linux's vdso_addr: from the stack's end to where the last place in 2 MiB that takes all of it is.
TEST_F(ExecTest, TheVdsoIsDrawnFromTheRestOfItsTwoMiBOrTheNext) {
  constexpr std::uint64_t kLength = 6 * kPageSize;
  constexpr VirtAddr kTwoMiB{0x7ffff0000000};
  struct Place {
    VirtAddr stack, first, last;
  };
  const Place kPlaces[] = {
      {kTwoMiB, kTwoMiB, kTwoMiB + 2 * kMiB - kLength},
      {kTwoMiB + 1, kTwoMiB + kPageSize, kTwoMiB + 2 * kMiB - kLength},
      {kTwoMiB - 5 * kPageSize, kTwoMiB - 5 * kPageSize, kTwoMiB + 2 * kMiB - kLength},
      {kTwoMiB - 6 * kPageSize, kTwoMiB - 6 * kPageSize, kTwoMiB - 6 * kPageSize},
      {kTwoMiB - 9 * kPageSize, kTwoMiB - 9 * kPageSize, kTwoMiB - 6 * kPageSize},
      {VirtAddr(0x7fffffffe000), VirtAddr(0x7fffffffe000), VirtAddr(0x7fffffffe000)},  // user space ends
  };
  in_process([&](Process& self) {
    for (const Place& place : kPlaces) {
      self.mm->start_stack = place.stack;
      VirtAddr lowest{~std::uint64_t{0}};
      VirtAddr highest{0};
      for (unsigned draw = 0; draw < 8192; ++draw) {
        const VirtAddr at = machine_->vm().vdso_addr(*self.mm, kLength);
        EXPECT_EQ(page_offset(at), 0u);
        lowest = std::min(lowest, at);
        highest = std::max(highest, at);
      }
      EXPECT_EQ(lowest, place.first);
      EXPECT_EQ(highest, place.last);
    }
  });
}

TEST(ExecLayout, RandomizeVaSpace1LeavesTheHeapBehindTheProgram) {
  EXPECT_EQ(places(1, 1, vm::Personality::kNone).brk_gap_end, VirtAddr(0x5000));
  EXPECT_NE(places(1, 2, vm::Personality::kNone).brk_gap_end, VirtAddr(0x5000));
}

TEST(ExecLayout, OffBySysctlOrPersonalityIsTheSameForEverySeed) {
  const Places off = places(1, 0, vm::Personality::kNone);
  EXPECT_EQ(off.program, VirtAddr(0x555555554000));
  EXPECT_EQ(off.mmap_base, VirtAddr(0x7ffff7fff000));
  EXPECT_EQ(places(2, 0, vm::Personality::kNone), off);
  EXPECT_EQ(places(3, 2, vm::Personality::kAddrNoRandomize), off);
}

TEST(ExecLayout, TheCompatLayoutGoesUpwardsFromAThird) {
  const Places legacy = places(1, 0, vm::Personality::kAddrCompatLayout);
  EXPECT_EQ(legacy.mmap_base, VirtAddr(0x2aaaaaaab000));
  EXPECT_EQ(legacy.vdso, legacy.mmap_base + 0x5000 + 4 * kPageSize);  // behind the interpreter
}

// --- want of memory, and garbage ------------------------------------------------------------------------------------------------

TEST_F(ExecTest, EachAllocationThatFailsLeavesTheOldProgramOrKills) {
  ElfBytes program(ET_DYN, 0);
  program.interpreter = "/ld.so";
  add("/program", program);
  add("/ld.so", ElfBytes(ET_DYN, 0));
  for (const FaultPoint point : {FaultPoint::kSlabAlloc, FaultPoint::kPageAlloc}) {
    unsigned refused = 0;
    unsigned killed = 0;
    bool done = false;  // the last time
    for (std::uint64_t nth = 1; nth <= 120; ++nth) {
      Process* child = nullptr;
      in_process([&](Process& self) {
        ProcessTable& table = machine_->processes();
        const Objects before = objects_left();
        child = *table.fork(self, [&](Thread& thread) {
          Process& me = *thread.process;
          vm::Mm* const old = me.mm;
          machine_->faults().set(point, {.nth = nth});
          const auto result = exec(me, "/program");
          machine_->faults().set(point, {});
          done = result.has_value();
          if (done) {
            EXPECT_FALSE(me.killed());
          } else if (me.mm == old) {
            ++refused;
            EXPECT_TRUE(result.error().error == Errno::kNoMem || result.error().error == Errno::kTooBig)
                << errno_name(result.error().error) << " " << result.error().why;
          } else {
            ++killed;
            EXPECT_TRUE(me.killed());
          }
          table.exit_thread(thread, {});
        });
        ASSERT_TRUE(table.wait(self, *child));
        EXPECT_EQ(objects_left(), before) << nth;
        EXPECT_EQ(machine_->vfs().open_files(), 0u);
        EXPECT_EQ(address_spaces(), 1u);
      });
    }
    EXPECT_TRUE(done);
    EXPECT_GT(refused, 3u);
    EXPECT_GT(killed, 1u);
  }
}

// A field of a program header, or of the ELF header, gets a value that is none or nearly none.
void spoil(ElfBytes& elf, std::mt19937_64& random) {
  static constexpr std::uint64_t kValues[] = {
      0, 1, 0x1000, 0x1001, 0x400000, 0x7ffffffff000, 0x7fffffffffff, 0x8000000000000000, ~0ull, 0x2000, 0xfff, 0x555555554000};
  static constexpr std::uint64_t Elf64_Phdr::* kFields[] = {&Elf64_Phdr::p_offset, &Elf64_Phdr::p_vaddr, &Elf64_Phdr::p_filesz,
                                                            &Elf64_Phdr::p_memsz, &Elf64_Phdr::p_align};
  const std::uint64_t value = kValues[random() % std::size(kValues)];
  switch (random() % 16) {
    case 0: elf.header.e_entry = value; return;
    case 1: elf.header.e_phoff = value; return;
    case 2: elf.header.e_phnum = static_cast<std::uint16_t>(value); return;
    case 3: elf.header.e_type = static_cast<std::uint16_t>(random() % 5); return;
    default: break;
  }
  Elf64_Phdr& segment = elf.segments[random() % elf.segments.size()];
  segment.*kFields[random() % std::size(kFields)] = value;
  if (random() % 4 == 0) segment.p_flags = static_cast<std::uint32_t>(random() % 8);
  if (random() % 16 == 0) segment.p_type = random() % 2 == 0 ? PT_INTERP : PT_GNU_STACK;
}

// Whatever stands in the headers of a program and of its interpreter: an answer, a machine that is whole, and nothing left over.
TEST_F(ExecTest, RandomHeadersAreAnswered) {
  constexpr unsigned kRounds = 400;
  std::mt19937_64 random(1);
  unsigned ran = 0;
  for (unsigned round = 0; round < kRounds; ++round) {
    const auto made = [&] { return ElfBytes(random() % 2 == 0 ? ET_EXEC : ET_DYN, random() % 2 == 0 ? 0 : 0x400000); };
    ElfBytes elf = made();
    ElfBytes interpreter = made();
    if (random() % 2 == 0) elf.interpreter = "/ld.so";
    for (std::uint64_t changes = random() % 4; changes > 0; --changes) spoil(random() % 3 == 0 ? interpreter : elf, random);
    SCOPED_TRACE(round);
    add("/random", elf);
    add("/ld.so", interpreter);
    const Objects before = objects_left();
    in_process([&](Process& self) { ran += exec(self, "/random").has_value() ? 1 : 0; });
    EXPECT_EQ(objects_left(), before);
    EXPECT_EQ(machine_->vfs().open_files(), 0u);
    ASSERT_TRUE(fs().unlink("/random"));
    ASSERT_TRUE(fs().unlink("/ld.so"));
  }
  EXPECT_GT(ran, kRounds / 5);
  EXPECT_LT(ran, kRounds * 4 / 5);
}

}  // namespace
}  // namespace quire::kernel
