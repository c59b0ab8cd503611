// What execve refuses, what kills the program that asked, and that nothing is left over of either.
#include <random>

#include "exec_test.h"

namespace quire::kernel {
namespace {

using sim::FaultPoint;

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
            // Arguments that find no page are too many, headers that find none are no program's.
            const auto error = result.error().error;
            EXPECT_TRUE(error == Errno::kNoMem || error == Errno::kTooBig || error == Errno::kNoExec || error == Errno::kLibBad)
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
