#include "quire/kernel/exec.h"

#include <algorithm>
#include <array>

namespace quire::kernel {

namespace {

constexpr std::uint64_t kMaxArgStrlen = 32 * kPageSize;  // MAX_ARG_STRLEN
constexpr std::uint64_t kArgMax = 131072;                // ARG_MAX
constexpr std::uint64_t kStkLim = 8 * kMiB;              // _STK_LIM
constexpr std::uint64_t kPathMax = 4096;                 // PATH_MAX
constexpr std::uint64_t kPointer = sizeof(std::uint64_t);

// bprm_stack_limits: how far down the strings may go, so that pointers to them and a stack still fit.
ExecResult<void> limit_arguments(LinuxBinprm& bprm) {
  std::uint64_t limit = std::min(kStkLim / 4 * 3, bprm.mm->rlimits.stack / 4);
  limit = std::max(limit, kArgMax);
  const std::uint64_t pointers = (std::max<std::uint64_t>(bprm.argv.size(), 1) + bprm.args.envp.size()) * kPointer;
  if (limit <= pointers) return exec_error(Errno::kTooBig, "more arguments than the stack's limit allows");
  bprm.argmin = VirtAddr(bprm.p.value() - (limit - pointers));
  return {};
}

// A string and its zero below what is there already.
ExecResult<void> copy_string(vm::Vm& vm, LinuxBinprm& bprm, std::string_view text) {
  constexpr std::byte kZero{0};
  if (text.size() + 1 > kMaxArgStrlen) return exec_error(Errno::kTooBig, "an argument is longer than 128 KiB");
  const VirtAddr at(bprm.p.value() - (text.size() + 1));
  if (at < bprm.argmin) return exec_error(Errno::kTooBig, "the arguments are longer than the stack's limit allows");
  // From the end, as the stack grows.
  const bool copied = vm.copy_to_user(*bprm.mm, at + text.size(), std::span(&kZero, 1)) == 1 &&
                      vm.copy_to_user(*bprm.mm, at, std::as_bytes(std::span(text))) == text.size();
  if (!copied) return exec_error(Errno::kTooBig, "no room on the stack for the arguments");
  bprm.p = at;
  return {};
}

ExecResult<void> copy_strings(vm::Vm& vm, LinuxBinprm& bprm, std::span<const std::string_view> strings) {
  for (std::size_t i = strings.size(); i-- > 0;) {
    if (auto copied = copy_string(vm, bprm, strings[i]); !copied) return copied;
  }
  return {};
}

}  // namespace

ExecResult<void> Exec::prepare(LinuxBinprm& bprm, const vm::Mm& old, vm::Personality personality) {
  const auto mm = vm_.mm_alloc();
  if (!mm) return exec_error(mm.error(), "no memory for an address space");
  bprm.mm = *mm;
  bprm.mm->rlimits = old.rlimits;
  bprm.mm->ipc_lock = old.ipc_lock;
  vm_.arch_pick_mmap_layout(*bprm.mm, personality);
  if (auto copied = copy_arguments(bprm); !copied) return copied;
  auto file = open_exec(bprm.args.filename);
  if (!file) return std::unexpected(file.error());
  bprm.file = *file;
  return read_headers(bprm);
}

void Exec::free_bprm(LinuxBinprm& bprm) {
  for (auto* headers : {&bprm.elf, &bprm.interp_elf}) {
    if (headers->has_value()) (*headers)->release(slab_);
  }
  for (file::File* open : {bprm.file, bprm.interpreter}) {
    if (open != nullptr) vfs_.fput(*open);
  }
  if (bprm.mm != nullptr) vm_.mmput(*bprm.mm);
}

ExecResult<void> Exec::copy_arguments(LinuxBinprm& bprm) {
  static constexpr std::array<std::string_view, 1> kNoArguments{""};
  bprm.argv = bprm.args.argv.empty() ? std::span<const std::string_view>(kNoArguments) : bprm.args.argv;
  const VirtAddr top = vm_.randomize_stack_top(*bprm.mm);
  if (!vm_.bprm_mm_init(*bprm.mm, top)) return exec_error(Errno::kNoMem, "no memory for a stack");
  bprm.p = VirtAddr(top.value() - kPointer);
  if (auto limited = limit_arguments(bprm); !limited) return limited;
  if (auto copied = copy_string(vm_, bprm, bprm.args.filename); !copied) return copied;
  bprm.exec = bprm.p;
  if (auto copied = copy_strings(vm_, bprm, bprm.args.envp); !copied) return copied;
  return copy_strings(vm_, bprm, bprm.argv);
}

ExecResult<file::File*> Exec::open_exec(std::string_view path) {
  const auto name = vfs_.getname(path);
  if (!name) {
    return exec_error(name.error(), name.error() == Errno::kNoMem ? "no memory for a path" : "the path has 4,096 bytes or more");
  }
  file::Inode* inode = nullptr;
  for (std::size_t i = 0; i < vfs_.mounts().size() && inode == nullptr; ++i) inode = vfs_.mounts()[i]->lookup(name->name());
  if (inode == nullptr) return exec_error(Errno::kNoEnt, "no file of that name");
  if (inode->i_type != file::InodeType::kRegular) return exec_error(Errno::kAcces, "not a regular file");
  const auto file = vfs_.open(*inode, file::FileMode::kRead);
  if (!file) return exec_error(file.error(), "no memory for an open file");
  return *file;
}

ExecResult<void> Exec::read_headers(LinuxBinprm& bprm) {
  auto elf = ElfHeaders::read(vfs_, slab_, *bprm.file, ElfRole::kProgram);
  if (!elf) return std::unexpected(elf.error());
  bprm.elf.emplace(std::move(*elf));
  if (const Elf64_Phdr* segment = bprm.elf->find(PT_INTERP)) {
    if (auto opened = open_interpreter(bprm, *segment); !opened) return opened;
    auto interp = ElfHeaders::read(vfs_, slab_, *bprm.interpreter, ElfRole::kInterpreter);
    if (!interp) return std::unexpected(interp.error());
    bprm.interp_elf.emplace(std::move(*interp));
  }
  return {};
}

ExecResult<void> Exec::open_interpreter(LinuxBinprm& bprm, const Elf64_Phdr& segment) {
  if (segment.p_filesz > kPathMax || segment.p_filesz < 2)
    return exec_error(Errno::kNoExec, "the name of the interpreter (PT_INTERP) is empty or longer than a path");
  auto* path = static_cast<char*>(slab_.kmalloc(segment.p_filesz, phys::Gfp::kKernel));
  if (path == nullptr) return exec_error(Errno::kNoMem, "no memory for the interpreter's name");
  const std::span<char> bytes(path, segment.p_filesz);
  ExecResult<file::File*> opened = exec_error(Errno::kNoExec, "the name of the interpreter (PT_INTERP) does not end");
  if (Status got = read_exactly(vfs_, *bprm.file, segment.p_offset, std::as_writable_bytes(bytes)); !got) {
    opened = exec_error(got.error(), "the name of the interpreter (PT_INTERP) cannot be read");
  } else if (bytes.back() == '\0') {
    opened = open_exec(std::string_view(path));
  }
  slab_.kfree(path);
  if (!opened) return std::unexpected(opened.error());
  bprm.interpreter = *opened;
  return {};
}

}  // namespace quire::kernel
