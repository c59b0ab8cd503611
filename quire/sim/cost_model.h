// What things cost in virtual time. A pure table: the machine reads the fields, a front end sets them by name from a cost
// model file. Each default is an estimate for one core of an x86-64 server of about 2020 at 3 GHz; the table in
// cost_model.cc says where each figure comes from. Costs never change what the machine does to a page, only when.
//
// Differs from a real machine: one price for each thing, whatever the state of the host's caches.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "quire/base/result.h"
#include "quire/sim/time.h"

namespace quire::sim {

struct CostModel {
  // Processor.
  std::uint64_t instruction_ps = 300;  // picoseconds for one instruction of a user program
  Nanos tlb_walk = 30;                 // hardware page walk after a TLB miss
  Nanos page_fault_entry = 600;        // exception entry and exit, mitigations included
  Nanos syscall_entry = 100;           // SYSCALL to SYSRET
  Nanos ipi = 1'500;                   // send an inter-processor interrupt and wait until it is acknowledged
  Nanos tlb_flush_page = 120;          // INVLPG, refill not included
  Nanos tlb_flush_all = 250;           // flush one address space by loading CR3
  Nanos lock_handover = 60;            // a contended lock's cache line moves to the next owner
  Nanos interrupt = 800;               // device interrupt entry, handler glue, exit

  // Scheduling.
  Nanos context_switch = 1'200;
  Nanos wakeup = 500;  // try_to_wake_up, paid by the waker

  // Memory.
  Nanos clear_page = 120;                           // 4 KiB
  Nanos copy_page = 250;                            // 4 KiB
  std::uint64_t memcpy_bandwidth = 10'000'000'000;  // bytes a second
  Nanos alloc_page = 60;                            // rmqueue from a per-CPU list, with its checks
  Nanos free_page = 40;
  Nanos slab_alloc = 25;
  Nanos slab_free = 20;
  Nanos vma_lookup = 40;
  Nanos page_cache_lookup = 40;
  Nanos pte_copy = 12;             // one entry in fork
  Nanos pte_zap = 15;              // one present entry in munmap
  Nanos fault_map = 250;           // charge, rmap, LRU and PTE work of one anonymous fault, page itself excluded
  Nanos cow_fault = 100;           // deciding a write-protect fault, page copy excluded
  Nanos reclaim_node = 1'000;      // one pass over a node's lists and shrinkers, what it scans excluded
  Nanos reclaim_scan_page = 150;   // isolate and judge one page, reverse map excluded
  Nanos rmap_walk_pte = 80;        // one mapping visited through the reverse map
  Nanos reclaim_unmap_page = 250;  // try_to_unmap one mapping, flush excluded

  // Swap and storage.
  Nanos swap_slot = 80;              // take or give back a slot, swap cache included
  Nanos zram_compress_page = 5'000;  // LZ4 class, 4 KiB
  Nanos zram_decompress_page = 1'000;
  Nanos disk_read_latency = 90'000;
  Nanos disk_write_latency = 30'000;
  std::uint64_t disk_bandwidth = 2'000'000'000;  // bytes a second
  Nanos disk_submit = 1'500;                     // block layer, paid by the submitter for one request

  [[nodiscard]] Nanos instructions(std::uint64_t n) const { return n * instruction_ps / 1'000; }
  [[nodiscard]] Nanos memcpy_bytes(std::uint64_t bytes) const { return transfer_time(bytes, memcpy_bandwidth); }

  // Time for `bytes` at `bandwidth` bytes a second, rounded up; bandwidth > 0.
  [[nodiscard]] static Nanos transfer_time(std::uint64_t bytes, std::uint64_t bandwidth) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<Nanos>((static_cast<Wide>(bytes) * kSecond + bandwidth - 1) / bandwidth);
  }

  struct Entry {
    std::string_view name;  // the field's
    std::uint64_t CostModel::* field;
    std::string_view unit;    // "ns", "ps", "bytes/s"
    std::string_view source;  // where the default comes from
  };
  // Every field, in the order above.
  [[nodiscard]] static std::span<const Entry> entries();

  // kNoEnt: no such cost. kInval: a bandwidth of zero.
  Status set(std::string_view name, std::uint64_t value);

  // Calls f(name, value) for each field in order.
  template <class F>
  void for_each(F&& f) const {
    for (const Entry& e : entries()) f(e.name, this->*e.field);
  }

  bool operator==(const CostModel&) const = default;
};

}  // namespace quire::sim
