// zram: a block device in the machine's own memory that keeps each page compressed. Synchronous: writing costs the time
// of compressing, reading that of decompressing, and both are done on return.
//
// In data mode the page's bytes are really compressed (LZ4) into a zsmalloc object; a page filled with one word takes no
// object, and one that does not shrink below zsmalloc's huge class takes a whole frame. In dataless mode there are no
// bytes: each page takes an object of 4096 / ratio bytes, so the store's frames are gone from the machine all the same.
//
// The store is filled under reclaim: the writer's task runs with PF_MEMALLOC, so zsmalloc may use the reserves.
// Locks: one bit per slot in Linux; here a slot is touched only by who owns its folio or its last reference, and no slot
// operation sleeps between reading and writing its entry. Streams: a few buffers for compressing, waited for when all are
// in use. Unlike Linux: LZ4 where Debian's default is lzo-rle; no writeback device, no dedup, no recompression.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quire/sim/wait_queue.h"
#include "quire/swap/paged_array.h"
#include "quire/swap/swap_device.h"
#include "quire/swap/zsmalloc.h"

namespace quire::swap {

struct ZramConfig {
  std::string name = "/dev/zram0";
  std::uint64_t disksize = 0;         // bytes, a multiple of the page size; with the header page
  std::uint64_t mem_limit = 0;        // bytes the store may take; 0: no limit
  unsigned ratio_permille = 3000;     // dataless: original to compressed size, 1000 (does not shrink) or more
  unsigned same_filled_permille = 0;  // dataless: of 1000 pages so many hold one repeated word
};

// /sys/block/zram0/mm_stat, bytes where sizes, pages where named so.
struct ZramStats {
  std::uint64_t orig_data_size = 0;
  std::uint64_t compr_data_size = 0;
  std::uint64_t mem_used_total = 0;
  std::uint64_t mem_limit = 0;
  std::uint64_t mem_used_max = 0;
  std::uint64_t same_pages = 0;
  std::uint64_t huge_pages = 0;
  // io_stat and the rest of debug_stat
  std::uint64_t num_reads = 0;
  std::uint64_t num_writes = 0;
  std::uint64_t failed_reads = 0;
  std::uint64_t failed_writes = 0;
  std::uint64_t notify_free = 0;
  std::uint64_t writestall = 0;  // stores that found no memory at once and had to reclaim
};

class Zram final : public SwapDevice {
 public:
  // kInval for a size or ratio that makes no sense, kNoMem when the table does not fit the machine.
  [[nodiscard]] static Result<std::unique_ptr<Zram>> create(const ZramConfig& config, phys::PhysMem& phys,
                                                            slab::SlabSystem& slab, sim::Scheduler& scheduler);
  ~Zram() override;

  [[nodiscard]] std::string_view name() const override { return config_.name; }
  [[nodiscard]] std::uint64_t pages() const override { return config_.disksize >> kPageShift; }
  [[nodiscard]] SwapDeviceFlags flags() const override {
    return SwapDeviceFlags::kSynchronous | SwapDeviceFlags::kSolidState | SwapDeviceFlags::kStableWrites;
  }
  [[nodiscard]] Status write_page(std::uint64_t offset, phys::Folio& folio, SwapIo& io) override;
  [[nodiscard]] Status read_page(std::uint64_t offset, phys::Folio& folio, SwapIo& io) override;
  void free_slot(std::uint64_t offset) override;
  void validate() const override;

  [[nodiscard]] ZramStats mm_stat() const;
  void set_mem_limit(std::uint64_t bytes) { config_.mem_limit = bytes; }
  void set_ratio_permille(unsigned ratio) { config_.ratio_permille = ratio; }

 private:
  enum SlotFlags : std::uint32_t { kFree = 0, kStored = 1, kSame = 2, kHuge = 4 };
  struct Slot {  // zram_table_entry
    std::uint64_t handle_or_element = 0;
    std::uint32_t flags = kFree;
    std::uint32_t size = 0;
  };
  static_assert(sizeof(Slot) == 16);
  struct Stream;
  class StreamHold;

  Zram(const ZramConfig& config, phys::PhysMem& phys, sim::Scheduler& scheduler, PagedArray<Slot> table,
       std::unique_ptr<ZsPool> pool);

  [[nodiscard]] Status store(Slot& slot, const phys::Folio& folio);
  [[nodiscard]] bool same_filled(const phys::Folio& folio, std::uint64_t& element);
  [[nodiscard]] ZsHandle* alloc_object(std::size_t size);
  void release(Slot& slot);

  ZramConfig config_;
  phys::PhysMem& phys_;
  sim::Scheduler& scheduler_;
  PagedArray<Slot> table_;
  std::unique_ptr<ZsPool> pool_;
  std::vector<std::unique_ptr<Stream>> streams_;
  sim::WaitQueue stream_wait_;
  std::vector<std::byte> unpack_buffer_ = std::vector<std::byte>(kPageSize);
  std::uint64_t pages_stored_ = 0;  // in objects
  ZramStats stats_;
};

}  // namespace quire::swap
