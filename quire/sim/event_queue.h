// The machine's timers and device interrupts in order of time: a four-ary heap over a vector, with cancellation.
//
//   heap_  [ {when, tie, slot} ... ]          smallest `when` first
//   slots_ [ callback, heap position ] ...    reused through a free list; an EventId names slot and generation
//
// Events of the same instant run in an order that the seed chooses (`tie` has random high bits, a sequence number below).
// Memory grows by doubling and is then kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "quire/base/rng.h"
#include "quire/sim/callback.h"
#include "quire/sim/time.h"

namespace quire::sim {

// Names one scheduled event; a default one names none. Stays harmless after the event has run.
class EventId {
 public:
  EventId() = default;
  [[nodiscard]] bool valid() const { return generation_ != 0; }
  bool operator==(const EventId&) const = default;

 private:
  friend class EventQueue;
  EventId(std::uint32_t slot, std::uint32_t generation) : slot_(slot), generation_(generation) {}
  std::uint32_t slot_ = 0;
  std::uint32_t generation_ = 0;
};

class EventQueue {
 public:
  explicit EventQueue(Rng& rng);

  EventId add(Nanos when, const Callback& callback);
  // False when the event has run or was cancelled before.
  bool cancel(EventId id);

  [[nodiscard]] bool empty() const { return heap_.empty(); }
  [[nodiscard]] std::size_t size() const { return heap_.size(); }
  // Time of the earliest event; kNever when there is none.
  [[nodiscard]] Nanos next_time() const { return heap_.empty() ? kNever : heap_.front().when; }
  // Takes the earliest event out. Precondition: not empty.
  Callback pop();

  void validate() const;

 private:
  struct Entry {
    Nanos when;
    std::uint64_t tie;
    std::uint32_t slot;
    [[nodiscard]] bool before(const Entry& other) const { return when != other.when ? when < other.when : tie < other.tie; }
  };
  struct Slot {
    Callback callback;
    std::uint32_t position = 0;  // in heap_; of a free slot: the next free one
    std::uint32_t generation = 1;
  };

  void place(std::size_t position, const Entry& entry);
  void sift_up(std::size_t position, const Entry& entry);
  void sift_down(std::size_t position, const Entry& entry);
  void remove(std::size_t position);
  void release_slot(std::uint32_t slot);

  Rng& rng_;
  std::vector<Entry> heap_;
  std::vector<Slot> slots_;
  std::uint32_t free_slot_;
  std::uint64_t sequence_ = 0;
};

}  // namespace quire::sim
