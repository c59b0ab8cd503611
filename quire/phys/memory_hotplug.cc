// Memory blocks, adding, onlining and removing. (Offlining: memory_offline.cc.)
#include "quire/phys/memory_hotplug.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "quire/phys/device_memory.h"
#include "quire/phys/page_isolation.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/lock_guards.h"

namespace quire::phys {

namespace {

constexpr std::uint64_t kMinBlockSize = 128 * kMiB;
constexpr std::uint64_t kMaxBlockSize = 2 * kGiB;
constexpr std::uint64_t kLargeBlocksFrom = 64 * kGiB;
constexpr std::string_view kSystemRam = "System RAM";

// The largest size to which the end of memory is aligned, on machines large enough (probe_memory_block_size).
std::uint64_t probe_memory_block_size(PhysAddr end) {
  if (end.value() < kLargeBlocksFrom) return kMinBlockSize;
  std::uint64_t size = kMaxBlockSize;
  while (size > kMinBlockSize && end.value() % size != 0) size /= 2;
  return size;
}

bool zone_intersects(const Zone& zone, Range<Pfn> pfns) {
  return zone.spanned_pages() != 0 && pfns.overlaps({zone.start_pfn(), zone.end_pfn()});
}

}  // namespace

std::string_view memory_state_name(MemoryState state) {
  switch (state) {
    case MemoryState::kOffline: return "offline";
    case MemoryState::kGoingOffline: return "going-offline";
    case MemoryState::kOnline: return "online";
  }
  return "?";
}

MemoryHotplug::MemoryHotplug(PhysMem& mem)
    : mem_(mem),
      memmap_(mem),
      lock_(mem.scheduler(), mem.scheduler().locks().lock_class("mem_hotplug_lock")),
      block_size_(probe_memory_block_size(pfn_to_phys(mem.max_pfn()))) {
  // memory_dev_init: a block for every one that boot gave struct Pages.
  const std::uint64_t sections_per_block = block_size_ >> kSectionSizeBits;
  for (std::uint64_t s = 0; s < mem.sparse_.size(); ++s) {
    const MemSection& section = mem.sparse_.section(s);
    const std::uint64_t id = s / sections_per_block;
    if (section.state == SectionState::kAbsent || blocks_.contains(id)) continue;
    blocks_[id] = {section.nid, MemoryState::kOnline, zone_of_boot_block(section.nid, block_pfns(id))};
  }
}

// The one zone of the node that a block lies in (early_node_zone_for_memory_block).
Zone* MemoryHotplug::zone_of_boot_block(Nid nid, Range<Pfn> pfns) const {
  Zone* found = nullptr;
  unsigned matches = 0;
  mem_.node(nid).for_each_zone([&](Zone& zone) {
    if (!zone.populated() || !zone_intersects(zone, pfns)) return;
    found = &zone;
    ++matches;
  });
  return matches == 1 ? found : nullptr;
}

Range<Pfn> MemoryHotplug::block_pfns(std::uint64_t id) const {
  return {phys_to_pfn(PhysAddr(id * block_size_)), phys_to_pfn(PhysAddr((id + 1) * block_size_))};
}

Range<std::uint64_t> MemoryHotplug::block_ids(PhysAddr start, std::uint64_t size) const {
  return {start.value() / block_size_, (start.value() + size) / block_size_};
}

bool MemoryHotplug::whole_blocks(PhysAddr start, std::uint64_t size) const {
  return size != 0 && start.value() % block_size_ == 0 && size % block_size_ == 0 && start.value() + size > start.value();
}

bool MemoryHotplug::step_fails() { return mem_.faults_ != nullptr && mem_.faults_->should_fail(sim::FaultPoint::kHotplug); }

// --- adding and removing ----------------------------------------------------------------------------------------------

Status MemoryHotplug::add_memory(Nid nid, PhysAddr start, std::uint64_t size) {
  return add_memory_driver_managed(nid, start, size, kSystemRam);
}

Status MemoryHotplug::add_memory_driver_managed(Nid nid, PhysAddr start, std::uint64_t size, std::string_view name) {
  const PhysAddr end = start + size;
  if (size == 0 || end < start) return fail(Errno::kInval);
  if (end > mem_.arena().end()) return fail(Errno::kTooBig);
  const sim::MutexGuard guard(lock_);
  const Range<PhysAddr> range{start, end};
  if (!mem_.iomem().request(range, std::string(name))) return fail(Errno::kExist);
  const Status status = add_memory_resource(nid, range);
  if (!status) QUIRE_BUG_ON(!mem_.iomem().release(range, name));
  return status;
}

Status MemoryHotplug::add_memory_resource(Nid nid, Range<PhysAddr> range) {
  if (!whole_blocks(range.begin, range.size())) return fail(Errno::kInval);
  if (nid.value() < 0 || static_cast<std::size_t>(nid.value()) >= mem_.nodes().size()) return fail(Errno::kInval);
  const Range<std::uint64_t> ids = block_ids(range.begin, range.size());
  for (std::uint64_t id = ids.begin; id < ids.end; ++id) {
    if (blocks_.contains(id)) return fail(Errno::kExist);
  }
  if (step_fails()) return fail(Errno::kNoMem);
  // What a device brings along is there already, and keeps its bytes.
  const bool device = mem_.device_memory().region_of(range) != nullptr;
  if (!device && !mem_.arena_.map_ram(range)) return fail(Errno::kNoMem);
  const auto unmap = [&] {
    if (!device) mem_.arena_.unmap_hole(range);
  };
  const Range<Pfn> pfns{phys_to_pfn(range.begin), phys_to_pfn(range.end)};
  if (Status status = memmap_.add_pages(nid, pfns); !status) {
    unmap();
    return status;
  }
  if (step_fails()) {
    memmap_.remove_pages(pfns);
    unmap();
    return fail(Errno::kNoMem);
  }
  for (std::uint64_t id = ids.begin; id < ids.end; ++id) blocks_[id] = {nid, MemoryState::kOffline, nullptr};
  mem_.max_pfn_ = std::max(mem_.max_pfn_, pfns.end);
  return {};
}

Status MemoryHotplug::remove_memory(PhysAddr start, std::uint64_t size) {
  if (!whole_blocks(start, size)) return fail(Errno::kInval);
  const sim::MutexGuard guard(lock_);
  return remove_memory_locked(start, size);
}

Status MemoryHotplug::remove_memory_locked(PhysAddr start, std::uint64_t size) {
  lock_.assert_held();
  const Range<std::uint64_t> ids = block_ids(start, size);
  const Range<PhysAddr> range{start, start + size};
  const Range<Pfn> pfns{phys_to_pfn(range.begin), phys_to_pfn(range.end)};
  bool offline = true;
  for (std::uint64_t id = ids.begin; id < ids.end; ++id) {
    const auto block = blocks_.find(id);
    if (block == blocks_.end()) return fail(Errno::kInval);
    offline = offline && block->second.state == MemoryState::kOffline;
  }
  if (!offline) return fail(Errno::kBusy);
  if (memmap_.in_early_section(pfns)) return fail(Errno::kInval);
  if (step_fails()) return fail(Errno::kNoMem);
  for (std::uint64_t id = ids.begin; id < ids.end; ++id) {
    blocks_.erase(id);
    // Block by block: they may have been added one by one.
    const PhysAddr block(id * block_size_);
    QUIRE_BUG_ON(!mem_.iomem().release_adjustable({block, block + block_size_}));
  }
  memmap_.remove_pages(pfns);
  if (mem_.device_memory().region_of(range) == nullptr) mem_.arena_.unmap_hole(range);
  return {};
}

Status MemoryHotplug::offline_and_remove_memory(PhysAddr start, std::uint64_t size) {
  if (!whole_blocks(start, size)) return fail(Errno::kInval);
  const Range<std::uint64_t> ids = block_ids(start, size);
  const sim::MutexGuard guard(lock_);
  const Marks before = marks();
  Offlined done;
  Status status;
  for (std::uint64_t id = ids.begin; id < ids.end && status; ++id) {
    const auto block = blocks_.find(id);
    if (block == blocks_.end()) status = fail(Errno::kInval);
    if (!status || block->second.state == MemoryState::kOffline) continue;
    Zone* zone = block->second.zone;
    status = offline_block(id, Undo::kNo);
    if (status) done.emplace_back(id, zone);
  }
  if (status) status = remove_memory_locked(start, size);
  if (!status) put_back(done, before);
  return status;
}

// --- zones ------------------------------------------------------------------------------------------------------------

// Kernel memory goes to the zone that has a part of the range already, else to Normal; without a wish the range joins the
// one zone it lies in, of two it is the kernel's (zone_for_pfn_range).
Zone& MemoryHotplug::zone_for_pfn_range(OnlineType type, Nid nid, Range<Pfn> pfns) const {
  Node& node = mem_.node(nid);
  Zone* kernel = &node.zone(ZoneType::kNormal);
  for (const ZoneType low : {ZoneType::kDma32, ZoneType::kDma}) {
    if (zone_intersects(node.zone(low), pfns)) kernel = &node.zone(low);
  }
  Zone& movable = node.zone(ZoneType::kMovable);
  if (type == OnlineType::kKernel) return *kernel;
  if (type == OnlineType::kMovable) return movable;
  return !zone_intersects(*kernel, pfns) && zone_intersects(movable, pfns) ? movable : *kernel;
}

std::string MemoryHotplug::valid_zones(std::uint64_t id) const {
  const auto found = blocks_.find(id);
  if (found == blocks_.end()) return "none";
  const MemoryBlock& block = found->second;
  if (block.state == MemoryState::kOnline) return block.zone == nullptr ? "none" : std::string(block.zone->name());
  const Zone& preferred = zone_for_pfn_range(OnlineType::kOnline, block.nid, block_pfns(id));
  std::string text(preferred.name());
  for (const OnlineType type : {OnlineType::kKernel, OnlineType::kMovable}) {
    const Zone& zone = zone_for_pfn_range(type, block.nid, block_pfns(id));
    if (&zone != &preferred) text += fmt::format(" {}", zone.name());
  }
  return text;
}

MemoryHotplug::Spans MemoryHotplug::spans(const Zone& zone) {
  return {zone.start_pfn(), zone.node().start_pfn(), zone.spanned_pages(), zone.node().spanned_pages()};
}

void MemoryHotplug::restore(Zone& zone, const Spans& spans) {
  const sim::SpinGuard guard(zone.lock);
  zone.start_pfn_ = spans.zone_start;
  zone.spanned_pages_ = spans.zone_spanned;
  zone.node().start_pfn_ = spans.node_start;
  zone.node().spanned_pages_ = spans.node_spanned;
}

MemoryHotplug::Marks MemoryHotplug::marks() const {
  Marks marks{mem_.min_free_kbytes_, mem_.totalreserve_pages_, {}};
  for (const auto& node : mem_.nodes_) {
    node->for_each_zone([&](Zone& zone) {
      marks.zones.push_back({&zone, zone.watermark_, zone.watermark_boost_, zone.lowmem_reserve_, zone.stat_threshold_,
                             zone.pageset_high_, zone.pageset_batch_});
    });
  }
  return marks;
}

void MemoryHotplug::restore(const Marks& marks) {
  mem_.min_free_kbytes_ = marks.min_free_kbytes;
  mem_.totalreserve_pages_ = marks.totalreserve_pages;
  for (const ZoneMarks& m : marks.zones) {
    m.zone->watermark_ = m.watermark;
    m.zone->watermark_boost_ = m.boost;
    m.zone->lowmem_reserve_ = m.lowmem_reserve;
    m.zone->stat_threshold_ = m.stat_threshold;
    m.zone->pageset_high_ = m.high;
    m.zone->pageset_batch_ = m.batch;
    if (m.zone->populated()) zone_pcp_enable(*m.zone);
  }
}

void MemoryHotplug::resize_zone_range(Zone& zone, Range<Pfn> pfns) {
  const auto grow = [&pfns](Pfn& start, std::uint64_t& spanned) {
    const Pfn end = std::max(pfns.end, spanned == 0 ? pfns.end : start + spanned);
    if (spanned == 0 || pfns.begin < start) start = pfns.begin;
    spanned = end - start;
  };
  const sim::SpinGuard guard(zone.lock);
  grow(zone.start_pfn_, zone.spanned_pages_);
  grow(zone.node().start_pfn_, zone.node().spanned_pages_);
}

void MemoryHotplug::memmap_init_range(const Zone& zone, Range<Pfn> pfns, MigrateType type) {
  Page fresh;
  set_page_links(fresh, zone.type(), zone.node().nid());
  fresh.set(PageFlag::kReserved);
  fresh.refcount = 1;
  for (Pfn pfn = pfns.begin; pfn < pfns.end; ++pfn) {
    mem_.pfn_to_page(pfn) = fresh;
    if (align_down(pfn, kPageblockPages) == pfn) mem_.sparse_.set_pageblock_type(pfn, type);
  }
}

// --- listeners --------------------------------------------------------------------------------------------------------

Status MemoryHotplug::notify(Status (HotplugListener::*going)(const MemoryNotify&),
                             void (HotplugListener::*cancel)(const MemoryNotify&), const MemoryNotify& what, Undo undo) {
  for (std::size_t i = 0; i < listeners_.size(); ++i) {
    const Status status = (listeners_[i]->*going)(what);
    if (status || undo == Undo::kYes) continue;
    for (std::size_t told = 0; told < i; ++told) (listeners_[told]->*cancel)(what);
    return status;
  }
  if (undo == Undo::kYes || !step_fails()) return {};
  tell(cancel, what);
  return fail(Errno::kNoMem);
}

void MemoryHotplug::tell(void (HotplugListener::*what)(const MemoryNotify&), const MemoryNotify& notify) {
  for (HotplugListener* listener : listeners_) (listener->*what)(notify);
}

// --- online -----------------------------------------------------------------------------------------------------------

Status MemoryHotplug::online(PhysAddr start, std::uint64_t size, OnlineType type) {
  if (!whole_blocks(start, size)) return fail(Errno::kInval);
  const Range<std::uint64_t> ids = block_ids(start, size);
  const sim::MutexGuard guard(lock_);
  if (!all_in_state(ids, MemoryState::kOffline)) return fail(Errno::kInval);
  const Marks before = marks();
  for (std::uint64_t id = ids.begin; id < ids.end; ++id) {
    Zone& zone = zone_for_pfn_range(type, blocks_.at(id).nid, block_pfns(id));
    const Status status = online_block(id, zone, Undo::kNo);
    if (status) continue;
    take_back({ids.begin, id}, before);
    return status;
  }
  return {};
}

bool MemoryHotplug::all_in_state(Range<std::uint64_t> ids, MemoryState state) const {
  for (std::uint64_t id = ids.begin; id < ids.end; ++id) {
    const auto block = blocks_.find(id);
    if (block == blocks_.end() || block->second.state != state) return false;
  }
  return true;
}

// Blocks that were just brought online go offline again. A page of theirs may be somebody's already who cannot let it move:
// then its block stays, and the marks are computed for what there is.
void MemoryHotplug::take_back(Range<std::uint64_t> ids, const Marks& before) {
  bool all = true;
  for (std::uint64_t id = ids.end; id-- > ids.begin;) {
    if (!offline_block(id, Undo::kYes)) all = false;
  }
  if (all) {
    restore(before);
  } else {
    mem_.init_per_zone_wmark_min();
  }
}

Status MemoryHotplug::online_block(std::uint64_t id, Zone& zone, Undo undo) {
  lock_.assert_held();
  MemoryBlock& block = blocks_.at(id);
  const Range<Pfn> pfns = block_pfns(id);
  if (undo == Undo::kNo && step_fails()) return fail(Errno::kNoMem);
  const Spans before = spans(zone);
  resize_zone_range(zone, pfns);
  memmap_init_range(zone, pfns, MigrateType::kIsolate);
  MemoryNotify what{pfns, block.nid, &zone, zone.node().has_memory() ? kNoNode : block.nid};
  if (Status status = notify(&HotplugListener::going_online, &HotplugListener::cancel_online, what, undo); !status) {
    restore(zone, before);
    set_sections(pfns, false);
    return status;
  }
  online_pages(zone, pfns);
  block.state = MemoryState::kOnline;
  block.zone = &zone;
  tell(&HotplugListener::online, what);
  return {};
}

// From here on nothing fails. The pages come to the buddy isolated, so that nothing is handed out before zonelists and
// counters know of them; then isolation ends, lowest pageblock first.
void MemoryHotplug::online_pages(Zone& zone, Range<Pfn> pfns) {
  const bool first_of_zone = !zone.populated();
  set_sections(pfns, true);
  {
    const sim::SpinGuard guard(zone.lock);
    zone.nr_isolate_pageblock_ += pfns.size() / kPageblockPages;
    for (Pfn pfn = pfns.begin; pfn < pfns.end; pfn += kMaxOrder.pages()) {
      Page& head = mem_.pfn_to_page(pfn);
      for (std::uint64_t i = 0; i < kMaxOrder.pages(); ++i) {
        (&head)[i].clear(PageFlag::kReserved);
        (&head)[i].refcount = 0;
      }
      mem_.buddy_.free_one_page(zone, head, kMaxOrder, MigrateType::kIsolate, FreeHint::kToTail);
    }
    zone.managed_pages_ += pfns.size();
    zone.present_pages_ += pfns.size();
    zone.node().present_pages_ += pfns.size();
  }
  if (first_of_zone) static_cast<void>(mem_.build_all_zonelists(PhysMem::CpusOnNodes::kKnown));
  PageIsolation(mem_).undo_isolate_page_range(pfns, MigrateType::kMovable);
  mem_.init_per_zone_wmark_min();
}

// Sections that go offline lose what their struct Pages said: it is stale, and validate() should not see it.
void MemoryHotplug::set_sections(Range<Pfn> pfns, bool online) {
  for (std::uint64_t s = SparseMemory::section_of(pfns.begin); s <= SparseMemory::section_of(pfns.end - 1); ++s) {
    mem_.sparse_.section(s).state = online ? SectionState::kInitialised : SectionState::kOffline;
    if (online) continue;
    mem_.sparse_.section(s).own_types = {};
    const Pfn start = SparseMemory::section_start(s);
    std::memset(static_cast<void*>(&mem_.pfn_to_page(start)), 0, kPagesPerSection * sizeof(Page));
    for (Pfn pfn = start; pfn < start + kPagesPerSection; pfn += kPageblockPages) {
      mem_.sparse_.set_pageblock_type(pfn, MigrateType::kMovable);
    }
  }
}

}  // namespace quire::phys
