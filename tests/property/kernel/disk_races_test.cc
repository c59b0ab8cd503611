// Threads that fault on the pages of a file of a disk, for which the fault gives mmap_lock back, while others map over it, move it,
// cut the file, drop what is cached, write it out, fork. The file is mapped shared and private. They act in rounds as in
// races_test.cc; after each the machine is validated, every byte is looked at, and what lies beyond the file's end is refused.
//
// Each thread owns eight bytes of each page and writes numbers there that occur once: by the shared mapping or pwrite to the file,
// by the private one to the process's copy. A private page shows the file's until it is written (then it is the process's own) or
// thrown away; so whatever may be found in the file may be found there, too, unless the page is surely the process's own.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <set>

#include "quire/file/iov_iter.h"
#include "races.h"

namespace quire::kernel::test {
namespace {

using arch::Access;
using vm::Advice;
using vm::MapFlags;
using vm::MremapFlags;
using vm::Prot;

constexpr std::uint64_t kPages = 12;
constexpr std::uint64_t kBytes = kPages * kPageSize;
constexpr unsigned kThreads = 4;
constexpr unsigned kRounds = 40;
constexpr sim::Nanos kStart = 100 * sim::kMicrosecond;     // a round may begin at its multiples
constexpr sim::Nanos kDiskTime = 200 * sim::kMicrosecond;  // what a fault may wait for
constexpr Prot kReadWrite = Prot::kRead | Prot::kWrite;

constexpr RaceMachine kMachine{.least_cpus = 1};

enum class Act : std::uint8_t {
  kWrite,
  kPwrite,
  kRead,
  kCut,
  kDropCaches,
  kFsync,
  kDontNeed,
  kPageOut,
  kPopulateRead,
  kPopulateWrite,
  kMapAnew,
  kMapOver,
  kMove,
  kFork,
  kCount
};
constexpr std::array<std::string_view, static_cast<std::size_t>(Act::kCount)> kNames{
    "write",    "pwrite",        "read",           "cut",      "drop caches", "fsync", "discard",
    "page out", "populate read", "populate write", "map anew", "map over",    "move",  "fork"};

using Possible = std::set<std::uint64_t>;  // in one thread's part of one page
using Contents = std::array<std::array<Possible, kPages>, kThreads>;

// A mapping of the whole file; its place is one of two.
struct Mapping {
  MapFlags type;
  std::array<VirtAddr, 2> places;
  Contents may;
  std::array<int, kPages> going{};  // calls under way that throw the page away
  std::array<bool, kPages> own{};   // surely the process's own: private and written
  unsigned at = 0;
  bool busy = false;        // somebody changes where it lies, or whether; one at a time
  std::uint64_t moved = 0;  // how often that has ended

  [[nodiscard]] bool is_private() const { return type == MapFlags::kPrivate; }
  [[nodiscard]] VirtAddr base() const { return places[at]; }
};

// What a child may find in its private mapping.
struct Copy {
  Contents may;
  bool copying = true;
};

class DiskRace {
 public:
  DiskRace(Machine& machine, std::uint64_t seed) : machine_(machine), vm_(machine.vm()), seed_(seed) {}

  void run() {
    const auto made = machine_.processes().create("races", [this](Thread& thread) { start(thread); });
    ASSERT_TRUE(made.has_value());
    for (unsigned round = 1; round <= kRounds && !testing::Test::HasFailure(); ++round) {
      finished_ = 0;
      round_ = round;
      if (!run_until(machine_, [this] { return finished_ == kThreads; })) return;
      SCOPED_TRACE(fmt::format("round {}: {}", round, fmt::join(doing_, ", ")));
      machine_.settle();
      machine_.validate();
      if (!look_at_everything()) return;
    }
    over_ = true;
    ASSERT_TRUE(machine_.run().done());
    machine_.vfs().fput(*file_);
    machine_.settle();
    machine_.validate();
  }

  std::array<std::uint64_t, static_cast<std::size_t>(Act::kCount)> done{};
  std::uint64_t signals = 0;  // accesses that found nothing there

 private:
  // In the first thread: the file and its mappings, then the others.
  void start(Thread& thread) {
    process_ = thread.process;
    file::FileSystem& fs = machine_.vfs().mount({.dev = 0x900});
    file_ = *machine_.vfs().open(**fs.create("file"), file::FileMode::kRead | file::FileMode::kWrite);
    ASSERT_TRUE(machine_.vfs().ftruncate(*file_, kBytes));
    for (Mapping& mapping : mappings_) {
      for (auto& parts : mapping.may) parts.fill({0});
      map(mapping);
    }
    for (unsigned i = 1; i < kThreads; ++i) {
      ASSERT_TRUE(machine_.processes().clone_thread(*process_, [this, i](Thread& other) { act_in_rounds(other, i); }));
    }
    act_in_rounds(thread, 0);
  }
  void map(const Mapping& mapping) {
    EXPECT_TRUE(vm_.mmap(mm(), mapping.base(), kBytes, kReadWrite, mapping.type | MapFlags::kFixed, file_, 0));
    if (seed_ % 2 == 0) static_cast<void>(vm_.madvise(mm(), mapping.base(), kBytes, Advice::kRandom));  // each page by itself
  }

  void act_in_rounds(Thread& thread, unsigned self) {
    Rng rng(seed_ * 100 + self);
    sim::Scheduler& scheduler = machine_.scheduler();
    for (unsigned round = 1; !over_; ++round) {
      while (round_ < round && !over_) scheduler.sleep_until((scheduler.now() / kStart + 1) * kStart);
      if (over_) break;
      doing_[self].clear();
      for (int acts = 0; acts < 3; ++acts) {
        scheduler.sleep_for(rng.below(rng.chance(1, 2) ? 4000 : kDiskTime));
        act(self, rng);
      }
      ++finished_;
    }
    machine_.processes().exit_thread(thread, {});
  }

  void act(unsigned self, Rng& rng) {
    constexpr std::array kActs{Act::kWrite,      Act::kWrite,      Act::kWrite,      Act::kWrite,        Act::kPwrite,
                               Act::kPwrite,     Act::kRead,       Act::kRead,       Act::kRead,         Act::kCut,
                               Act::kDropCaches, Act::kDropCaches, Act::kDropCaches, Act::kFsync,        Act::kFsync,
                               Act::kDontNeed,   Act::kDontNeed,   Act::kPageOut,    Act::kPopulateRead, Act::kPopulateWrite,
                               Act::kMapAnew,    Act::kMapOver,    Act::kMove,       Act::kFork};
    const Act kind = kActs[rng.below(kActs.size())];
    Mapping& mapping = mappings_[rng.below(mappings_.size())];
    const std::uint64_t page = rng.below(kPages);
    const std::uint64_t end = page + 1 + rng.below(kPages - page);
    doing_[self] +=
        fmt::format("{}{} {}-{}", doing_[self].empty() ? "" : "; ", kNames[static_cast<std::size_t>(kind)], page, end);
    const auto each = [&](auto&& f) {
      for (std::uint64_t i = page; i < end; ++i) f(i);
    };
    const auto advise = [&](Advice advice) {
      static_cast<void>(vm_.madvise(mm(), mapping.base() + page * kPageSize, (end - page) * kPageSize, advice));
    };
    ++done[static_cast<std::size_t>(kind)];
    switch (kind) {
      case Act::kWrite: return each([&](std::uint64_t i) { write(mapping, self, i); });
      case Act::kPwrite: return each([&](std::uint64_t i) { pwrite(self, i); });
      case Act::kRead: return each([&](std::uint64_t i) { read(mapping, i); });
      case Act::kCut: return cut(rng.chance(1, 2) ? kPages : page);
      case Act::kDropCaches: return drop_caches();
      case Act::kFsync: EXPECT_TRUE(machine_.vfs().fsync(*file_, file::SyncKind::kFsync)); return;
      case Act::kDontNeed: return throw_away(mapping, page, end, [&] { advise(Advice::kDontNeed); });
      case Act::kPageOut: return advise(Advice::kPageOut);
      case Act::kPopulateRead: return advise(Advice::kPopulateRead);
      case Act::kPopulateWrite: return advise(Advice::kPopulateWrite);
      case Act::kMapAnew:
      case Act::kMapOver: return map_again(mapping, kind);
      case Act::kMove: return move(mapping);
      case Act::kFork: return fork_and_look();
      case Act::kCount: break;
    }
  }

  // --- what may be found ---
  Contents& of_file() { return mappings_[0].may; }
  Mapping& own() { return mappings_[1]; }
  void in_file(unsigned owner, std::uint64_t page, std::uint64_t number) {
    of_file()[owner][page].insert(number);
    if (!own().own[page]) own().may[owner][page].insert(number);
    for (Copy* copy : copies_) copy->may[owner][page].insert(number);
  }
  void in_own(unsigned owner, std::uint64_t page, const Possible& numbers) {
    own().may[owner][page].insert(numbers.begin(), numbers.end());
    for (Copy* copy : copies_) {
      if (copy->copying) copy->may[owner][page].insert(numbers.begin(), numbers.end());
    }
  }
  // What is the process's own goes at some moment of `call`, and the file's comes back. A file keeps what is thrown away so.
  template <class F>
  void throw_away(Mapping& mapping, std::uint64_t page, std::uint64_t end, F&& call) {
    const auto shows_file = [&](int going) {
      for (std::uint64_t i = page; i < end && mapping.is_private(); ++i) {
        mapping.own[i] = false;
        mapping.going[i] += going;
        for (unsigned owner = 0; owner < kThreads; ++owner) in_own(owner, i, of_file()[owner][i]);
      }
    };
    shows_file(1);
    call();
    shows_file(-1);
  }

  // --- acts ---
  // As much as may go: what nobody maps and what is clean.
  void drop_caches() {
    static_cast<void>(vm_.madvise(mm(), mappings_[0].base(), kBytes, Advice::kDontNeed));
    EXPECT_TRUE(machine_.vfs().fsync(*file_, file::SyncKind::kFsync));
    machine_.vfs().drop_pagecache();
  }

  // A write beyond the end would leave the file ending within a page, so the two are not done at once.
  void cut(std::uint64_t pages) {
    if (writers_ != 0) return;
    ++cutting_;
    const auto may_be_zero = [&](int going) {
      ++cuts_;
      for (std::uint64_t i = pages; i < kPages; ++i) {
        own().own[i] = false;
        for (Mapping& mapping : mappings_) mapping.going[i] += going;
        for (unsigned owner = 0; owner < kThreads; ++owner) {
          in_file(owner, i, 0);
          in_own(owner, i, of_file()[owner][i]);
        }
      }
    };
    may_be_zero(1);
    EXPECT_TRUE(machine_.vfs().ftruncate(*file_, pages * kPageSize));
    may_be_zero(-1);
    --cutting_;
  }

  void write(Mapping& mapping, unsigned self, std::uint64_t page) {
    const std::uint64_t moved = mapping.moved;
    const bool busy = mapping.busy;
    const vm::AccessOutcome outcome =
        vm_.access(mm(), mapping.base() + page * kPageSize + self * sizeof(std::uint64_t), Access::kWrite);
    if (!outcome.ok()) return refused(outcome, busy || mapping.busy || mapping.moved != moved);
    const std::uint64_t number = ++next_;
    std::memcpy(vm_.to_host(outcome.phys), &number, sizeof number);
    if (!mapping.is_private()) {
      in_file(self, page, number);
    } else {
      in_own(self, page, {number});
      mapping.own[page] = mapping.going[page] == 0;
    }
    if (mapping.going[page] == 0) mapping.may[self][page] = {number};
  }

  void pwrite(unsigned self, std::uint64_t page) {
    if (cutting_ != 0 || page >= file_->inode().size_pages()) return;
    ++writers_;
    std::uint64_t number = ++next_;
    in_file(self, page, number);
    file::KernelBuffer from(std::as_writable_bytes(std::span(&number, 1)));
    const auto written = machine_.vfs().pwrite(*file_, page * kPageSize + self * sizeof number, sizeof number, from);
    ASSERT_TRUE(written && *written == sizeof number);
    of_file()[self][page] = {number};
    --writers_;
  }

  void read(Mapping& mapping, std::uint64_t page) {
    const std::uint64_t moved = mapping.moved;
    const bool busy = mapping.busy;
    const vm::AccessOutcome outcome = vm_.access(mm(), mapping.base() + page * kPageSize, Access::kRead);
    if (!outcome.ok()) return refused(outcome, busy || mapping.busy || mapping.moved != moved);
    compare(outcome, mapping.may, page, mapping.is_private() ? "the private mapping" : "the shared mapping");
  }

  // Nothing but a change of the mapping, or of the file's size, keeps an access from its page.
  void refused(const vm::AccessOutcome& outcome, bool changing) {
    ++signals;
    if (outcome.signal == vm::Signal::kBus) {
      EXPECT_TRUE(cuts_ != 0) << "SIGBUS in a file that nobody cut";
    } else {
      EXPECT_TRUE(changing && outcome.signal == vm::Signal::kSegv)
          << "an access ended in signal " << static_cast<int>(outcome.signal);
    }
  }

  void compare(const vm::AccessOutcome& outcome, const Contents& may, std::uint64_t page, std::string_view where) {
    std::array<std::uint64_t, kPageSize / sizeof(std::uint64_t)> found;
    std::memcpy(found.data(), vm_.to_host(outcome.phys), kPageSize);
    for (unsigned i = 0; i < found.size(); ++i) {
      if (i < kThreads ? may[i][page].contains(found[i]) : found[i] == 0) continue;
      ADD_FAILURE() << where << ", page " << page << ", word " << i << ": " << found[i] << " is none of "
                    << testing::PrintToString(i < kThreads ? may[i][page] : Possible{0});
    }
  }

  void map_again(Mapping& mapping, Act how) {
    if (mapping.busy) return;
    mapping.busy = true;
    throw_away(mapping, 0, kPages, [&] {
      if (how == Act::kMapAnew) {
        EXPECT_TRUE(vm_.munmap(mm(), mapping.base(), kBytes));
      }
      map(mapping);
    });
    ++mapping.moved;
    mapping.busy = false;
  }

  void move(Mapping& mapping) {
    if (mapping.busy) return;
    mapping.busy = true;
    const VirtAddr to = mapping.places[1 - mapping.at];
    EXPECT_TRUE(vm_.mremap(mm(), mapping.base(), kBytes, kBytes, MremapFlags::kMayMove | MremapFlags::kFixed, to));
    mapping.at = 1 - mapping.at;
    ++mapping.moved;
    mapping.busy = false;
  }

  // A child shows the file as it is, and private pages as they were, or the file's where they are not its own.
  void fork_and_look() {
    Copy copy{.may = own().may};
    copies_.insert(&copy);
    const auto made = vm_.dup_mm(mm());
    copy.copying = false;
    for (int look = 0; made && look < 2; ++look) {
      for (std::uint64_t page = 0; page < kPages; ++page) {
        for (const Mapping& mapping : mappings_) {
          const vm::AccessOutcome outcome = vm_.access(**made, mapping.base() + page * kPageSize, Access::kRead);
          if (!outcome.ok()) continue;  // it was being moved, or the file has been cut
          compare(outcome, mapping.is_private() ? copy.may : of_file(), page,
                  mapping.is_private() ? "a child" : "a child's file");
        }
      }
      machine_.scheduler().sleep_for(5000);
    }
    copies_.erase(&copy);
    if (made) vm_.mmput(**made);
  }

  // Between rounds, in a thread of its own: everything is as it was last written, and nothing is there beyond the file's end.
  [[nodiscard]] bool look_at_everything() {
    bool looked = false;
    machine_.scheduler().spawn("look", [&] {
      const std::uint64_t pages = file_->inode().size_pages();
      for (std::uint64_t page = 0; page < kPages; ++page) {
        for (Mapping& mapping : mappings_) look_at(mapping, page, pages);
        std::array<std::uint64_t, kThreads> read{};
        file::KernelBuffer to(std::as_writable_bytes(std::span(read)));
        const auto got = machine_.vfs().pread(*file_, page * kPageSize, sizeof read, to);
        EXPECT_TRUE(got.has_value());
        for (unsigned owner = 0; owner < kThreads; ++owner) EXPECT_EQ(of_file()[owner][page], Possible{read[owner]});
      }
      cuts_ = pages < kPages ? 1 : 0;
      looked = true;
    });
    return run_until(machine_, [&] { return looked; });
  }
  void look_at(Mapping& mapping, std::uint64_t page, std::uint64_t pages) {
    const vm::AccessOutcome outcome = vm_.access(mm(), mapping.base() + page * kPageSize, Access::kRead);
    EXPECT_EQ(outcome.ok(), page < pages) << "page " << page << " of " << pages;
    if (outcome.ok()) compare(outcome, mapping.may, page, mapping.is_private() ? "private" : "shared");
    if (page >= pages) mapping.own[page] = false;
    for (unsigned owner = 0; owner < kThreads; ++owner) {
      std::uint64_t found = 0;  // what comes when the file grows
      if (outcome.ok()) std::memcpy(&found, vm_.to_host(outcome.phys) + owner * sizeof found, sizeof found);
      mapping.may[owner][page] = {found};
    }
  }

  [[nodiscard]] vm::Mm& mm() { return *process_->mm; }

  Machine& machine_;
  vm::Vm& vm_;
  std::uint64_t seed_;
  Process* process_ = nullptr;
  file::File* file_ = nullptr;
  std::array<Mapping, 2> mappings_{
      Mapping{.type = MapFlags::kShared, .places = {VirtAddr(0x10000000), VirtAddr(0x20000000)}, .may = {}},
      Mapping{.type = MapFlags::kPrivate, .places = {VirtAddr(0x30000000), VirtAddr(0x40000000)}, .may = {}}};
  std::set<Copy*> copies_;
  std::array<std::string, kThreads> doing_;
  std::uint64_t next_ = 0;
  std::uint64_t cuts_ = 0;              // begun or ended in this round; 1 at least while the file is short
  unsigned cutting_ = 0, writers_ = 0;  // calls under way
  unsigned round_ = 0;
  unsigned finished_ = 0;
  bool over_ = false;
};

TEST(DiskRaces, NoOrderOfEventsLosesAByteOfAFileOnADisk) {
  std::array<std::uint64_t, static_cast<std::size_t>(Act::kCount)> done{};
  std::uint64_t signals = 0;
  std::int64_t major = 0;
  const std::uint64_t seeds = for_race_seeds(kMachine, 60, 12, [&](Machine& machine, std::uint64_t seed) {
    DiskRace race(machine, seed);
    race.run();
    for (std::size_t i = 0; i < done.size(); ++i) done[i] += race.done[i];
    signals += race.signals;
    major += machine.phys().vmstat()[phys::VmEvent::kPgmajfault];
  });
  fmt::print("{} seeds: {} acts of each kind, {} signals, {} major faults\n", seeds, fmt::join(done, " "), signals, major);
  if (HasFailure()) return;
  for (const std::uint64_t times : done) EXPECT_GT(times, seeds * 5);
  EXPECT_GT(signals, seeds * 5);
  EXPECT_GT(major, static_cast<std::int64_t>(seeds) * 20);
}

}  // namespace
}  // namespace quire::kernel::test
