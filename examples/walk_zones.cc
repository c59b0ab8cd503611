// Walks a machine's nodes and zones as a kernel module would: what each node and zone spans, how long each of the five LRU
// lists of a zone is, and which page frames of a range have no struct Page. Before that, processes have run: one reads a file
// twice, one writes memory, one locks some of it.
//
//   cmake --build build --target examples && build/examples/walk_zones [RAM [NODES]]
#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "quire/base/size.h"
#include "quire/kernel/machine.h"

namespace {

using namespace quire;
using lru::LruList;

constexpr std::uint64_t kAnonPages = 300;
constexpr std::uint64_t kLockedPages = 40;
constexpr std::uint64_t kFileBytes = 2 * kMiB;

// A process of one thread that does its work and then sleeps, so that its memory is still there to be seen.
template <class Work>
bool start(kernel::Machine& machine, const char* name, Work work) {
  kernel::ProcessTable& table = machine.processes();
  return table
      .create(name,
              [&machine, &table, work](kernel::Thread& thread) {
                work(*thread.process);
                machine.scheduler().sleep_for(sim::kSecond * 3600);
                table.exit_thread(thread, {});
              })
      .has_value();
}

void write_memory(kernel::Machine& machine, kernel::Process& self, std::uint64_t pages, std::uint64_t locked) {
  vm::Vm& vm = machine.vm();
  const auto at = vm.mmap(*self.mm, VirtAddr(0), pages * kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                          vm::MapFlags::kPrivate | vm::MapFlags::kAnonymous, nullptr, 0);
  if (!at) return;
  for (std::uint64_t i = 0; i < pages; ++i) static_cast<void>(vm.access(*self.mm, *at + i * kPageSize, arch::Access::kWrite));
  if (locked != 0) static_cast<void>(vm.mlock(*self.mm, *at, locked * kPageSize));
}

void read_file_twice(kernel::Machine& machine) {
  file::Vfs& vfs = machine.vfs();
  file::FileSystem& disk = vfs.mount({.dev = 0x802});
  const auto inode = disk.create("/data", std::make_unique<file::ZeroBacking>(kFileBytes));
  if (!inode) return;
  const auto open = vfs.open(**inode, file::FileMode::kRead);
  if (!open) return;
  file::NullIter nowhere;
  static_cast<void>(vfs.pread(**open, 0, kFileBytes, nowhere));
  for (int again = 0; again < 2; ++again)
    static_cast<void>(vfs.pread(**open, 0, kFileBytes / 4, nowhere));  // read often: active
  vfs.fput(**open);
}

const char* name_of(LruList list) {
  switch (list) {
    case LruList::kInactiveAnon: return "LRU_INACTIVE_ANON";
    case LruList::kActiveAnon: return "LRU_ACTIVE_ANON";
    case LruList::kInactiveFile: return "LRU_INACTIVE_FILE";
    case LruList::kActiveFile: return "LRU_ACTIVE_FILE";
    default: return "LRU_UNEVICTABLE";
  }
}

// The lists hang on the node, which counts for each zone how many pages of a list lie in it.
void print_lists(kernel::Machine& machine, const phys::Zone& zone) {
  const lru::Lruvec& lruvec = machine.lru().lruvec(zone.node().nid());
  for (std::size_t i = 0; i < lru::kLruLists; ++i) {
    const auto list = static_cast<LruList>(i);
    if (const std::uint64_t pages = lruvec.zone_size(list, zone.type()); pages != 0) {
      fmt::print("{} not empty,page count:{}\n", name_of(list), pages);
    } else {
      fmt::print("{} empty\n", name_of(list));
    }
  }
}

void print_nodes(kernel::Machine& machine) {
  for (const auto& node : machine.phys().nodes()) {
    fmt::print("node id:{}\nnode_start_pfn:{}\nnode_present_pages:{}\nnode_spanned_pages:{}\n", node->nid().value(),
               node->start_pfn().value(), node->present_pages(), node->spanned_pages());
    node->for_each_zone([&](phys::Zone& zone) {
      if (!zone.populated()) return;
      fmt::print("zone id:{} ({})\nzone_start_pfn:{}\nzone_present_pages:{}\nzone_spanned_pages:{}\n",
                 static_cast<unsigned>(zone.type()), zone.name(), zone.start_pfn().value(), zone.present_pages(),
                 zone.spanned_pages());
      print_lists(machine, zone);
    });
  }
}

// A struct Page stands for every frame of a section that has memory, so the first that is not valid lies behind the last one.
void print_invalid(const phys::PhysMem& phys) {
  const Pfn end = align_up(phys.max_pfn(), phys::kPagesPerSection);
  for (Pfn pfn = end - 8; pfn < end + 8; ++pfn) {
    if (!phys.pfn_valid(pfn)) fmt::print("pfn {} is not valid\n", pfn.value());
  }
}

}  // namespace

int main(int argc, char** argv) {
  kernel::MachineConfig config;
  const auto ram = parse_size(argc > 1 ? argv[1] : "64M");
  if (!ram) return fmt::print(stderr, "{}\n", ram.error().sentence), 2;
  config.ram = *ram;
  config.cpus = 2;
  if (argc > 2) {
    const auto [end, error] = std::from_chars(argv[2], argv[2] + std::strlen(argv[2]), config.nodes);
    if (error != std::errc{} || *end != '\0') return fmt::print(stderr, "'{}' is no number of nodes\n", argv[2]), 2;
  }
  const auto machine = kernel::Machine::boot(config);
  if (!machine) return fmt::print(stderr, "{}\n", machine.error().sentence), 1;
  kernel::Machine& m = **machine;

  const bool started = start(m, "reader", [&m](kernel::Process&) { read_file_twice(m); }) &&
                       start(m, "writer", [&m](kernel::Process& self) { write_memory(m, self, kAnonPages, 0); }) &&
                       start(m, "locker", [&m](kernel::Process& self) { write_memory(m, self, kLockedPages, kLockedPages); });
  if (!started) return fmt::print(stderr, "no memory for three processes\n"), 1;
  static_cast<void>(m.scheduler().run_until(m.scheduler().now() + 60 * sim::kSecond));
  m.lru().lru_add_drain_all();

  print_nodes(m);
  print_invalid(m.phys());
  return 0;
}
