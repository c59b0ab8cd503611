#include "quire/cli/machine_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "quire/base/rng.h"
#include "quire/file/iov_iter.h"

namespace quire::cli {

namespace {

using phys::Gfp;
using phys::Watermark;
using phys::Zone;

// Of 16 pages that are taken in turn: 7 of a file, 7 anonymous, 2 of the kernel.
constexpr std::uint64_t kRound = 16;
constexpr std::uint64_t kFilePart = 7;
constexpr std::uint64_t kAnonPart = 7;
constexpr std::uint64_t kKernelPart = 2;
constexpr std::uint64_t kRoundsAtOnce = 8;

// While it lives nobody reclaims: kswapd would undo what is done here.
class NoReclaim {
 public:
  explicit NoReclaim(phys::PhysMem& mem) : mem_(mem), pressure_(mem.memory_pressure()) { mem.set_memory_pressure(nullptr); }
  ~NoReclaim() { mem_.set_memory_pressure(pressure_); }
  NoReclaim(const NoReclaim&) = delete;
  NoReclaim& operator=(const NoReclaim&) = delete;

 private:
  phys::PhysMem& mem_;
  phys::MemoryPressure* pressure_;
};

}  // namespace

std::uint64_t Filler::free_pages() {
  machine_.phys().drain_all_pages();
  return machine_.phys().meminfo().freeram;
}

// Mixing types in pageblocks raises the marks for a while; what is asked later shall not find them so.
void Filler::forget_boost() {
  machine_.phys().for_each_populated_zone([](Zone& zone) {
    zone.set_watermark_boost(0);
    zone.clear(phys::ZoneFlag::kBoostedWatermark);
  });
}

std::uint64_t Filler::low_mark() {
  std::uint64_t low = 0;
  machine_.phys().for_each_populated_zone([&](const Zone& zone) {
    const std::uint64_t mark =
        zone.wmark_pages(Watermark::kHigh) + static_cast<std::uint64_t>(zone.lowmem_reserve(phys::ZoneType::kMovable));
    low += std::min(mark, zone.managed_pages());
  });
  return low;
}

Checked<FillReport> Filler::bring_into(const MachineState& state) {
  if (state.fill_percent == 0 && !state.fragmented) return report();
  const NoReclaim no_reclaim(machine_.phys());
  const std::uint64_t managed = machine_.phys().totalram_pages();
  // A machine without a single free page cannot even reclaim, and with half of what is kept for that it throttles whoever asks:
  // a little more stays.
  std::uint64_t reserve = 0;
  machine_.phys().for_each_populated_zone([&](const Zone& zone) { reserve += zone.wmark_pages(Watermark::kMin) * 3 / 4; });
  const std::uint64_t target = std::max(managed * (100 - state.fill_percent) / 100, reserve);
  const std::uint64_t now = free_pages();
  if (now < target && !state.fragmented) {
    return user_error(fmt::format("--fill {}: the kernel itself takes {} % of this machine's memory already; ask for more",
                                  state.fill_percent, 100 - now * 100 / managed));
  }
  const std::uint64_t gentle = state.fragmented ? 0 : target;
  if (auto ok = fill_to(std::max(gentle, low_mark() + kRound * kRoundsAtOnce)); !ok) return std::unexpected(ok.error());
  if (state.fragmented) {
    // Nothing stays free, so that what comes free afterwards is known to lie in pieces.
    add_kernel_pages(managed, Gfp::kMemAlloc | Gfp::kNoWarn);
    break_up(*state.fragmented, std::min(target, now));
  } else if (const std::uint64_t left = free_pages(); left > target) {
    add_kernel_pages(left - target, Gfp::kMemAlloc | Gfp::kNoWarn);
  }
  return report();
}

Checked<void> Filler::fill_to(std::uint64_t target_free) {
  for (std::uint64_t free = free_pages(); free > target_free; free = free_pages()) {
    const std::uint64_t rounds = std::clamp<std::uint64_t>((free - target_free) / kRound, 1, kRoundsAtOnce);
    if (auto ok = add_page_cache(rounds * kFilePart); !ok) return ok;
    // A machine that runs no programs has no anonymous pages: page cache in their place.
    const bool programs = kernel::check_runs_programs(machine_.config()).has_value();
    const auto ok = programs ? add_anonymous(rounds * kAnonPart) : add_page_cache(rounds * kAnonPart);
    if (!ok) return ok;
    // Not to be lost to the caller's own flags: without waking kswapd.
    if (add_kernel_pages(rounds * kKernelPart, Gfp::kNoWarn) == 0 && free_pages() >= free) break;
  }
  return {};
}

Checked<void> Filler::add_anonymous(std::uint64_t pages) {
  vm::Vm& vm = machine_.vm();
  vm::Mm& mm = *thread_.process->mm;
  const auto at = vm.mmap(mm, VirtAddr(0), pages * kPageSize, vm::Prot::kRead | vm::Prot::kWrite,
                          vm::MapFlags::kAnonymous | vm::MapFlags::kPrivate | vm::MapFlags::kNoReserve, nullptr, 0);
  if (!at)
    return user_error(fmt::format("--fill: mmap of {} anonymous pages gave {}; ask for less", pages, errno_name(at.error())));
  for (std::uint64_t i = 0; i < pages; ++i) {
    forget_boost();
    const VirtAddr address = *at + i * kPageSize;
    const vm::AccessOutcome outcome = vm.access(mm, address, arch::Access::kWrite);
    if (!outcome.ok()) return user_error("--fill: memory ran out on the way; ask for less");
    own_.push_back({.pfn = phys_to_pfn(outcome.phys), .address = address});
  }
  return {};
}

Checked<void> Filler::add_page_cache(std::uint64_t pages) {
  if (file_ == nullptr) {
    file_size_ = machine_.config().ram;
    file::FileSystemConfig config;
    config.disk = sim::DiskConfig::from_costs(machine_.scheduler().costs());
    auto inode = machine_.vfs().mount(config).create("filler", std::make_unique<file::ZeroBacking>(file_size_));
    if (!inode) return user_error(fmt::format("--fill: no file: {}", errno_name(inode.error())));
    const auto opened = machine_.vfs().open(**inode, file::FileMode::kRead);
    if (!opened) return user_error(fmt::format("--fill: no open file: {}", errno_name(opened.error())));
    file_ = *opened;
  }
  forget_boost();
  file::NullIter nowhere;
  const auto read = machine_.vfs().pread(*file_, file_pages_ * kPageSize, pages * kPageSize, nowhere);
  if (!read) return user_error(fmt::format("--fill: reading the file gave {}; ask for less", errno_name(read.error())));
  file_pages_ += pages;
  return {};
}

std::uint64_t Filler::add_kernel_pages(std::uint64_t pages, Gfp gfp) {
  for (std::uint64_t i = 0; i < pages; ++i) {
    forget_boost();
    phys::Page* page = machine_.phys().alloc_page(gfp);
    if (page == nullptr) return i;
    own_.push_back({.pfn = machine_.phys().page_to_pfn(*page), .page = page});
  }
  return pages;
}

void Filler::let_go(const OwnPage& own) {
  if (own.page != nullptr) return machine_.phys().free_page(*own.page);
  static_cast<void>(machine_.vm().madvise(*thread_.process->mm, own.address, kPageSize, vm::Advice::kDontNeed));
}

// Frees pages here and there until enough are free, but never all of an aligned block: its lowest page of ours stays.
void Filler::break_up(Order order, std::uint64_t target_free) {
  std::map<std::uint64_t, std::vector<OwnPage>> blocks;
  for (const OwnPage& own : own_) blocks[own.pfn.value() >> order.value()].push_back(own);
  std::vector<std::uint64_t> keys;
  for (const auto& [key, pages] : blocks) keys.push_back(key);
  Rng rng(machine_.config().seed);
  for (std::size_t i = keys.size(); i > 1; --i) std::swap(keys[i - 1], keys[rng.below(i)]);

  std::vector<OwnPage> kept;
  std::uint64_t free = free_pages();
  for (const std::uint64_t key : keys) {
    std::vector<OwnPage>& pages = blocks[key];
    std::ranges::sort(pages, {}, &OwnPage::pfn);
    kept.push_back(pages.front());
    for (std::size_t i = 1; i < pages.size(); ++i) {
      if (free >= target_free) {
        kept.push_back(pages[i]);
        continue;
      }
      let_go(pages[i]);
      ++free;
    }
  }
  own_ = std::move(kept);
  machine_.phys().drain_all_pages();
}

FillReport Filler::report() {
  forget_boost();
  FillReport out;
  out.free = free_pages();
  out.managed = machine_.phys().totalram_pages();
  for (const OwnPage& own : own_) ++(own.page != nullptr ? out.kernel : out.anonymous);
  out.page_cache = static_cast<std::uint64_t>(machine_.phys().global_node_page_state(phys::NodeStat::kNrFilePages));
  machine_.phys().for_each_populated_zone([&](const Zone& zone) {
    for (unsigned order = 0; order < phys::kNrOrders; ++order) {
      if (zone.nr_free(Order(order)) != 0) out.largest_free = std::max(out.largest_free, std::optional(Order(order)));
    }
  });
  return out;
}

}  // namespace quire::cli
