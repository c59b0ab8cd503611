// Where QEMU calls in: translation, executed blocks, memory accesses, system calls. The callbacks that run on each block and
// access are here and do next to nothing; everything else is behind a miss of their one or two compares.
#include "quire/recorder/process.h"
#include "quire/recorder/qemu_api.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstring>
#include <new>

namespace quire::recorder {
namespace {

// Stands in for a thread's Vcpu until its first block: no tag ever matches, its epoch is always over.
Vcpu unborn;
__attribute__((tls_model("initial-exec"))) thread_local Vcpu* self = &unborn;

alignas(Process) unsigned char process_storage[sizeof(Process)];

// Block callback data: page of the block << 12 | number of instructions (at most 512).
constexpr std::uint64_t kCountMask = 0xfff;

[[gnu::noinline, gnu::cold]] void first_block(std::uint64_t instructions) {
  self = &make_vcpu();
  self->shared.instructions += instructions;
}

[[gnu::noinline]] void block_slow(std::uint64_t page, std::uint64_t count) {
  if (self == &unborn) first_block(count);
  Vcpu& v = *self;
  if (v.shared.instructions >= v.epoch_end) v.start_epoch(process().window);
  filtered_access(v, page, AccessKind::kExec, v.shared.instructions - count);
}

void on_block(unsigned, void* userdata) {
  Vcpu& v = *self;
  const auto data = reinterpret_cast<std::uint64_t>(userdata);
  const std::uint64_t page = data >> 12;
  v.shared.instructions += data & kCountMask;
  if (v.exec_tags[page % kFastExecSlots] == (v.exec_base | page) && v.shared.instructions < v.epoch_end) [[likely]]
    return;
  block_slow(page, data & kCountMask);
}

// A block that goes on into the next page.
void on_crossing_block(unsigned vcpu, void* userdata) {
  on_block(vcpu, userdata);
  const auto data = reinterpret_cast<std::uint64_t>(userdata);
  block_slow((data >> 12) + 1, data & kCountMask);
}

[[gnu::noinline]] void access_slow(std::uint64_t vaddr, qemu_plugin_meminfo_t info, void* remaining, AccessKind kind) {
  if (self == &unborn) first_block(0);
  Vcpu& v = *self;
  const std::uint64_t at = v.shared.instructions - reinterpret_cast<std::uint64_t>(remaining);
  const std::uint64_t last = vaddr + (std::uint64_t{1} << qemu_plugin_mem_size_shift(info)) - 1;
  filtered_access(v, vaddr >> 12, kind, at);
  if (last >> 12 != vaddr >> 12) [[unlikely]]
    filtered_access(v, last >> 12, kind, at);
}

constexpr std::uint64_t kNearPageEnd = 0xfff - 15;  // an access from here on may cross into the next page

// One callback for loads and stores: QEMU 7.2 calls callbacks that asked for one of them by a filter that takes loads for
// stores, while the access itself says rightly what it is. A read-modify-write is a store.
void on_access(unsigned, qemu_plugin_meminfo_t info, std::uint64_t vaddr, void* remaining) {
  const Vcpu& v = *self;
  const std::uint64_t page = vaddr >> 12;
  const bool store = qemu_plugin_mem_is_store(info);
  const std::uint64_t tag = store ? v.write_tags[page % kFastSlots] : v.read_tags[page % kFastSlots];
  const std::uint64_t base = store ? v.write_base : v.read_base;
  if (tag == (base | page) && (vaddr & 0xfff) <= kNearPageEnd) [[likely]]
    return;
  access_slow(vaddr, info, remaining, store ? AccessKind::kWrite : AccessKind::kRead);
}

void on_translate(qemu_plugin_id_t, qemu_plugin_tb* tb) {
  const std::size_t n = qemu_plugin_tb_n_insns(tb);
  if (n == 0) return;
  Process& p = process();
  qemu_plugin_insn* const first = qemu_plugin_tb_get_insn(tb, 0);
  qemu_plugin_insn* const last = qemu_plugin_tb_get_insn(tb, n - 1);
  const std::uint64_t begin = qemu_plugin_insn_vaddr(first);
  const std::uint64_t end = qemu_plugin_insn_vaddr(last) + qemu_plugin_insn_size(last) - 1;
  if (p.entry == 0) {
    p.entry = begin;
    if (void* const host = qemu_plugin_insn_haddr(first)) p.guest_base = reinterpret_cast<std::uint64_t>(host) - begin;
  }
  qemu_plugin_register_vcpu_tb_exec_cb(tb, begin >> 12 == end >> 12 ? on_block : on_crossing_block, QEMU_PLUGIN_CB_NO_REGS,
                                       reinterpret_cast<void*>(begin >> 12 << 12 | n));
  for (std::size_t i = 0; i < n; ++i) {
    qemu_plugin_insn* const insn = qemu_plugin_tb_get_insn(tb, i);
    auto* const remaining = reinterpret_cast<void*>(n - i);
    qemu_plugin_register_vcpu_mem_cb(insn, on_access, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, remaining);
  }
}

void syscall_entry(qemu_plugin_id_t, unsigned, std::int64_t number, std::uint64_t a1, std::uint64_t a2, std::uint64_t a3,
                   std::uint64_t a4, std::uint64_t a5, std::uint64_t a6, std::uint64_t, std::uint64_t) {
  on_syscall(current(), number, {a1, a2, a3, a4, a5, a6});
}

void syscall_return(qemu_plugin_id_t, unsigned, std::int64_t number, std::int64_t result) {
  on_syscall_return(current(), number, result);
}

void take_option(Process& p, const char* option) {
  const char* const value = std::strchr(option, '=');
  if (value == nullptr) return;
  const std::string_view name(option, static_cast<std::size_t>(value - option));
  if (name == "socket") p.socket_name = value + 1;
  if (name == "window") p.window = std::strtoull(value + 1, nullptr, 10);
  if (name == "randomized") p.randomized = std::strcmp(value + 1, "on") == 0;
}

std::string own_argument(int argc, char** argv) {
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(&own_argument), &info);
  std::string text = info.dli_fname;
  for (int i = 0; i < argc; ++i) text.append(",").append(argv[i]);
  return text;
}

}  // namespace

Process& process() { return *std::launder(reinterpret_cast<Process*>(process_storage)); }

Vcpu& current() {
  if (self == &unborn) first_block(0);
  return *self;
}

void forget_current() { self = &unborn; }

}  // namespace quire::recorder

QUIRE_PLUGIN_EXPORT int qemu_plugin_version;
int qemu_plugin_version = 1;

QUIRE_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc, char** argv) {
  using namespace quire::recorder;
  if (info->system_emulation || std::strcmp(info->target_name, "x86_64") != 0) return 1;
  Process& p = *new (process_storage) Process;
  pthread_mutex_init(&p.lock, nullptr);
  for (int i = 0; i < argc; ++i) take_option(p, argv[i]);
  p.plugin_argument = own_argument(argc, argv);
  char path[4096];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof path);
  if (size <= 0 || p.socket_name.empty()) return 1;
  p.qemu.assign(path, static_cast<std::size_t>(size));
  p.host_pid = getpid();
  guard_forks();
  note_inherited_files();
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
  qemu_plugin_register_vcpu_syscall_cb(id, syscall_entry);
  qemu_plugin_register_vcpu_syscall_ret_cb(id, syscall_return);
  return 0;
}
