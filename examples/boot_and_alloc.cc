// Boots a machine, takes memory from it until a tenth of it is gone, gives it back, and shows what its zones say each time.
//
//   cmake --build build --target examples && build/examples/boot_and_alloc [RAM]     RAM as in 64M
#include <fmt/format.h>

#include <vector>

#include "quire/base/size.h"
#include "quire/kernel/machine.h"
#include "quire/observe/zone_table.h"

int main(int argc, char** argv) {
  using namespace quire;
  kernel::MachineConfig config;
  const auto ram = parse_size(argc > 1 ? argv[1] : "64M");
  if (!ram) return fmt::print(stderr, "{}\n", ram.error().sentence), 2;
  config.ram = *ram;

  const auto machine = kernel::Machine::boot(config);
  if (!machine) return fmt::print(stderr, "{}\n", machine.error().sentence), 1;
  phys::PhysMem& phys = (*machine)->phys();
  const auto show = [&phys](const char* when) {
    phys.drain_all_pages();  // what CPUs keep for themselves counts as taken
    fmt::print("{}: {} pages free\n{}\n", when, phys.meminfo().freeram, observe::zone_table(phys));
  };
  show("booted");
  const std::uint64_t free_at_boot = phys.meminfo().freeram;

  // Blocks of 16 pages, as a driver would take them for a buffer.
  const Order order(4);
  std::vector<phys::Page*> blocks;
  while (blocks.size() * order.pages() < phys.totalram_pages() / 10) {
    phys::Page* const block = phys.alloc_pages(phys::Gfp::kKernel, order);
    if (block == nullptr) break;
    blocks.push_back(block);
  }
  show(fmt::format("{} blocks of {} pages taken", blocks.size(), order.pages()).c_str());

  for (phys::Page* const block : blocks) phys.free_pages(*block, order);
  show("given back");
  (*machine)->validate();
  return !blocks.empty() && phys.meminfo().freeram == free_at_boot ? 0 : 1;
}
