#include "quire/sim/event_queue.h"

#include "quire/base/bug.h"

namespace quire::sim {
namespace {

constexpr std::size_t kArity = 4;
constexpr std::size_t kReserved = 256;
constexpr std::uint32_t kNoSlot = ~std::uint32_t{0};
constexpr unsigned kSequenceBits = 40;
constexpr std::uint64_t kSequenceMask = (std::uint64_t{1} << kSequenceBits) - 1;

}  // namespace

EventQueue::EventQueue(Rng& rng) : rng_(rng), free_slot_(kNoSlot) {
  heap_.reserve(kReserved);
  slots_.reserve(kReserved);
}

EventId EventQueue::add(Nanos when, const Callback& callback) {
  std::uint32_t slot = free_slot_;
  if (slot == kNoSlot) {
    slot = static_cast<std::uint32_t>(slots_.size());
    slots_.emplace_back();
  } else {
    free_slot_ = slots_[slot].position;
  }
  slots_[slot].callback = callback;
  const std::uint64_t tie = (rng_() & ~kSequenceMask) | (++sequence_ & kSequenceMask);
  heap_.emplace_back();
  sift_up(heap_.size() - 1, Entry{.when = when, .tie = tie, .slot = slot});
  return EventId(slot, slots_[slot].generation);
}

bool EventQueue::cancel(EventId id) {
  if (!id.valid() || id.slot_ >= slots_.size() || slots_[id.slot_].generation != id.generation_) return false;
  remove(slots_[id.slot_].position);
  release_slot(id.slot_);
  return true;
}

Callback EventQueue::pop() {
  QUIRE_BUG_ON(heap_.empty());
  const std::uint32_t slot = heap_.front().slot;
  const Callback callback = slots_[slot].callback;
  remove(0);
  release_slot(slot);
  return callback;
}

void EventQueue::release_slot(std::uint32_t slot) {
  Slot& s = slots_[slot];
  if (++s.generation == 0) s.generation = 1;
  s.position = free_slot_;
  free_slot_ = slot;
}

void EventQueue::place(std::size_t position, const Entry& entry) {
  heap_[position] = entry;
  slots_[entry.slot].position = static_cast<std::uint32_t>(position);
}

void EventQueue::sift_up(std::size_t position, const Entry& entry) {
  while (position > 0) {
    const std::size_t parent = (position - 1) / kArity;
    if (!entry.before(heap_[parent])) break;
    place(position, heap_[parent]);
    position = parent;
  }
  place(position, entry);
}

void EventQueue::sift_down(std::size_t position, const Entry& entry) {
  for (;;) {
    const std::size_t first = position * kArity + 1;
    if (first >= heap_.size()) break;
    const std::size_t end = first + kArity < heap_.size() ? first + kArity : heap_.size();
    std::size_t least = first;
    for (std::size_t child = first + 1; child < end; ++child) {
      if (heap_[child].before(heap_[least])) least = child;
    }
    if (!heap_[least].before(entry)) break;
    place(position, heap_[least]);
    position = least;
  }
  place(position, entry);
}

// Fills the gap with the last entry, which may belong higher or lower.
void EventQueue::remove(std::size_t position) {
  const Entry last = heap_.back();
  heap_.pop_back();
  if (position == heap_.size()) return;
  if (position > 0 && last.before(heap_[(position - 1) / kArity])) {
    sift_up(position, last);
  } else {
    sift_down(position, last);
  }
}

void EventQueue::validate() const {
  for (std::size_t i = 0; i < heap_.size(); ++i) {
    QUIRE_BUG_ON(i > 0 && heap_[i].before(heap_[(i - 1) / kArity]));
    QUIRE_BUG_ON(slots_[heap_[i].slot].position != i);
  }
  std::size_t free_slots = 0;
  for (std::uint32_t slot = free_slot_; slot != kNoSlot; slot = slots_[slot].position) ++free_slots;
  QUIRE_BUG_ON(free_slots + heap_.size() != slots_.size());
}

}  // namespace quire::sim
