// The stale-translation checker: does some CPU believe of an address what the page tables no longer say, with nobody left to
// tell it?
//
// A translation that a CPU holds can be used when it is under the CPU's loaded address-space id, or under one that claims to
// be up to date (its generation is the Mm's), since a switch back would then flush nothing. Such a one must agree with the
// tables (arch::Staleness says what agreement is: fewer rights than the tables give are no harm), except
//
//   while a gather of the Mm is under way (Mm::tlb_flush_pending),
//   while a fork has made entries read-only and not flushed yet: rights only, and
//   while a batch of reclaim's that has noted the Mm will still flush this CPU, and the id is known to be behind.
//
// When a gather has flushed, the first exception does not hold: whoever called it may rely on all of the Mm's translations,
// whatever other gathers are in the middle of. A frame that is freed must not be reached by any usable translation at all.
//
// find() looks at everything and is part of validate(). QUIRE_DEBUG builds also check each access that hits a TLB (Vm::tlb_hit), each frame
// that is freed, and the Mm after each gather (the last wherever somebody listens). What is found is a BUG unless a test
// listens.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>

#include "quire/arch/tlb.h"
#include "quire/phys/phys_mem.h"
#include "quire/vm/tlb_shootdown.h"

namespace quire::vm {

class Vm;

struct StaleTranslation {
  enum class When : std::uint8_t { kAtRest, kUsed, kGathered, kFreed };
  When when = When::kAtRest;
  unsigned cpu = 0;
  std::uint64_t context = 0;  // Mm::context_id
  VirtAddr address{};
  PhysAddr frame{};
  arch::Staleness what = arch::Staleness::kFresh;

  [[nodiscard]] std::string text() const;
};

class TlbChecker final : public phys::FreeWatch {
 public:
  explicit TlbChecker(Vm& vm) : vm_(vm) {}

  // The first stale translation that some CPU could use now.
  [[nodiscard]] std::optional<StaleTranslation> find();
  // The same of one Mm, one of whose gathers has just flushed.
  [[nodiscard]] std::optional<StaleTranslation> find_after_gather(const Mm& mm);
  // The same for what reaches a frame of [first, first + pages), which is about to be freed.
  [[nodiscard]] std::optional<StaleTranslation> find_reaching(Pfn first, std::uint64_t pages);
  // The current CPU's translation of an address that is being used.
  [[nodiscard]] std::optional<StaleTranslation> find_used(const Mm& mm, VirtAddr address);

  // Searches and reports.
  void check() { report(find()); }
  void check_used(const Mm& mm, VirtAddr address) { report(find_used(mm, address)); }
  void after_gather(const Mm& mm) {
#ifndef QUIRE_DEBUG
    if (!listener_) return;
#endif
    report(find_after_gather(mm));
  }
  void before_free(Pfn first, Order order) override { report(find_reaching(first, order.pages())); }

  using Listener = std::function<void(const StaleTranslation&)>;
  void listen(Listener listener) { listener_ = std::move(listener); }

 private:
  void report(const std::optional<StaleTranslation>& found) const;
  [[nodiscard]] Mm* mm_of(std::uint64_t context);
  // What the address-space ids of one CPU stand for; null: nothing any more.
  struct Ids {
    std::array<const Mm*, kTlbNrDynAsids> mms{};
    std::array<bool, kTlbNrDynAsids> usable{};
    // Not what is beyond the ids that Mms have: global entries are no Mm's.
    [[nodiscard]] bool can_use(unsigned asid) const { return asid < kTlbNrDynAsids && usable[asid]; }
  };
  enum class Gathers : std::uint8_t { kMayBeUnderWay, kDone };
  [[nodiscard]] Ids ids_of(unsigned cpu);
  [[nodiscard]] bool flush_to_come(unsigned cpu, unsigned asid, const Mm& mm, arch::Staleness what, Gathers gathers);
  [[nodiscard]] std::optional<StaleTranslation> judge(unsigned cpu, const Ids& ids, const arch::TlbEntry& entry,
                                                      Gathers gathers);

  Vm& vm_;
  Listener listener_;
};

}  // namespace quire::vm
