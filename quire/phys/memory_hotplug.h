// Memory that comes and goes while the machine runs.
//
//   add_memory      a range becomes RAM that nobody uses: System RAM in iomem, struct Pages, memory blocks that are offline
//   online          its blocks join a zone and the buddy: zones span it, watermarks and zonelists follow
//   offline         they leave again: pages in use are moved away (PageMover), free ones are taken off the buddy
//   remove_memory   the range is gone
//
//     absent ──add──→ offline ──online──→ online
//        ↑───remove──────┘ ↑────offline─────┘
//
// Each step does all or nothing: a failure (no memory for struct Pages, a page that does not move, a listener that refuses,
// an injected fault) leaves the machine as it was. Floors above follow as HotplugListener.
//
// The unit is the memory block: 128 MiB, larger on machines of 64 GiB and more.
// Locking: mem_hotplug_lock, taken inside before anything is looked at, and held to the end of the call; the buddy's part
// under Zone::lock. A task calls offline (it may sleep).
// Differs from Linux: RAM of boot goes offline but cannot be removed; a migration that makes no progress gives up after some
// rounds instead of trying until a signal comes; memory for struct Pages never comes out of the added range.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quire/base/result.h"
#include "quire/base/types.h"
#include "quire/phys/hot_memmap.h"
#include "quire/phys/node.h"
#include "quire/sim/mutex.h"

namespace quire::phys {

class PhysMem;

enum class MemoryState : std::uint8_t { kOffline, kGoingOffline, kOnline };
[[nodiscard]] std::string_view memory_state_name(MemoryState state);  // "offline", "going-offline", "online"

// To which zone a block is brought online (MMOP_ONLINE, MMOP_ONLINE_KERNEL, MMOP_ONLINE_MOVABLE).
enum class OnlineType : std::uint8_t { kOnline, kKernel, kMovable };

// What sysfs shows as /sys/devices/system/memory/memoryN.
struct MemoryBlock {
  Nid nid{};
  MemoryState state = MemoryState::kOffline;
  Zone* zone = nullptr;  // of an online block; null: none, or more than one
};

struct MemoryNotify {
  Range<Pfn> pfns;
  Nid nid;
  Zone* zone;
  Nid status_change_nid = kNoNode;  // the node gets its first memory, or loses its last
};

// Told of each step, in the order of registration. A refusal of the first two is an errno; who was told before then hears
// the cancel. A step that undoes an earlier one is told the same way, but cannot be refused.
class HotplugListener {
 public:
  virtual ~HotplugListener() = default;
  virtual Status going_online(const MemoryNotify&) { return {}; }
  virtual Status going_offline(const MemoryNotify&) { return {}; }
  virtual void online(const MemoryNotify&) {}
  virtual void offline(const MemoryNotify&) {}
  virtual void cancel_online(const MemoryNotify&) {}
  virtual void cancel_offline(const MemoryNotify&) {}
};

class MemoryHotplug {
 public:
  explicit MemoryHotplug(PhysMem& mem);

  // kExist: something in iomem is in the way, or the range is known already. kInval: not whole blocks, or no such node.
  // kTooBig: beyond the room that PhysConfig::max_ram_bytes left. kNoMem: no memory for the struct Pages.
  [[nodiscard]] Status add_memory(Nid nid, PhysAddr start, std::uint64_t size);
  // The same under a driver's name, "System RAM (kmem)", inside a resource of the driver.
  [[nodiscard]] Status add_memory_driver_managed(Nid nid, PhysAddr start, std::uint64_t size, std::string_view name);
  // kBusy: a block of it is not offline. kInval: not whole blocks that were added.
  [[nodiscard]] Status remove_memory(PhysAddr start, std::uint64_t size);

  // All blocks of a range; the first failure stops, and what was done by this call is undone. (A block that was brought
  // online stays so if a page of it was taken meanwhile that cannot move.) kInval: a block is in that
  // state already, or there is none, or it cannot be (it has holes, or lies in several zones). Online: whatever a listener
  // says. Offline: kBusy (a page cannot move; reason()), kIntr, or a listener's errno.
  [[nodiscard]] Status online(PhysAddr start, std::uint64_t size, OnlineType type = OnlineType::kOnline);
  [[nodiscard]] Status offline(PhysAddr start, std::uint64_t size);
  [[nodiscard]] Status offline_and_remove_memory(PhysAddr start, std::uint64_t size);

  [[nodiscard]] std::uint64_t memory_block_size() const { return block_size_; }  // bytes
  // By number: the block's address divided by the block size.
  [[nodiscard]] const std::map<std::uint64_t, MemoryBlock>& blocks() const { return blocks_; }
  // Zones the block is in or may be brought online to, the default first: "Normal Movable", or "none".
  [[nodiscard]] std::string valid_zones(std::uint64_t block) const;
  // Why the last offline failed, as the kernel's log says it ("unmovable page"), with a dump of the page.
  [[nodiscard]] const std::string& reason() const { return reason_; }

  void add_listener(HotplugListener& listener) { listeners_.push_back(&listener); }
  void remove_listener(HotplugListener& listener) { std::erase(listeners_, &listener); }

  // For device memory, which has struct Pages but no blocks (mhp_range in a zone of its own).
  [[nodiscard]] HotMemmap& memmap() { return memmap_; }
  // The zone and its node grow over the range.
  static void resize_zone_range(Zone& zone, Range<Pfn> pfns);
  // Its struct Pages begin as reserved, with one reference, and its pageblocks as `type`.
  void memmap_init_range(const Zone& zone, Range<Pfn> pfns, MigrateType type);
  [[nodiscard]] sim::Mutex& lock() { return lock_; }

 private:
  // Where zone and node began and ended, to be put back.
  struct Spans {
    Pfn zone_start, node_start;
    std::uint64_t zone_spanned, node_spanned;
  };
  // A step of its own, or the undoing of one: no listener refuses that, and no fault is injected into it.
  enum class Undo : std::uint8_t { kNo, kYes };
  using Offlined = std::vector<std::pair<std::uint64_t, Zone*>>;  // blocks, and the zones they were in
  // Every figure that onlining and offlining compute anew. (What they compute depends on what stood before, so that doing
  // and undoing a step does not end where it began.)
  struct ZoneMarks {
    Zone* zone;
    std::array<std::uint64_t, static_cast<unsigned>(Watermark::kCount)> watermark;
    std::uint64_t boost;
    std::array<std::int64_t, kZoneTypes> lowmem_reserve;
    std::uint32_t stat_threshold;
    std::int32_t high, batch;
  };
  struct Marks {
    std::uint64_t min_free_kbytes, totalreserve_pages;
    std::vector<ZoneMarks> zones;
  };
  [[nodiscard]] Marks marks() const;
  void restore(const Marks& marks);
  Status add_memory_resource(Nid nid, Range<PhysAddr> range);
  Status remove_memory_locked(PhysAddr start, std::uint64_t size);
  [[nodiscard]] bool all_in_state(Range<std::uint64_t> ids, MemoryState state) const;
  Status online_block(std::uint64_t id, Zone& zone, Undo undo);
  Status offline_block(std::uint64_t id, Undo undo);
  void take_back(Range<std::uint64_t> ids, const Marks& before);
  void put_back(const Offlined& blocks, const Marks& before);
  void online_pages(Zone& zone, Range<Pfn> pfns);
  Status empty_range(Zone& zone, Range<Pfn> pfns, const MemoryNotify& notify, Undo undo);
  Status migrate_until_free(Range<Pfn> pfns);
  void offline_isolated_pages(Zone& zone, Range<Pfn> pfns);
  void remove_pfn_range_from_zone(Zone& zone, Range<Pfn> pfns);
  void shrink_zone_span(Zone& zone, Range<Pfn> pfns);
  void update_pgdat_span(Node& node);
  void zone_pcp_disable(Zone& zone);
  void zone_pcp_enable(Zone& zone);
  void set_sections(Range<Pfn> pfns, bool online);
  [[nodiscard]] Zone& zone_for_pfn_range(OnlineType type, Nid nid, Range<Pfn> pfns) const;
  [[nodiscard]] Zone* zone_of_boot_block(Nid nid, Range<Pfn> pfns) const;
  [[nodiscard]] static Spans spans(const Zone& zone);
  static void restore(Zone& zone, const Spans& spans);
  [[nodiscard]] bool step_fails();  // an injected fault
  Status notify(Status (HotplugListener::*going)(const MemoryNotify&), void (HotplugListener::*cancel)(const MemoryNotify&),
                const MemoryNotify& what, Undo undo);
  void tell(void (HotplugListener::*what)(const MemoryNotify&), const MemoryNotify& notify);
  [[nodiscard]] Range<Pfn> block_pfns(std::uint64_t id) const;
  [[nodiscard]] Range<std::uint64_t> block_ids(PhysAddr start, std::uint64_t size) const;
  [[nodiscard]] bool whole_blocks(PhysAddr start, std::uint64_t size) const;

  PhysMem& mem_;
  HotMemmap memmap_;
  sim::Mutex lock_;
  std::uint64_t block_size_;
  std::map<std::uint64_t, MemoryBlock> blocks_;
  std::vector<HotplugListener*> listeners_;
  std::string reason_;
};

}  // namespace quire::phys
