// What may be found in the memory of processes that change it at the same moment: the model of plot_races_test.cc.
//
//   Space ── a process      Plot ── one mapping of it, kPlotPages pages, at a place that may change
//                             PlotPage ── guarded or not, and the Content behind it
//   Content ── the bytes: a private page's own, or a file's, which several plots show
//
// Each task owns one word of every page, its slot, and writes numbers there that occur once; all other bytes stay zero. Of each
// slot the model keeps every value that a read may give. An access by a program takes effect at the moment when it returns. A
// call that moves bytes itself (process_vm_writev, pwrite) does so at some moment between its begin and its end: while it is
// under way the old value and the new one are both possible. What throws pages away begins and ends likewise.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "quire/kernel/machine.h"

namespace quire::kernel::test {

constexpr unsigned kSlots = 8;
constexpr std::uint64_t kPlotPages = 12;

using Number = std::uint64_t;
using Possible = std::set<Number>;
using Slots = std::array<Possible, kSlots>;
using Moment = std::uint64_t;  // counts what happened

// A moment of the test as a whole, in which order things happened.
struct Clock {
  Moment now = 1;
  Moment tick() { return ++now; }
};

// Something that is so or not, and while a call changes it, may be either.
class Fact {
 public:
  void begin() { may_ = true, may_not_ = true; }
  void end(bool now_so, Clock& clock) {
    may_ = now_so;
    may_not_ = !now_so;
    if (!now_so) last_ = clock.tick();
    if (now_so) last_not_ = clock.tick();
  }
  [[nodiscard]] bool surely() const { return may_ && !may_not_; }
  [[nodiscard]] bool maybe() const { return may_; }
  [[nodiscard]] bool maybe_not() const { return may_not_; }
  // At any moment since `then`.
  [[nodiscard]] bool maybe_since(Moment then) const { return may_ || last_ > then; }
  [[nodiscard]] bool maybe_not_since(Moment then) const { return may_not_ || last_not_ > then; }

 private:
  bool may_ = false;
  bool may_not_ = true;
  Moment last_ = 0;      // when it ended to be so
  Moment last_not_ = 0;  // when it began to be so
};

// The bytes of one page.
struct Content {
  Content();

  Slots may;                             // what a read gives
  std::array<Number, kSlots> coming{};   // of a call under way that writes there; 0: none
  std::array<bool, kSlots> disturbed{};  // written since what throws the page away began
  bool lazy = false;                     // may become zero as a whole until it is written again (MADV_FREE)
  bool droppable = false;                // the same, whatever is written (MAP_DROPPABLE)
  int zeroing = 0;                       // calls under way that leave zeroes
  int freeing = 0;                       // that make it lazy
  int moving = 0;                        // that take it to another place, whose old place reads as zeroes
  Moment last_unsettled = 0;             // when the last of these ended
  Fact beyond;                           // beyond the end of its file
  Content* copy = nullptr;               // of a fork under way
  std::vector<Slots*> watches;           // of reads under way that are calls

  [[nodiscard]] bool unsettled() const { return zeroing != 0 || freeing != 0 || moving != 0; }
  [[nodiscard]] bool unsettled_since(Moment then) const { return unsettled() || last_unsettled > then; }
  [[nodiscard]] bool may_vanish() const { return lazy || droppable || unsettled(); }

  // The value may be found from now on.
  void add(unsigned slot, Number value);
  void add_zeroes();
  // An access of the owner's has just written it.
  void written(unsigned slot, Number value);
  // A call that writes: under way, and at its end. `done`: it says that it wrote the value.
  void begin_write(unsigned slot, Number value);
  void end_write(unsigned slot, bool done, Moment begun);
  // What has just been found; false: it may not be.
  [[nodiscard]] bool found(unsigned slot, Number value);

  void spoil() { disturbed.fill(true); }  // the call failed half way: zeroes or not
  void begin_zeroing();
  void end_zeroing(Clock& clock);
  void is_zero_now();  // for certain, but for calls that write
  void begin_freeing();
  void end_freeing(Clock& clock);
  void begin_moving();
  void end_moving(Clock& clock);
  // What a child has of it at the least; it learns what is written while the fork goes on.
  [[nodiscard]] std::shared_ptr<Content> copied() const;

 private:
  void settle(unsigned slot, Number value);
  void before_write();
};

struct PlotPage {
  std::shared_ptr<Content> content;
  Fact guarded;
};

// A file of memory that processes map and that gets seals.
struct SealedFile {
  file::File* file = nullptr;
  std::vector<std::shared_ptr<Content>> contents;
  std::uint64_t pages = kPlotPages;        // its size
  file::Seals seals = file::Seals::kNone;  // for certain
  bool cutting = false;                    // somebody changes its size or punches a hole; one at a time
  bool sealing = false;                    // or its seals
  Moment sealed_at = 0;                    // when the last call that seals ended
  unsigned writers = 0;                    // calls of pwrite under way

  [[nodiscard]] bool sealed_since(Moment then) const { return sealing || sealed_at > then; }
};

enum class PlotKind : std::uint8_t { kPrivate, kDroppable, kFile };

struct Plot {
  PlotKind kind = PlotKind::kPrivate;
  VirtAddr base;
  std::array<PlotPage, kPlotPages> pages;
  SealedFile* file = nullptr;
  bool apart = false;  // no other mapping beside it, with which it could be one area
  bool mapped = false;
  bool busy = false;     // a call changes more than bytes; one at a time
  bool placing = false;  // and its place
  unsigned remote = 0;   // calls of process_vm_readv and writev under way
  Moment placed = 0;     // when its place changed
  Fact read_only;
  bool never_writable = false;  // mapped of a file that is sealed
  bool locked = false;
  bool sealed = false;  // mseal
  bool wiped_on_fork = false;
  bool not_forked = false;

  void renew(PlotKind as, SealedFile* of, Moment now);
};

constexpr std::size_t kPlots = 4;

struct Space {
  Process* process = nullptr;
  std::array<Plot, kPlots> plots;
  VirtAddr next_apart{0x10000000};
  VirtAddr scratch;  // where calls of its tasks put bytes and take them from; kScratchPages for each slot
  bool lives = false;
  unsigned tasks = 0;

  [[nodiscard]] vm::Mm& mm() const { return *process->mm; }
};

constexpr std::uint64_t kScratchPages = 3;

[[nodiscard]] inline std::uint64_t slot_offset(unsigned slot) { return slot * (kPageSize / kSlots) + 8 * slot; }

// The child's side of a fork that begins now: everything that the parent has and the child will.
void begin_fork(Space& parent, Space& child, Moment now);
void end_fork(Space& parent);

}  // namespace quire::kernel::test
