// A machine may be dropped at any moment: its tasks are unwound from where they stand, and what they had in hand goes with the
// machine.
#include <array>

#include "effort.h"
#include "elf_bytes.h"
#include "small_machine.h"

namespace quire::kernel {
namespace {

constexpr std::uint64_t kRounds = 2;  // of each process

std::unique_ptr<Machine> boot_busy(std::uint64_t seed) {
  MachineConfig config;
  config.seed = seed;
  config.ram = 16 * kMiB;
  config.kernel_reserved = 4 * kMiB;
  config.cpus = 2;
  config.preempt_permille = 300;
  config.data_mode = phys::DataMode::kData;
  auto machine = Machine::boot(config);
  if (!machine) throw std::runtime_error(machine.error().sentence);
  file::FileSystem& fs = (*machine)->vfs().mount({});
  ElfBytes program(ET_DYN, 0);
  program.interpreter = "/ld.so";
  ElfBytes orphan;
  orphan.interpreter = "/nowhere";
  const std::pair<const char*, ElfBytes> files[] = {
      {"/program", program}, {"/ld.so", ElfBytes(ET_DYN, 0)}, {"/orphan", orphan}};
  for (const auto& [path, elf] : files) {
    if (!fs.create(path, std::make_unique<BytesBacking>(elf.bytes()))) throw std::runtime_error("no memory for a file");
  }
  return std::move(*machine);
}

// Attaches and detaches, forks children that exec, is refused by execve, and leaves a segment to its exit.
void live(Machine& machine, Process& self) {
  constexpr ShmGet kNew = ShmGet::kCreat | static_cast<ShmGet>(0600);
  constexpr std::array<std::string_view, 1> kArgv{"program"};
  ProcessTable& table = machine.processes();
  Shm& shm = machine.shm();
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    const auto id = shm.shmget(self, kIpcPrivate, 4 * kPageSize, kNew);
    if (!id) return;
    const auto at = shm.shmat(self, *id, VirtAddr(0), ShmAt::kNone);
    if (at) static_cast<void>(machine.vm().touch_user(*self.mm, *at, 4 * kPageSize, arch::Access::kWrite));
    static_cast<void>(shm.ipc_rmid(*id));
    const auto child = table.fork(self, [&](Thread& thread) {
      Process& me = *thread.process;
      static_cast<void>(table.execve(me, {"/orphan", kArgv, {}}));
      static_cast<void>(table.execve(me, {round % 2 == 0 ? "/program" : "/nothing", kArgv, {}}));
      if (me.mm->vdso.value() != 0)
        static_cast<void>(machine.vm().touch_user(*me.mm, me.mm->vdso, kPageSize, arch::Access::kRead));
      table.exit_thread(thread, {});
    });
    if (round % 2 == 0 && at) static_cast<void>(shm.shmdt(self, *at));
    if (child) static_cast<void>(table.wait(self, **child));
  }
}

void start_busy(Machine& machine) {
  for (unsigned i = 0; i < 3; ++i) start(machine, "busy", [&machine](Process& self) { live(machine, self); });
}

TEST(Teardown, AMachineMayBeDroppedWhileProcessesForkExecAttachAndExit) {
  const std::uint64_t seed = from_environment("QUIRE_SEED", 1);
  const std::uint64_t moments = from_environment("QUIRE_OPS", 400, 100);
  const auto whole = boot_busy(seed);
  const sim::Nanos begin = whole->scheduler().now();
  start_busy(*whole);
  ASSERT_TRUE(whole->run().done());
  const sim::Nanos length = whole->scheduler().now() - begin;
  for (sim::Nanos moment = 0; moment < moments; ++moment) {
    SCOPED_TRACE(fmt::format("QUIRE_SEED={}, moment {}", seed, moment));
    const auto machine = boot_busy(seed);
    start_busy(*machine);
    static_cast<void>(machine->scheduler().run_until(begin + length * moment / moments));
  }
}

}  // namespace
}  // namespace quire::kernel
