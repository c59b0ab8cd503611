// A sequence counter (seqcount_t): readers take no lock and read again when a writer came between. The writers are kept
// apart by a lock of their own; a writer keeps its CPU, as under a spinlock.
//
//   unsigned seq;
//   do { seq = count.read_begin(); ...copy what is guarded... } while (count.read_retry(seq));
#pragma once

#include "quire/sim/lock_class.h"
#include "quire/sim/scheduler.h"

namespace quire::sim {

class SeqCount {
 public:
  SeqCount(Scheduler& scheduler, LockClass& lock_class) : scheduler_(scheduler), class_(lock_class) {}
  SeqCount(const SeqCount&) = delete;
  SeqCount& operator=(const SeqCount&) = delete;

  [[nodiscard]] unsigned read_begin() {
    scheduler_.sync_point();
    if ((sequence_ & 1) != 0 || scheduler_.now() < written_at_) [[unlikely]]
      wait_for_writer();
    return sequence_;
  }
  // True when what was read since read_begin may be torn.
  [[nodiscard]] bool read_retry(unsigned begun) {
    if (sequence_ == begun) [[likely]]
      return false;
    ++class_.stats().contended;
    return true;
  }

  void write_begin() {
    QUIRE_DCHECK((sequence_ & 1) == 0);
    scheduler_.preempt_disable();
    ++sequence_;
    begun_at_ = scheduler_.now();
    ++class_.stats().acquisitions;
  }
  void write_end() {
    QUIRE_DCHECK((sequence_ & 1) == 1);
    ++sequence_;
    written_at_ = scheduler_.now();
    class_.stats().record_hold(written_at_ - begun_at_);
    scheduler_.preempt_enable();
  }
  [[nodiscard]] unsigned sequence() const { return sequence_; }

 private:
  void wait_for_writer();

  Scheduler& scheduler_;
  LockClass& class_;
  unsigned sequence_ = 0;  // odd while a writer is at work
  Nanos begun_at_ = 0;
  Nanos written_at_ = 0;
};

}  // namespace quire::sim
