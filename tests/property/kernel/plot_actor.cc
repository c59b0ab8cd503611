#include "plot_actor.h"

#include <fmt/format.h>

#include <cstring>

namespace quire::kernel::test {

using arch::Access;
using vm::MapFlags;
using vm::Prot;

unsigned Fray::take_slot() {
  for (unsigned slot = 0; slot < kSlots; ++slot) {
    if (taken[slot]) continue;
    taken[slot] = true;
    return slot;
  }
  return kSlots;
}

Status Fray::new_file() {
  const auto made = machine.vfs().memfd_create("plots", file::MemfdFlags::kAllowSealing);
  if (!made) return fail(made.error());
  auto file = std::make_unique<SealedFile>();
  file->file = *made;
  file->pages = kPlotPages;
  for (std::uint64_t i = 0; i < kPlotPages; ++i) file->contents.push_back(std::make_shared<Content>());
  if (Status sized = machine.vfs().ftruncate(**made, kPlotPages * kPageSize); !sized) {
    machine.vfs().fput(**made);
    return sized;
  }
  files.push_back(std::move(file));
  return {};
}

bool Fray::wait_for_round(unsigned next_round, const Process& self) {
  constexpr sim::Nanos kStart = 100 * sim::kMicrosecond;  // a round may begin at its multiples
  sim::Scheduler& scheduler = machine.scheduler();
  while (round < next_round && !over && !self.killed()) scheduler.sleep_until((scheduler.now() / kStart + 1) * kStart);
  if (round < next_round && !over) --finished;  // with its part of this round, and leaves
  return !over;
}

void Actor::set_up() {
  mm().ipc_lock = vm::CapIpcLock::kYes;
  const auto at = vm().mmap(mm(), VirtAddr(0), kSlots * kScratchPages * kPageSize, Prot::kRead | Prot::kWrite,
                            MapFlags::kPrivate | MapFlags::kAnonymous, nullptr, 0);
  if (!at) return fray_.mismatch("no scratch");
  space_.scratch = *at;
  constexpr std::array kKinds{PlotKind::kPrivate, PlotKind::kPrivate, PlotKind::kDroppable, PlotKind::kFile};
  for (std::size_t i = 0; i < kPlots; ++i) map(space_.plots[i], kKinds[i], {});
  space_.lives = true;
}

void Actor::act(Thread& thread, unsigned first, unsigned rounds) {
  ++space_.tasks;
  for (unsigned round = first; round < first + rounds && fray_.wait_for_round(round, *space_.process); ++round) {
    fray_.machine.scheduler().sleep_for(rng_.below(4000));
    for (unsigned done = 0, tried = 0; done < kActsInARound && tried < 4 * kActsInARound; ++tried) {
      if (killed() || !fray_.first_mismatch.empty()) break;
      if (one_act()) ++done;
    }
    if (killed()) break;
    ++fray_.finished;
  }
  // Whoever leaves has no part in the present round.
  if (!killed()) fray_.wait_for_round(first + rounds, *space_.process);
  fray_.killed += killed() ? 1 : 0;
  if (--space_.tasks == 0 || killed()) space_.lives = false;
  --fray_.living;
  fray_.taken[slot_] = false;
  fray_.machine.processes().exit_thread(thread, {});
}

bool Actor::one_act() {
  constexpr std::array<Act, 40> kActs{
      Act::kLook,      Act::kLook,      Act::kLook,       Act::kLook,       Act::kLook,         Act::kWrite,
      Act::kWrite,     Act::kWrite,     Act::kWrite,      Act::kWrite,      Act::kWrite,        Act::kGuard,
      Act::kGuard,     Act::kUnguard,   Act::kUnguard,    Act::kDontNeed,   Act::kFree,         Act::kFree,
      Act::kFree,      Act::kOwnAdvice, Act::kOwnAdvice,  Act::kOwnAdvice,  Act::kOthersAdvice, Act::kOthersAdvice,
      Act::kLock,      Act::kLockAll,   Act::kOnFork,     Act::kProtect,    Act::kSeal,         Act::kMove,
      Act::kRemap,     Act::kFork,      Act::kRemoteRead, Act::kRemoteRead, Act::kRemoteWrite,  Act::kRemoteWrite,
      Act::kFileWrite, Act::kFileRead,  Act::kCut,        Act::kFileSeal};
  const Act act = kActs[rng_.below(kActs.size())];
  Plot& plot = some_plot();
  const auto on_plot = [&](bool (Actor::*change)(Plot&)) { return plot.mapped && !plot.busy && (this->*change)(plot); };
  const auto on_pages = [&](void (Actor::*touch)(Plot&, std::uint64_t)) {
    const Pages pages = some_pages();
    for (std::uint64_t page = pages.first; page < pages.end && plot.mapped && !killed(); ++page) (this->*touch)(plot, page);
    return true;
  };
  bool done = false;
  switch (act) {
    case Act::kLook: done = on_pages(&Actor::look); break;
    case Act::kWrite: done = on_pages(&Actor::write); break;
    case Act::kGuard: done = on_plot(&Actor::guard); break;
    case Act::kUnguard: done = on_plot(&Actor::unguard); break;
    case Act::kDontNeed: done = on_plot(&Actor::dont_need); break;
    case Act::kFree: done = on_plot(&Actor::free); break;
    case Act::kOwnAdvice: done = plot.mapped && own_advice(plot); break;
    case Act::kOthersAdvice: done = others_advice(); break;
    case Act::kLock: done = on_plot(&Actor::lock); break;
    case Act::kLockAll: done = lock_all(); break;
    case Act::kOnFork: done = on_plot(&Actor::on_fork); break;
    case Act::kProtect: done = on_plot(&Actor::protect); break;
    case Act::kSeal: done = on_plot(&Actor::seal); break;
    case Act::kMove: done = on_plot(&Actor::move); break;
    case Act::kRemap: done = !plot.busy && remap(plot); break;
    case Act::kFork: done = fork(); break;
    case Act::kRemoteRead: done = remote_read(); break;
    case Act::kRemoteWrite: done = remote_write(); break;
    case Act::kFileWrite: done = file_write(); break;
    case Act::kFileRead: done = file_read(); break;
    case Act::kCut: done = cut(); break;
    case Act::kFileSeal: done = seal_file(); break;
    case Act::kCount: break;
  }
  if (done) ++fray_.done[static_cast<std::size_t>(act)];
  return done;
}

Actor::Pages Actor::some_pages() {
  const std::uint64_t first = rng_.below(kPlotPages);
  return {first, first + 1 + rng_.below(kPlotPages - first)};
}

Range<VirtAddr> Actor::range_of(const Plot& plot, Pages pages) const {
  return {plot.base + pages.first * kPageSize, plot.base + pages.end * kPageSize};
}

Space* Actor::some_space() {
  Space& space = *fray_.spaces[rng_.below(fray_.spaces.size())];
  return space.lives && !space.process->killed() ? &space : nullptr;
}

bool Actor::expect(const Status& status, Expected expected, std::string_view call) {
  if (killed()) return false;
  if (status.has_value() && !expected) return true;
  if (status.has_value()) {
    fray_.mismatch(fmt::format("{} succeeded, not {}", call, errno_name(*expected)));
  } else if (!expected && (status.error() == Errno::kNoMem || status.error() == Errno::kAgain)) {
    ++fray_.short_of_memory;
  } else if (!expected || status.error() != *expected) {
    fray_.mismatch(
        fmt::format("{}: {}, not {}", call, errno_name(status.error()), expected ? errno_name(*expected) : "success"));
  }
  return false;
}

void Actor::look(Plot& plot, std::uint64_t page) {
  const Moment begun = fray_.clock.tick();
  const VirtAddr at = plot.base + page * kPageSize;
  const vm::AccessOutcome outcome = vm().access(mm(), at, Access::kRead);
  if (killed() || !plot.mapped || plot.placing || plot.placed > begun) return;  // it lay elsewhere
  if (!outcome.ok()) return refused(outcome, plot, page, Access::kRead, begun);
  const PlotPage& there = plot.pages[page];
  if (there.guarded.surely()) return fray_.mismatch(fmt::format("{:#x} was read behind its guard", at.value()));
  if (there.content->beyond.surely()) return fray_.mismatch(fmt::format("{:#x} was read beyond its file's end", at.value()));
  check_bytes(vm().to_host(outcome.phys), *there.content, fmt::format("read at {:#x}", at.value()));
}

void Actor::write(Plot& plot, std::uint64_t page) {
  const Moment begun = fray_.clock.tick();
  const VirtAddr at = plot.base + page * kPageSize + slot_offset(slot_);
  const vm::AccessOutcome outcome = vm().access(mm(), at, Access::kWrite);
  if (killed() || !plot.mapped || plot.placing || plot.placed > begun) return;
  if (!outcome.ok()) return refused(outcome, plot, page, Access::kWrite, begun);
  const PlotPage& there = plot.pages[page];
  if (there.guarded.surely()) return fray_.mismatch(fmt::format("{:#x} was written behind its guard", at.value()));
  if (there.content->beyond.surely()) return fray_.mismatch(fmt::format("{:#x} was written beyond its file's end", at.value()));
  if (plot.read_only.surely()) return fray_.mismatch(fmt::format("{:#x} was written and is read-only", at.value()));
  if (plot.file != nullptr && any(plot.file->seals, file::Seals::kWrite)) return fray_.mismatch("a sealed file was written");
  const Number number = ++fray_.next;
  std::memcpy(vm().to_host(outcome.phys), &number, sizeof number);
  there.content->written(slot_, number);
}

void Actor::refused(const vm::AccessOutcome& outcome, const Plot& plot, std::uint64_t page, Access kind, Moment begun) {
  ++fray_.refused;
  const PlotPage& there = plot.pages[page];
  if (outcome.status == vm::AccessStatus::kOom) {
    ++fray_.short_of_memory;
    return;
  }
  const bool against_rights = kind == Access::kWrite && plot.read_only.maybe_since(begun);
  const bool expected = outcome.signal == vm::Signal::kSegv  ? there.guarded.maybe_since(begun) || against_rights
                        : outcome.signal == vm::Signal::kBus ? there.content->beyond.maybe_since(begun)
                                                             : false;
  if (!expected) {
    fray_.mismatch(fmt::format("access {} to page {} of a plot of kind {} ended in signal {}", static_cast<int>(kind), page,
                               static_cast<int>(plot.kind), static_cast<int>(outcome.signal)));
  }
}

void Actor::check_bytes(const std::byte* bytes, Content& content, std::string_view where) {
  std::array<std::byte, kPageSize> rest;
  std::memcpy(rest.data(), bytes, kPageSize);
  for (unsigned slot = 0; slot < kSlots; ++slot) {
    Number number = 0;
    std::memcpy(&number, bytes + slot_offset(slot), sizeof number);
    std::memset(rest.data() + slot_offset(slot), 0, sizeof number);
    if (!content.found(slot, number)) {
      return fray_.mismatch(
          fmt::format("{}: slot {} holds {}, which is none of {}", where, slot, number, fmt::join(content.may[slot], " ")));
    }
  }
  static constexpr std::array<std::byte, kPageSize> kZeroes{};
  if (std::memcmp(rest.data(), kZeroes.data(), kPageSize) != 0) fray_.mismatch(fmt::format("{}: bytes nobody wrote", where));
}

}  // namespace quire::kernel::test
