// Walks the areas of a process as a kernel module would walk current->mm, and prints where each starts and ends. The process
// has mapped a file, taken memory and grown its heap before that.
//
//   cmake --build build --target examples && build/examples/walk_vmas [RAM]     RAM as in 64M
#include <fmt/format.h>

#include <string_view>

#include "quire/base/size.h"
#include "quire/kernel/machine.h"

namespace {

using namespace quire;

// False: a call failed.
bool map_something(kernel::Machine& machine, vm::Mm& mm) {
  vm::Vm& vm = machine.vm();
  file::FileSystem& disk = machine.vfs().mount({.dev = 0x802});
  const auto inode = disk.create("/bin/program", std::make_unique<file::ZeroBacking>(3 * kPageSize));
  if (!inode) return false;
  const auto program = machine.vfs().open(**inode, file::FileMode::kRead);
  if (!program) return false;
  const auto text = vm.mmap(mm, VirtAddr(0x400000), 3 * kPageSize, vm::Prot::kRead | vm::Prot::kExec,
                            vm::MapFlags::kPrivate | vm::MapFlags::kFixed, *program, 0);
  machine.vfs().fput(**program);  // the area holds it
  const auto memory = vm.mmap(mm, VirtAddr(0), kMiB, vm::Prot::kRead | vm::Prot::kWrite,
                              vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0);
  mm.start_brk = mm.brk = VirtAddr(0x600000);
  return text && memory && vm.brk(mm, VirtAddr(0x621000)) == VirtAddr(0x621000) && vm.setup_stack(mm).has_value();
}

void walk(vm::Mm& mm) {
  const sim::ReadGuard guard(mm.mmap_lock);
  for (const vm::Vma& vma : mm.mm_vmas) {
    fmt::print("{:#x} -------- {:#x}\n", vma.vm_start.value(), vma.vm_end.value());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2 || (argc > 1 && argv[1][0] == '-')) {
    const bool asked = argc == 2 && (std::string_view(argv[1]) == "--help" || std::string_view(argv[1]) == "-h");
    return fmt::print(asked ? stdout : stderr,
                      "usage: walk_vmas [RAM], where RAM is a size as in 64M (which is the default)\n"),
           asked ? 0 : 2;
  }
  kernel::MachineConfig config;
  const auto ram = parse_size(argc > 1 ? argv[1] : "64M");
  if (!ram) return fmt::print(stderr, "{}\n", ram.error().sentence), 2;
  config.ram = *ram;
  const auto booted = kernel::Machine::boot(config);
  if (!booted) return fmt::print(stderr, "{}\n", booted.error().sentence), 1;
  kernel::Machine& machine = **booted;

  bool mapped = false;
  const auto process = machine.processes().create("program", [&](kernel::Thread& self) {
    vm::Mm& mm = *self.process->mm;
    mapped = map_something(machine, mm);
    walk(mm);
    machine.processes().exit_thread(self, {});
  });
  if (!process) return fmt::print(stderr, "no memory for a process\n"), 1;
  static_cast<void>(machine.run());
  return mapped ? 0 : 1;
}
