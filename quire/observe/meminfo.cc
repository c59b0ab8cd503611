// /proc/meminfo, and what /sys/devices/system/node shows of each node.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "quire/base/cpu_list.h"
#include "quire/observe/online.h"
#include "quire/observe/proc_text.h"
#include "quire/phys/cma.h"

namespace quire::observe {

namespace {

using phys::NodeStat;
using phys::ZoneStat;

constexpr std::int64_t kib(std::int64_t pages) { return pages * static_cast<std::int64_t>(kPageSize / kKiB); }
std::int64_t kib(std::uint64_t pages) { return kib(static_cast<std::int64_t>(pages)); }

// si_mem_available: free memory above the reserves, and what of the page cache and the slabs can go without swapping.
std::int64_t available(const phys::PhysMem& phys) {
  const auto node_state = [&phys](NodeStat s) { return phys.global_node_page_state(s); };
  std::int64_t low = 0;
  for (const auto& node : phys.nodes()) {
    node->for_each_zone(
        [&](const phys::Zone& zone) { low += static_cast<std::int64_t>(zone.wmark_pages(phys::Watermark::kLow)); });
  }
  std::int64_t pages =
      phys.global_zone_page_state(ZoneStat::kNrFreePages) - static_cast<std::int64_t>(phys.totalreserve_pages());
  const std::int64_t cache = node_state(NodeStat::kNrActiveFile) + node_state(NodeStat::kNrInactiveFile);
  pages += cache - std::min(cache / 2, low);
  const std::int64_t slab = node_state(NodeStat::kNrSlabReclaimable) + node_state(NodeStat::kNrKernelMiscReclaimable);
  pages += slab - std::min(slab / 2, low);
  return std::max<std::int64_t>(pages, 0);
}

std::int64_t managed(const phys::Node& node) { return static_cast<std::int64_t>(node.managed_pages()); }

std::int64_t zone_sum(const phys::Node& node, ZoneStat s) {
  std::int64_t sum = 0;
  node.for_each_zone([&](const phys::Zone& zone) { sum += zone.state(s); });
  return sum;
}

// Lines that the machine's meminfo and each node's have in common; `pages` gives the KiB in a state.
template <class Line, class Pages>
void lru_lines(Line&& line, Pages&& pages) {
  line("Active", pages(NodeStat::kNrActiveAnon) + pages(NodeStat::kNrActiveFile));
  line("Inactive", pages(NodeStat::kNrInactiveAnon) + pages(NodeStat::kNrInactiveFile));
  line("Active(anon)", pages(NodeStat::kNrActiveAnon));
  line("Inactive(anon)", pages(NodeStat::kNrInactiveAnon));
  line("Active(file)", pages(NodeStat::kNrActiveFile));
  line("Inactive(file)", pages(NodeStat::kNrInactiveFile));
  line("Unevictable", pages(NodeStat::kNrUnevictable));
}

template <class Line, class Pages>
void slab_lines(Line&& line, Pages&& pages) {
  const std::int64_t reclaimable = pages(NodeStat::kNrSlabReclaimable);
  const std::int64_t unreclaimable = pages(NodeStat::kNrSlabUnreclaimable);
  line("KReclaimable", reclaimable + pages(NodeStat::kNrKernelMiscReclaimable));
  line("Slab", reclaimable + unreclaimable);
  line("SReclaimable", reclaimable);
  line("SUnreclaim", unreclaimable);
}

void node_meminfo(std::string& text, const phys::Node& node) {
  const int nid = node.nid().value();
  const auto line = [&](std::string_view name, std::int64_t kilobytes) {
    text += fmt::format("Node {} {:<16}{:>8} kB\n", nid, fmt::format("{}:", name), kilobytes);
  };
  const auto pages = [&node](NodeStat s) { return kib(node.stats[s]); };
  const std::int64_t free = zone_sum(node, ZoneStat::kNrFreePages);
  line("MemTotal", kib(managed(node)));
  line("MemFree", kib(free));
  line("MemUsed", kib(managed(node) - free));
  line("SwapCached", pages(NodeStat::kNrSwapcached));
  lru_lines(line, pages);
  line("Mlocked", kib(zone_sum(node, ZoneStat::kNrMlock)));
  line("Dirty", pages(NodeStat::kNrDirty));
  line("Writeback", pages(NodeStat::kNrWriteback));
  line("FilePages", pages(NodeStat::kNrFilePages));
  line("Mapped", pages(NodeStat::kNrMapped));
  line("AnonPages", pages(NodeStat::kNrAnonPages));
  line("Shmem", pages(NodeStat::kNrShmem));
  line("KernelStack", node.stats[NodeStat::kNrKernelStack]);
  line("PageTables", pages(NodeStat::kNrPageTablePages));
  line("SecPageTables", pages(NodeStat::kNrSecPageTablePages));
  line("NFS_Unstable", 0);
  line("Bounce", kib(zone_sum(node, ZoneStat::kNrBounce)));
  line("WritebackTmp", pages(NodeStat::kNrWritebackTemp));
  slab_lines(line, pages);
  for (const std::string_view name : {"AnonHugePages", "ShmemHugePages", "ShmemPmdMapped", "FileHugePages", "FilePmdMapped"}) {
    line(name, 0);
  }
  for (const std::string_view name : {"HugePages_Total", "HugePages_Free", "HugePages_Surp"}) {
    text += fmt::format("Node {} {:<16}{:>6}\n", nid, fmt::format("{}:", name), 0);
  }
}

// What i386 has beyond its direct map, and what within.
template <class Line>
void highmem_lines(Line&& line, const phys::PhysMem& phys) {
  std::uint64_t total = 0;
  std::uint64_t free = 0;
  for (const auto& node : phys.nodes()) {
    total += node->zone(phys::ZoneType::kHighMem).managed_pages();
    free += node->zone(phys::ZoneType::kHighMem).free_pages();
  }
  line("HighTotal", kib(static_cast<std::int64_t>(total)));
  line("HighFree", kib(static_cast<std::int64_t>(free)));
  line("LowTotal", kib(static_cast<std::int64_t>(phys.totalram_pages() - total)));
  line("LowFree", kib(phys.global_zone_page_state(ZoneStat::kNrFreePages) - static_cast<std::int64_t>(free)));
}

}  // namespace

std::string meminfo(kernel::Machine& machine) {
  phys::PhysMem& phys = machine.phys();
  std::string text;
  const auto line = [&text](std::string_view name, std::int64_t kilobytes) {
    text += fmt::format("{:<16}{:>8} kB\n", fmt::format("{}:", name), kilobytes);
  };
  const auto pages = [&phys](NodeStat s) { return kib(phys.global_node_page_state(s)); };
  const auto zones = [&phys](ZoneStat s) { return kib(phys.global_zone_page_state(s)); };
  const swap::SwapInfo swap = machine.swap().si_swapinfo();
  const std::int64_t swap_cached = pages(NodeStat::kNrSwapcached);

  line("MemTotal", kib(phys.totalram_pages()));
  line("MemFree", zones(ZoneStat::kNrFreePages));
  line("MemAvailable", kib(available(phys)));
  line("Buffers", 0);
  line("Cached", pages(NodeStat::kNrFilePages) - swap_cached);
  line("SwapCached", swap_cached);
  lru_lines(line, pages);
  line("Mlocked", zones(ZoneStat::kNrMlock));
  if (phys.has_zone(phys::ZoneType::kHighMem)) highmem_lines(line, phys);
  line("SwapTotal", kib(swap.total));
  line("SwapFree", kib(swap.free));
  line("Dirty", pages(NodeStat::kNrDirty));
  line("Writeback", pages(NodeStat::kNrWriteback));
  line("AnonPages", pages(NodeStat::kNrAnonPages));
  line("Mapped", pages(NodeStat::kNrMapped));
  line("Shmem", pages(NodeStat::kNrShmem));
  slab_lines(line, pages);
  line("KernelStack", phys.global_node_page_state(NodeStat::kNrKernelStack));
  line("PageTables", pages(NodeStat::kNrPageTablePages));
  line("SecPageTables", pages(NodeStat::kNrSecPageTablePages));
  line("NFS_Unstable", 0);
  line("Bounce", zones(ZoneStat::kNrBounce));
  line("WritebackTmp", pages(NodeStat::kNrWritebackTemp));
  line("CommitLimit", kib(machine.vm().commit().vm_commit_limit()));
  line("Committed_AS", kib(machine.vm().commit().committed_as()));
  const kvirt::Vmalloc& vmalloc = machine.kernel_space().vmalloc();
  line("VmallocTotal", static_cast<std::int64_t>(vmalloc.vmalloc_total_kib()));
  line("VmallocUsed", kib(vmalloc.nr_vmalloc_pages()));
  line("VmallocChunk", 0);
  line("Percpu", kib(machine.slab().percpu_pages()));
  if (const std::uint64_t cma = phys.cma().total_pages(); cma != 0) {
    line("CmaTotal", kib(cma));
    line("CmaFree", zones(ZoneStat::kNrFreeCma));
  }
  return text;
}

std::string nodes(kernel::Machine& machine) {
  phys::PhysMem& phys = machine.phys();
  std::string text;
  for (const auto& node : phys.nodes()) {
    if (!node_online(*node)) continue;
    text += fmt::format("== /sys/devices/system/node/node{}\n-- meminfo\n", node->nid().value());
    node_meminfo(text, *node);
    text += "-- distance\n";
    bool first = true;
    for (const auto& other : phys.nodes()) {
      if (!node_online(*other)) continue;
      text += fmt::format("{}{}", first ? "" : " ", node->distance(other->nid()));
      first = false;
    }
    text += fmt::format("\n-- cpulist\n{}\n-- numastat\n", format_number_list(node->cpus()));
    constexpr std::pair<std::string_view, phys::NumaStat> kNumastat[] = {
        {"numa_hit", phys::NumaStat::kNumaHit},         {"numa_miss", phys::NumaStat::kNumaMiss},
        {"numa_foreign", phys::NumaStat::kNumaForeign}, {"interleave_hit", phys::NumaStat::kNumaInterleave},
        {"local_node", phys::NumaStat::kNumaLocal},     {"other_node", phys::NumaStat::kNumaOther}};
    for (const auto& [name, stat] : kNumastat) {
      std::int64_t sum = 0;
      node->for_each_zone([&, s = stat](const phys::Zone& zone) { sum += zone.numa[s]; });
      text += fmt::format("{} {}\n", name, sum);
    }
  }
  return text;
}

std::string iomem(phys::PhysMem& phys) { return phys.iomem().text(); }

std::string memblock(const phys::PhysMem& phys) { return fmt::format("{}\n", fmt::join(phys.memblock().dump(), "\n")); }

}  // namespace quire::observe
