// Pins against a model. A few address spaces, forked from one another, write to their pages; a device pins some of them, for a
// moment or for long, and reads and writes their frames; pages are thrown away, moved, unmapped; memory is compacted and gets
// short. After each step
//   - a page that is pinned is still the one that the process has there, unless the process itself threw it away,
//   - so each sees what the other wrote, and nobody else does,
//   - no page that is pinned for long lies in a CMA area,
// and the whole machine is validated.
#include <fmt/format.h>

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "quire/phys/cma.h"
#include "quire/vm/gup.h"
#include "races.h"

namespace quire::kernel::test {
namespace {

using arch::Access;
using phys::MigrateType;
using vm::Advice;
using vm::FollFlags;
using vm::MapFlags;
using vm::Prot;

constexpr std::uint64_t kSlots = 12;   // pages of an address space
constexpr std::uint64_t kPlaces = 64;  // where they may lie
constexpr std::size_t kMostSpaces = 3;
constexpr std::size_t kMostPins = 16;
constexpr std::uint64_t kHogPages = 3'400;  // nearly all there is
constexpr VirtAddr kWindow{0x10'0000'0000};
constexpr Prot kReadWrite = Prot::kRead | Prot::kWrite;
constexpr MapFlags kAnonymous = MapFlags::kAnonymous | MapFlags::kPrivate | MapFlags::kFixed;

constexpr RaceMachine kMachine{.ram = 16 * kMiB, .least_cpus = 1, .most_cpus = 3, .more = [](MachineConfig& config, Rng& rng) {
                                 config.sysctl["vm.compaction_proactiveness"] = 0;
                                 if (rng.chance(1, 2)) config.cmdline = "cma=8M";
                               }};

struct Slot {
  std::uint64_t place = 0;
  std::uint64_t value = 0;  // what the process finds there
};

struct Space {
  vm::Mm* mm = nullptr;
  std::array<Slot, kSlots> slots{};
};

struct Pin {
  phys::Page* page = nullptr;
  Space* space = nullptr;  // null: the process has thrown the page away since
  std::uint64_t slot = 0;
  std::uint64_t value = 0;  // of a page that was thrown away
  Access kind = Access::kWrite;
  FollFlags flags = FollFlags::kNone;
};

enum class Step : std::uint8_t {
  kWrite,
  kDeviceWrite,
  kPin,
  kUnpin,
  kFork,
  kExit,
  kDontNeed,
  kMove,
  kMapAnew,
  kPageOut,
  kWantOfMemory,
  kCompact,
  kMigrate,
  kEmptyCma,
  kCount,
};
constexpr std::size_t kSteps = static_cast<std::size_t>(Step::kCount);
constexpr std::array<std::string_view, kSteps> kNames{"write",    "device write", "pin",     "unpin",    "fork",
                                                      "exit",     "drop",         "move",    "map anew", "page out",
                                                      "pressure", "compact",      "migrate", "empty CMA"};

class Pins {
 public:
  Pins(Machine& machine, std::uint64_t seed) : machine_(machine), vm_(machine.vm()), rng_(seed) {}

  void run(std::uint64_t steps) {
    if (!in_task([this] { begin(); })) return;
    for (std::uint64_t i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      const auto step = static_cast<Step>(rng_.below(kSteps));
      SCOPED_TRACE(fmt::format("step {}: {}", i, kNames[static_cast<std::size_t>(step)]));
      const bool ran = in_task([&] {
        act(step);
        look_at_pins();
        look_at(one(spaces_), rng_.below(kSlots));
      });
      if (!ran) return;
      machine_.settle();
      machine_.validate();
    }
    if (!in_task([this] { end(); })) return;
    machine_.settle();
    machine_.validate();
    const auto count = [&](phys::NodeStat stat) { return machine_.phys().global_node_page_state(stat); };
    EXPECT_EQ(count(phys::NodeStat::kNrFollPinAcquired), count(phys::NodeStat::kNrFollPinReleased));
    EXPECT_EQ(count(phys::NodeStat::kNrAnonPages), 0);
  }

  std::array<std::uint64_t, kSteps> done{};  // how often each had something to do

 private:
  [[nodiscard]] bool in_task(const std::function<void()>& body) {
    bool over = false;
    machine_.scheduler().spawn("step", [&] {
      body();
      over = true;
    });
    return run_until(machine_, [&over] { return over; });
  }
  template <class T>
  T& one(std::vector<T>& of) {
    return of[rng_.below(of.size())];
  }
  Space& one(std::vector<std::unique_ptr<Space>>& of) { return *of[rng_.below(of.size())]; }
  static VirtAddr at(const Slot& slot) { return kWindow + slot.place * kPageSize; }

  void begin() {
    spaces_.push_back(std::make_unique<Space>());
    spaces_[0]->mm = *vm_.mm_alloc();
    for (std::uint64_t i = 0; i < kSlots; ++i) {
      spaces_[0]->slots[i].place = i;
      map(*spaces_[0], spaces_[0]->slots[i]);
    }
  }
  void end() {
    for (const auto& space : spaces_) {
      for (std::uint64_t i = 0; i < kSlots; ++i) look_at(*space, i);
    }
    while (!pins_.empty()) unpin(0);
    for (const auto& space : spaces_) vm_.mmput(*space->mm);
    spaces_.clear();
    machine_.lru().lru_add_drain_all();
  }
  void map(Space& space, const Slot& slot) {
    ASSERT_TRUE(vm_.mmap(*space.mm, at(slot), kPageSize, kReadWrite, kAnonymous, nullptr, 0));
  }

  void act(Step step) {
    Space& space = one(spaces_);
    const std::uint64_t index = rng_.below(kSlots);
    Slot& slot = space.slots[index];
    const std::uint64_t before = did_;
    switch (step) {
      case Step::kWrite: write(space, slot); break;
      case Step::kDeviceWrite: device_write(); break;
      case Step::kPin: pin(space, index); break;
      case Step::kUnpin:
        if (!pins_.empty()) unpin(rng_.below(pins_.size()));
        break;
      case Step::kFork: fork(space); break;
      case Step::kExit: exit(); break;
      case Step::kDontNeed:
        ASSERT_TRUE(vm_.madvise(*space.mm, at(slot), kPageSize, Advice::kDontNeed));
        thrown_away(space, index);
        break;
      case Step::kMove: move(space, slot); break;
      case Step::kMapAnew:
        ASSERT_TRUE(vm_.munmap(*space.mm, at(slot), kPageSize));
        map(space, slot);
        thrown_away(space, index);
        break;
      case Step::kPageOut:
        for (const Slot& each : space.slots) ASSERT_TRUE(vm_.madvise(*space.mm, at(each), kPageSize, Advice::kPageOut));
        ++did_;
        break;
      case Step::kWantOfMemory: want_of_memory(); break;
      case Step::kCompact:
        machine_.compaction().compact_nodes();
        ++did_;
        break;
      case Step::kMigrate: migrate(space, slot); break;
      case Step::kEmptyCma: empty_cma(); break;
      case Step::kCount: break;
    }
    done[static_cast<std::size_t>(step)] += did_ - before;
  }

  void write(Space& space, Slot& slot) {
    const vm::AccessOutcome outcome = vm_.access(*space.mm, at(slot), Access::kWrite);
    ASSERT_TRUE(outcome.ok());
    slot.value = ++next_;
    std::memcpy(vm_.to_host(outcome.phys), &slot.value, sizeof slot.value);
    ++did_;
  }
  void device_write() {
    if (pins_.empty()) return;
    const Pin& chosen = one(pins_);
    if (chosen.kind == Access::kRead) return;
    ++next_;
    std::memcpy(machine_.phys().page_address(*chosen.page), &next_, sizeof next_);
    for (Pin& pin : pins_) {
      if (pin.page == chosen.page) value_of(pin) = next_;
    }
    ++did_;
  }
  void pin(Space& space, std::uint64_t index) {
    if (pins_.size() == kMostPins) return;
    Pin pin{.space = &space, .slot = index};
    if (rng_.chance(1, 4)) pin.kind = Access::kRead;
    if (rng_.chance(1, 2)) pin.flags = FollFlags::kLongterm;
    std::array<phys::Page*, 1> pages{};
    const auto got = vm_.pin_user_pages(*space.mm, at(space.slots[index]), pages, pin.kind, pin.flags);
    if (!got) {  // a pin for a moment keeps a page where one for long may not have it
      ASSERT_EQ(got.error(), Errno::kNoMem);
      ASSERT_EQ(pin.flags, FollFlags::kLongterm);
      return;
    }
    pin.page = pages[0];
    if (pin.page == &vm_.zero_page()) return;
    pins_.push_back(pin);
    ++did_;
  }
  void unpin(std::uint64_t i) {
    const std::array<phys::Page*, 1> pages{pins_[i].page};
    pins_[i].kind == Access::kWrite ? vm_.unpin_user_pages_dirty_lock(pages) : vm_.unpin_user_pages(pages);
    pins_.erase(pins_.begin() + static_cast<std::ptrdiff_t>(i));
    ++did_;
  }
  void fork(Space& parent) {
    if (spaces_.size() == kMostSpaces) return;
    const Result<vm::Mm*> mm = vm_.dup_mm(*parent.mm);
    ASSERT_TRUE(mm.has_value());
    spaces_.push_back(std::make_unique<Space>(Space{*mm, parent.slots}));
    ++did_;
  }
  void exit() {
    if (spaces_.size() == 1) return;
    const std::uint64_t who = rng_.below(spaces_.size());
    for (std::uint64_t i = 0; i < kSlots; ++i) thrown_away(*spaces_[who], i);
    vm_.mmput(*spaces_[who]->mm);
    spaces_.erase(spaces_.begin() + static_cast<std::ptrdiff_t>(who));
  }
  void move(Space& space, Slot& slot) {
    const std::uint64_t to = rng_.below(kPlaces);
    for (const Slot& other : space.slots) {
      if (other.place == to) return;
    }
    const auto moved = vm_.mremap(*space.mm, at(slot), kPageSize, kPageSize,
                                  vm::MremapFlags::kMayMove | vm::MremapFlags::kFixed, kWindow + to * kPageSize);
    ASSERT_TRUE(moved.has_value());
    slot.place = to;
    ++did_;
  }
  void want_of_memory() {
    vm::Mm& hog = **vm_.mm_alloc();
    const auto area =
        vm_.mmap(hog, VirtAddr(0), kHogPages * kPageSize, kReadWrite, MapFlags::kAnonymous | MapFlags::kPrivate, nullptr, 0);
    ASSERT_TRUE(area.has_value());
    for (std::uint64_t i = 0; i < kHogPages; ++i) ASSERT_TRUE(vm_.access(hog, *area + i * kPageSize, Access::kWrite).ok());
    vm_.mmput(hog);
    ++did_;
  }
  void migrate(Space& space, const Slot& slot) {
    const arch::Pte* pte = vm_.pgtable().pte_offset(*space.mm, at(slot));
    if (pte == nullptr || !pte->present()) return;
    const Pfn first = pte->pfn();
    machine_.lru().lru_add_drain_all();
    static_cast<void>(
        machine_.compaction().migrate_range({first, first + 1}, phys::MigrateMode::kSync, phys::MigrateReason::kSyscall));
    ++did_;
  }
  // Pins for long do not keep the driver from its area.
  void empty_cma() {
    phys::PhysMem& phys = machine_.phys();
    if (phys.cma().areas().empty()) return;
    for (const Pin& pin : pins_) {
      if (pin.flags == FollFlags::kNone && in_cma(pin)) return;
    }
    const Range<Pfn> area = phys.cma().areas()[0]->pfns();
    ASSERT_TRUE(phys.alloc_contig_range(area, MigrateType::kCma, phys::Gfp::kKernel));
    phys.free_contig_range(area);
    ++did_;
  }

  [[nodiscard]] bool in_cma(const Pin& pin) {
    return machine_.phys().pageblock_migratetype(machine_.phys().page_to_pfn(*pin.page)) == MigrateType::kCma;
  }
  // What process and device find in a pinned page.
  static std::uint64_t& value_of(Pin& pin) { return pin.space != nullptr ? pin.space->slots[pin.slot].value : pin.value; }
  void thrown_away(Space& space, std::uint64_t index) {
    for (Pin& pin : pins_) {
      if (pin.space != &space || pin.slot != index) continue;
      pin.value = space.slots[index].value;
      pin.space = nullptr;
    }
    space.slots[index].value = 0;
    ++did_;
  }

  void look_at_pins() {
    for (Pin& pin : pins_) {
      EXPECT_TRUE(vm::folio_maybe_dma_pinned(phys::page_folio(*pin.page)));
      EXPECT_FALSE(pin.flags == FollFlags::kLongterm && in_cma(pin));
      std::uint64_t found = 0;
      std::memcpy(&found, machine_.phys().page_address(*pin.page), sizeof found);
      EXPECT_EQ(found, value_of(pin)) << "the device, slot " << pin.slot;
      if (pin.space == nullptr) continue;
      const arch::Pte* pte = vm_.pgtable().pte_offset(*pin.space->mm, at(pin.space->slots[pin.slot]));
      ASSERT_TRUE(pte != nullptr && pte->present()) << "slot " << pin.slot;
      EXPECT_EQ(pte->pfn(), machine_.phys().page_to_pfn(*pin.page)) << "slot " << pin.slot;
    }
  }
  void look_at(Space& space, std::uint64_t index) {
    const vm::AccessOutcome outcome = vm_.access(*space.mm, at(space.slots[index]), Access::kRead);
    ASSERT_TRUE(outcome.ok());
    std::uint64_t found = 0;
    std::memcpy(&found, vm_.to_host(outcome.phys), sizeof found);
    EXPECT_EQ(found, space.slots[index].value) << "the process, slot " << index;
  }

  Machine& machine_;
  vm::Vm& vm_;
  Rng rng_;
  std::vector<std::unique_ptr<Space>> spaces_;
  std::vector<Pin> pins_;
  std::uint64_t next_ = 0;
  std::uint64_t did_ = 0;
};

TEST(Pins, WhatIsPinnedIsTheSameForProcessAndDevice) {
  const std::uint64_t steps = from_environment("QUIRE_OPS", 80);
  std::array<std::uint64_t, kSteps> done{};
  const std::uint64_t seeds = for_race_seeds(kMachine, 50, 6, [&](Machine& machine, std::uint64_t seed) {
    Pins pins(machine, seed);
    pins.run(steps);
    for (std::size_t i = 0; i < done.size(); ++i) done[i] += pins.done[i];
  });
  if (HasFailure()) return;
  for (std::size_t i = 0; i < done.size(); ++i) EXPECT_GT(done[i], seeds * steps / 200) << kNames[i];
}

}  // namespace
}  // namespace quire::kernel::test
