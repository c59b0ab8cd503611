// A line of execution on the host: a fiber with its stack, or the host thread's own stack (boot context). Fibers never
// end: when a task's body has returned, its context goes back to the pool and runs the next task's body.
#pragma once

#include <boost/context/fiber.hpp>
#include <cstddef>
#include <memory>
#include <vector>

#include "quire/sim/asan.h"
#include "quire/sim/guarded_stack.h"

namespace quire::sim {

class Scheduler;

class Context {
 public:
  // Sanitizers pad every frame.
  static constexpr std::size_t kStackSize = (kAsan ? 1024 : 256) * 1024;

  Context() : fiber_{} {}                  // the host thread's stack
  explicit Context(Scheduler& scheduler);  // a new fiber, which runs Scheduler::run_current_task again and again
  ~Context() {}                            // see fiber_
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Called on `this`: suspends it and resumes `to`; returns when somebody switches back.
  void switch_to(Context& to);

 private:
  [[noreturn]] void run(Scheduler& scheduler);
  void arrived(boost::context::fiber&& from);

  // Where the context is suspended. Never destroyed: the fiber's destructor would throw through the suspended frames,
  // which may refer to things that are gone (Scheduler::unwind_tasks does that while it is safe).
  union {
    boost::context::fiber fiber_;
  };
  Context* resumed_by_ = nullptr;
  std::unique_ptr<GuardedStack> stack_;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
  const void* stack_bottom_ = nullptr;
  std::size_t stack_size_ = 0;
};

class ContextPool {
 public:
  explicit ContextPool(Scheduler& scheduler) : scheduler_(scheduler) {}

  [[nodiscard]] Context& acquire();
  void release(Context& context) { free_.push_back(&context); }

 private:
  Scheduler& scheduler_;
  std::vector<std::unique_ptr<Context>> contexts_;
  std::vector<Context*> free_;
};

}  // namespace quire::sim
