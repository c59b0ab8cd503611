#include "quire/sim/cost_model.h"

#include <array>

namespace quire::sim {
namespace {

constexpr std::string_view kLz4 = "estimate: LZ4 README benchmark (Silesia, 780 MB/s in, 4970 MB/s out on one core), 4 KiB";
constexpr std::string_view kNvme = "estimate: data sheets of data-centre NVMe drives (TLC), 70-110 us, 15-40 us, 2-3 GB/s";
constexpr std::string_view kSmallPath = "estimate: some tens to hundreds of instructions on lines that are in cache";
constexpr std::string_view kFault =
    "estimate: the share of an anonymous fault of 1.1-1.3 us (touching fresh pages of a mapping, 4 KiB each)";

constexpr std::array kEntries = {
    CostModel::Entry{"instruction_ps", &CostModel::instruction_ps, "ps", "estimate: 3 GHz at 1.1 instructions a cycle"},
    CostModel::Entry{"tlb_walk", &CostModel::tlb_walk, "ns",
                     "estimate: 20-100 cycles, paging-structure caches and L2 hits (vendor optimisation manuals)"},
    CostModel::Entry{"page_fault_entry", &CostModel::page_fault_entry, "ns", kFault},
    CostModel::Entry{"syscall_entry", &CostModel::syscall_entry, "ns",
                     "estimate: getppid in a loop takes 60-200 ns, by mitigations"},
    CostModel::Entry{"ipi", &CostModel::ipi, "ns",
                     "estimate: 1-2 us for one remote CPU to acknowledge (published TLB-shootdown measurements)"},
    CostModel::Entry{"tlb_flush_page", &CostModel::tlb_flush_page, "ns",
                     "estimate: INVLPG, 100-200 cycles and more (public instruction tables)"},
    CostModel::Entry{"tlb_flush_all", &CostModel::tlb_flush_all, "ns",
                     "estimate: write to CR3 with flush, refill not included"},
    CostModel::Entry{"lock_handover", &CostModel::lock_handover, "ns",
                     "estimate: cache line from another core of the socket, 40-100 ns (core-to-core latency benchmarks)"},
    CostModel::Entry{"interrupt", &CostModel::interrupt, "ns", "estimate: entry, handler glue and exit of a device interrupt"},
    CostModel::Entry{"context_switch", &CostModel::context_switch, "ns",
                     "estimate: 1-2 us between two processes on one CPU (lmbench lat_ctx, small working set)"},
    CostModel::Entry{"wakeup", &CostModel::wakeup, "ns", "estimate: half of a pipe round trip, switches excluded"},
    CostModel::Entry{"clear_page", &CostModel::clear_page, "ns", "estimate: rep stosb of 4 KiB at 32 bytes a cycle and up"},
    CostModel::Entry{"copy_page", &CostModel::copy_page, "ns", "estimate: rep movsb of 4 KiB, source not in L1"},
    CostModel::Entry{"memcpy_bandwidth", &CostModel::memcpy_bandwidth, "bytes/s",
                     "estimate: one core, larger than the caches (STREAM copy, single thread)"},
    CostModel::Entry{"alloc_page", &CostModel::alloc_page, "ns",
                     "estimate: order-0 alloc and free pair takes 80-120 ns in published page_bench runs"},
    CostModel::Entry{"free_page", &CostModel::free_page, "ns", "estimate: the other part of that pair"},
    CostModel::Entry{"slab_alloc", &CostModel::slab_alloc, "ns",
                     "estimate: kmem_cache fast-path pair takes 30-60 ns in published slab_bulk_test runs"},
    CostModel::Entry{"slab_free", &CostModel::slab_free, "ns", "estimate: the other part of that pair"},
    CostModel::Entry{"vma_lookup", &CostModel::vma_lookup, "ns", kSmallPath},
    CostModel::Entry{"page_cache_lookup", &CostModel::page_cache_lookup, "ns", kSmallPath},
    CostModel::Entry{"pte_copy", &CostModel::pte_copy, "ns",
                     "estimate: fork takes some 3-4 ms for 1 GiB of mapped 4 KiB pages, page tables included"},
    CostModel::Entry{"pte_zap", &CostModel::pte_zap, "ns", "estimate: munmap of the same, freeing excluded"},
    CostModel::Entry{"fault_map", &CostModel::fault_map, "ns", kFault},
    CostModel::Entry{"cow_fault", &CostModel::cow_fault, "ns", kSmallPath},
    CostModel::Entry{"reclaim_node", &CostModel::reclaim_node, "ns",
                     "estimate: get_scan_count and the shrinkers' counts of one node; keeps futile reclaim from being free"},
    CostModel::Entry{"reclaim_scan_page", &CostModel::reclaim_scan_page, "ns",
                     "estimate: reclaim of clean page cache runs at 1-2 million pages a second and CPU, all steps included"},
    CostModel::Entry{"rmap_walk_pte", &CostModel::rmap_walk_pte, "ns", "estimate: a page-table walk with cold lines"},
    CostModel::Entry{"reclaim_unmap_page", &CostModel::reclaim_unmap_page, "ns",
                     "estimate: as a walk, plus clearing and accounting"},
    CostModel::Entry{"swap_slot", &CostModel::swap_slot, "ns", kSmallPath},
    CostModel::Entry{"zram_compress_page", &CostModel::zram_compress_page, "ns", kLz4},
    CostModel::Entry{"zram_decompress_page", &CostModel::zram_decompress_page, "ns", kLz4},
    CostModel::Entry{"disk_read_latency", &CostModel::disk_read_latency, "ns", kNvme},
    CostModel::Entry{"disk_write_latency", &CostModel::disk_write_latency, "ns", kNvme},
    CostModel::Entry{"disk_bandwidth", &CostModel::disk_bandwidth, "bytes/s", kNvme},
    CostModel::Entry{"disk_submit", &CostModel::disk_submit, "ns",
                     "estimate: block layer and NVMe driver, submission half of some 3 us a request"},
};
static_assert(sizeof(CostModel) == kEntries.size() * sizeof(std::uint64_t), "a cost is missing from the table");

}  // namespace

std::span<const CostModel::Entry> CostModel::entries() { return kEntries; }

Status CostModel::set(std::string_view name, std::uint64_t value) {
  for (const Entry& e : kEntries) {
    if (e.name != name) continue;
    if (value == 0 && e.unit == "bytes/s") return fail(Errno::kInval);
    this->*e.field = value;
    return {};
  }
  return fail(Errno::kNoEnt);
}

}  // namespace quire::sim
