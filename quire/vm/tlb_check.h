// The stale-translation checker: does some CPU believe of an address what the page tables no longer say, with nobody left to
// tell it?
//
// A translation that a CPU holds can be used when it is under the CPU's loaded address-space id, or under one that claims to
// be up to date (its generation is the Mm's), since a switch back would then flush nothing. Such a one must agree with the
// tables (arch::Staleness says what agreement is: fewer rights than the tables give are no harm), except
//
//   while somebody stands between a change and its flush (Mm::tlb_flush_pending), and
//   while a batch of reclaim's will still flush this CPU, and the id is known to be behind.
//
// A frame that is freed must not be reached by any usable translation at all; for that there is no exception.
//
// find() looks at everything and is part of validate(). QUIRE_DEBUG builds also check each access that hits a TLB and each
// frame that is freed. What is found is a BUG unless a test listens.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "quire/arch/tlb.h"
#include "quire/phys/phys_mem.h"
#include "quire/vm/tlb_shootdown.h"

namespace quire::vm {

class Vm;

struct StaleTranslation {
  enum class When : std::uint8_t { kAtRest, kUsed, kFreed };
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
  // The same for what reaches a frame of [first, first + pages), which is about to be freed.
  [[nodiscard]] std::optional<StaleTranslation> find_reaching(Pfn first, std::uint64_t pages);
  // The current CPU's translation of an address that is being used.
  [[nodiscard]] std::optional<StaleTranslation> find_used(Mm& mm, VirtAddr address);

  // Searches and reports.
  void check() { report(find()); }
  void check_used(Mm& mm, VirtAddr address) { report(find_used(mm, address)); }
  void before_free(Pfn first, Order order) override { report(find_reaching(first, order.pages())); }

  using Listener = std::function<void(const StaleTranslation&)>;
  void listen(Listener listener) { listener_ = std::move(listener); }

 private:
  void report(const std::optional<StaleTranslation>& found) const;
  [[nodiscard]] Mm* mm_of(std::uint64_t context);
  [[nodiscard]] std::optional<StaleTranslation> judge(unsigned cpu, const arch::TlbEntry& entry);

  Vm& vm_;
  Listener listener_;
};

}  // namespace quire::vm
