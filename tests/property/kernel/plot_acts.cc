// Acts of a task on the plots of its own process.
#include <fmt/format.h>

#include <algorithm>

#include "plot_actor.h"

namespace quire::kernel::test {

using vm::Advice;
using vm::MapFlags;
using vm::MremapFlags;
using vm::Prot;

namespace {

constexpr std::uint64_t kBytes = kPlotPages * kPageSize;
constexpr Prot kReadWrite = Prot::kRead | Prot::kWrite;

// The pages of a plot whose bytes are its own.
template <class F>
void each_own(Plot& plot, std::uint64_t first, std::uint64_t end, F&& f) {
  if (plot.kind == PlotKind::kFile) return;
  for (std::uint64_t page = first; page < end; ++page) f(*plot.pages[page].content);
}

}  // namespace

bool Actor::guard(Plot& plot) {
  const Claim claim(plot);
  const Pages pages = some_pages();
  const auto range = range_of(plot, pages);
  const auto call = [&] { return vm().madvise(mm(), range.begin, range.size(), Advice::kGuardInstall); };
  if (discard_is_sealed(plot)) return expect(call(), Errno::kPerm, "guard of a sealed plot"), true;
  if (plot.locked) return expect(call(), Errno::kInval, "guard of a locked plot"), true;
  for (std::uint64_t page = pages.first; page < pages.end; ++page) plot.pages[page].guarded.begin();
  each_own(plot, pages.first, pages.end, [](Content& content) { content.begin_zeroing(); });
  const bool done = expect(call(), {}, "guard");
  if (done) {
    for (std::uint64_t page = pages.first; page < pages.end; ++page) plot.pages[page].guarded.end(true, fray_.clock);
  }
  each_own(plot, pages.first, pages.end, [&](Content& content) {
    if (!done) content.spoil();
    content.end_zeroing(fray_.clock);
    if (done) content.is_zero_now();
  });
  return true;
}

bool Actor::unguard(Plot& plot) {
  const Claim claim(plot);
  const Pages pages = some_pages();
  const auto range = range_of(plot, pages);
  for (std::uint64_t page = pages.first; page < pages.end; ++page) {
    if (plot.pages[page].guarded.maybe()) plot.pages[page].guarded.begin();
  }
  if (expect(vm().madvise(mm(), range.begin, range.size(), Advice::kGuardRemove), {}, "unguard")) {
    for (std::uint64_t page = pages.first; page < pages.end; ++page) plot.pages[page].guarded.end(false, fray_.clock);
  }
  return true;
}

bool Actor::dont_need(Plot& plot) {
  const Claim claim(plot);
  const Pages pages = some_pages();
  const auto range = range_of(plot, pages);
  const Advice advice = rng_.chance(1, 2) ? Advice::kDontNeed : Advice::kDontNeedLocked;
  const auto call = [&] { return vm().madvise(mm(), range.begin, range.size(), advice); };
  if (discard_is_sealed(plot)) return expect(call(), Errno::kPerm, "discard of a sealed plot"), true;
  if (plot.locked && advice == Advice::kDontNeed) return expect(call(), Errno::kInval, "discard of a locked plot"), true;
  each_own(plot, pages.first, pages.end, [](Content& content) { content.begin_zeroing(); });
  const bool done = expect(call(), {}, "discard");
  each_own(plot, pages.first, pages.end, [&](Content& content) {
    if (!done) content.spoil();
    content.end_zeroing(fray_.clock);
  });
  return true;
}

bool Actor::free(Plot& plot) {
  const Claim claim(plot);
  const Pages pages = some_pages();
  const auto range = range_of(plot, pages);
  const auto call = [&] { return vm().madvise(mm(), range.begin, range.size(), Advice::kFree); };
  if (discard_is_sealed(plot)) return expect(call(), Errno::kPerm, "MADV_FREE of a sealed plot"), true;
  if (plot.locked) return expect(call(), Errno::kInval, "MADV_FREE of a locked plot"), true;
  if (plot.kind == PlotKind::kFile) return expect(call(), Errno::kInval, "MADV_FREE of a file"), true;
  each_own(plot, pages.first, pages.end, [](Content& content) { content.begin_freeing(); });
  expect(call(), {}, "MADV_FREE");
  each_own(plot, pages.first, pages.end, [&](Content& content) { content.end_freeing(fray_.clock); });
  return true;
}

// Locks the plot, or lets it go.
bool Actor::lock(Plot& plot) {
  const Claim claim(plot);
  if (plot.locked) {
    plot.locked = !expect(vm().munlock(mm(), plot.base, kBytes), {}, "munlock");
    return true;
  }
  const Status locked =
      vm().mlock(mm(), plot.base, kBytes, rng_.chance(1, 3) ? vm::MlockFlags::kOnFault : vm::MlockFlags::kNone);
  if (killed()) return true;
  plot.locked = locked.has_value() && plot.kind != PlotKind::kDroppable;
  if (locked) return true;
  // A guard or the end of a file is in the way: the areas are locked all the same. (mlock(2))
  for (int tries = 0; tries < 100 && !vm().munlock(mm(), plot.base, kBytes) && !killed(); ++tries) {
    fray_.machine.scheduler().sleep_for(10'000);
  }
  return true;
}

bool Actor::lock_all() {
  for (const Plot& plot : space_.plots) {
    if (plot.busy) return false;
  }
  const Claim claims[] = {Claim(space_.plots[0]), Claim(space_.plots[1]), Claim(space_.plots[2]), Claim(space_.plots[3])};
  static_assert(std::size(claims) == kPlots);
  const bool lock = rng_.chance(1, 3);
  const auto how = vm::MclFlags::kCurrent | (rng_.chance(1, 2) ? vm::MclFlags::kOnFault : vm::MclFlags::kNone);
  if (!expect(lock ? vm().mlockall(mm(), how) : vm().munlockall(mm()), {}, "mlockall")) return true;
  for (Plot& plot : space_.plots) plot.locked = lock && plot.mapped && plot.kind != PlotKind::kDroppable;
  return true;
}

bool Actor::on_fork(Plot& plot) {
  const Claim claim(plot);
  constexpr std::array kAdvices{Advice::kWipeOnFork, Advice::kKeepOnFork, Advice::kDontFork, Advice::kDoFork, Advice::kDoFork};
  const Advice advice = kAdvices[rng_.below(kAdvices.size())];
  const Status advised = vm().madvise(mm(), plot.base, kBytes, advice);
  const bool takes_away = advice == Advice::kWipeOnFork || advice == Advice::kDontFork;
  if (takes_away && discard_is_sealed(plot)) return expect(advised, Errno::kPerm, "on fork of a sealed plot"), true;
  if ((advice == Advice::kWipeOnFork && plot.kind == PlotKind::kFile) ||
      (advice == Advice::kKeepOnFork && plot.kind == PlotKind::kDroppable)) {
    return expect(advised, Errno::kInval, "on fork"), true;
  }
  if (!expect(advised, {}, "on fork")) return true;
  if (advice == Advice::kWipeOnFork || advice == Advice::kKeepOnFork) plot.wiped_on_fork = advice == Advice::kWipeOnFork;
  if (advice == Advice::kDontFork || advice == Advice::kDoFork) plot.not_forked = advice == Advice::kDontFork;
  return true;
}

bool Actor::protect(Plot& plot) {
  const Claim claim(plot);
  const bool read_only = rng_.chance(1, 3);
  const bool was = plot.read_only.surely();
  const auto call = [&] { return vm().mprotect(mm(), plot.base, kBytes, read_only ? Prot::kRead : kReadWrite); };
  if (!read_only && plot.never_writable) return expect(call(), Errno::kAcces, "mprotect of a sealed file"), true;
  if (plot.sealed) return expect(call(), Errno::kPerm, "mprotect of a sealed plot"), true;
  plot.read_only.begin();
  plot.read_only.end(expect(call(), {}, "mprotect") ? read_only : was, fray_.clock);
  return true;
}

// Seldom, since it is for good; what is sealed already withstands.
bool Actor::seal(Plot& plot) {
  if (plot.sealed) return defy_seal(plot);
  if (!rng_.chance(1, 6)) return false;
  const Claim claim(plot);
  plot.sealed = expect(vm().mseal(mm(), plot.base, kBytes), {}, "mseal");
  return true;
}

bool Actor::defy_seal(Plot& plot) {
  const Claim claim(plot);
  const Pages pages = some_pages();
  const auto range = range_of(plot, pages);
  const auto refused = [&](auto&& result) { return result ? Status{} : Status(fail(result.error())); };
  switch (rng_.below(4)) {
    case 0: expect(vm().munmap(mm(), range.begin, range.size()), Errno::kPerm, "munmap of a sealed plot"); break;
    case 1:
      expect(
          refused(vm().mremap(mm(), range.begin, range.size(), range.size(), MremapFlags::kMayMove | MremapFlags::kDontUnmap)),
          Errno::kPerm, "mremap of a sealed plot");
      break;
    case 2:
      expect(refused(vm().mremap(mm(), range.begin, range.size(), range.size() + kPageSize, MremapFlags::kMayMove)),
             Errno::kPerm, "growth of a sealed plot");
      break;
    default:
      expect(refused(vm().mmap(mm(), range.begin, range.size(), kReadWrite,
                               MapFlags::kPrivate | MapFlags::kAnonymous | MapFlags::kFixed, nullptr, 0)),
             Errno::kPerm, "a mapping over a sealed plot");
  }
  return true;
}

// While the plot moves, an access finds a guard or what it left behind.
void Actor::guards_are_open(Plot& plot, std::array<bool, kPlotPages>& were) {
  for (std::uint64_t page = 0; page < kPlotPages; ++page) {
    Fact& guarded = plot.pages[page].guarded;
    were[page] = guarded.surely();
    if (guarded.maybe()) guarded.begin();
  }
}

VirtAddr Actor::some_place() {
  if (rng_.chance(1, 2)) return {};
  space_.next_apart = space_.next_apart + 2 * kBytes;
  return space_.next_apart;
}

// MREMAP_DONTUNMAP: to another place, and perhaps back over the one that it left.
bool Actor::move(Plot& plot) {
  if (plot.sealed) return defy_seal(plot);
  if (plot.locked && !plot.apart) return false;  // the whole area that it lies in would not be locked any more
  const Claim claim(plot);
  std::array<bool, kPlotPages> guarded{};
  guards_are_open(plot, guarded);
  const VirtAddr from = plot.base;
  plot.placing = plot.remote == 0 && rng_.chance(1, 2);
  const bool stay_there = plot.placing;
  each_own(plot, 0, kPlotPages, [](Content& content) { content.begin_moving(); });
  const VirtAddr place = some_place();
  const auto to = vm().mremap(mm(), from, kBytes, kBytes, MremapFlags::kMayMove | MremapFlags::kDontUnmap, place);
  expect(to ? Status{} : Status(fail(to.error())), {}, "mremap");
  if (to && stay_there) {
    static_cast<void>(vm().munmap(mm(), from, kBytes));
    plot.base = *to;
  } else if (to && !vm().mremap(mm(), *to, kBytes, kBytes, MremapFlags::kMayMove | MremapFlags::kFixed, from)) {
    plot.base = *to;
  }
  if (plot.base != from) {
    plot.placed = fray_.clock.tick();
    plot.apart = plot.base == place;
  }
  each_own(plot, 0, kPlotPages, [&](Content& content) { content.end_moving(fray_.clock); });
  for (std::uint64_t page = 0; page < kPlotPages; ++page) {
    if (guarded[page]) plot.pages[page].guarded.end(true, fray_.clock);
  }
  return true;
}

// Something new in the plot's place, or elsewhere.
bool Actor::remap(Plot& plot) {
  if (plot.remote != 0) return false;
  if (plot.mapped && plot.sealed) return defy_seal(plot);
  const Claim claim(plot);
  plot.placing = true;
  const auto kind = static_cast<PlotKind>(rng_.below(3));
  std::optional<VirtAddr> at;
  if (plot.mapped && rng_.chance(1, 2)) {
    at = plot.base;
  } else if (plot.mapped && !expect(vm().munmap(mm(), plot.base, kBytes), {}, "munmap")) {
    return true;
  }
  plot.mapped = false;
  plot.placed = fray_.clock.tick();
  map(plot, kind, at);
  return true;
}

void Actor::map(Plot& plot, PlotKind kind, std::optional<VirtAddr> over) {
  SealedFile* file = kind == PlotKind::kFile ? fray_.files.back().get() : nullptr;
  constexpr file::Seals kNoWrites = file::Seals::kWrite | file::Seals::kFutureWrite;
  const bool sealed = file != nullptr && any(file->seals, kNoWrites);
  const Moment begun = fray_.clock.tick();
  // A seal that comes just now decides for ever whether a mapping for reading may become one for writing.
  const bool read_only = file != nullptr && rng_.chance(1, 2) && !(file->sealing && !sealed);
  const MapFlags type = kind == PlotKind::kFile        ? MapFlags::kShared
                        : kind == PlotKind::kDroppable ? MapFlags::kDroppable | MapFlags::kAnonymous
                                                       : MapFlags::kPrivate | MapFlags::kAnonymous;
  const MapFlags flags =
      type | (over ? MapFlags::kFixed : MapFlags::kNone) | (rng_.chance(1, 4) ? MapFlags::kPopulate : MapFlags::kNone);
  const VirtAddr at = over ? *over : some_place();
  const auto mapped =
      vm().mmap(mm(), at, kBytes, read_only ? Prot::kRead : kReadWrite, flags, file != nullptr ? file->file : nullptr, 0);
  const Status status = mapped ? Status{} : Status(fail(mapped.error()));
  // A seal refuses before what lies there goes; now nobody else can have taken the place.
  if (over && !mapped && mapped.error() == Errno::kPerm) static_cast<void>(vm().munmap(mm(), *over, kBytes));
  const bool came_meanwhile = file != nullptr && !mapped && mapped.error() == Errno::kPerm && file->sealed_since(begun);
  if (came_meanwhile && !read_only) return;
  if (!expect(status, sealed && !read_only ? Expected(Errno::kPerm) : std::nullopt, "mmap")) return;
  if (file != nullptr && !read_only && any(file->seals, file::Seals::kWrite))
    fray_.mismatch("a sealed file was mapped for writing");
  if (read_only && !sealed && file->sealed_since(begun)) {
    static_cast<void>(vm().munmap(mm(), *mapped, kBytes));  // who knows what it is
    return;
  }
  plot.renew(kind, file, fray_.clock.tick());
  plot.base = *mapped;
  plot.apart = over ? plot.apart : plot.base == at;
  plot.mapped = true;
  plot.never_writable = sealed;
  if (read_only) plot.read_only.end(true, fray_.clock);
}

// The child acts on what it has inherited for some rounds.
bool Actor::fork() {
  constexpr std::size_t kMostSpaces = 4;
  const auto lives = [](const auto& space) { return space->lives; };
  if (std::ranges::count_if(fray_.spaces, lives) >= static_cast<std::ptrdiff_t>(kMostSpaces)) return false;
  for (const Plot& plot : space_.plots) {
    if (plot.busy) return false;
  }
  const unsigned slot = fray_.take_slot();
  if (slot == kSlots) return false;
  const Claim claims[] = {Claim(space_.plots[0]), Claim(space_.plots[1]), Claim(space_.plots[2]), Claim(space_.plots[3])};
  static_assert(std::size(claims) == kPlots);
  Space& child = *fray_.spaces.emplace_back(std::make_unique<Space>());
  begin_fork(space_, child, fray_.clock.tick());
  const unsigned next_round = fray_.round + 1;
  const unsigned rounds = 1 + static_cast<unsigned>(rng_.below(4));
  const auto actor = std::make_shared<Actor>(fray_, child, slot, rng_());
  ++fray_.living;
  ++fray_.finished;  // the present round goes on without it
  const auto made = fray_.machine.processes().fork(*space_.process, [&child, actor, next_round, rounds](Thread& thread) {
    child.process = thread.process;
    child.lives = true;
    actor->act(thread, next_round, rounds);
  });
  end_fork(space_);
  if (made) return true;
  --fray_.living;
  --fray_.finished;
  fray_.taken[slot] = false;
  expect(fail(made.error()), {}, "fork");
  return true;
}

}  // namespace quire::kernel::test
