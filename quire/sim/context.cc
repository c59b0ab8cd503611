#include "quire/sim/context.h"

#include <new>

#include "quire/sim/scheduler.h"

namespace quire::sim {
namespace {

// Hands boost the stack that the context owns.
class BorrowedStack {
 public:
  explicit BorrowedStack(const GuardedStack& stack) : stack_(&stack) {}
  boost::context::stack_context allocate() const {
    boost::context::stack_context context;
    context.size = stack_->size();
    context.sp = stack_->top();
    return context;
  }
  void deallocate(boost::context::stack_context&) {}

 private:
  const GuardedStack* stack_;
};

}  // namespace

Context::Context(Scheduler& scheduler)
    : stack_(std::make_unique<GuardedStack>(kStackSize)), stack_bottom_(stack_->bottom()), stack_size_(stack_->size()) {
  ::new (static_cast<void*>(&fiber_))
      boost::context::fiber(std::allocator_arg, BorrowedStack(*stack_), [this, &scheduler](boost::context::fiber&& from) {
        arrived(std::move(from));
        run(scheduler);
        return boost::context::fiber{};
      });
}

void Context::switch_to(Context& to) {
  to.resumed_by_ = this;
  asan_start_switch(&fake_stack_, to.stack_bottom_, to.stack_size_);
  boost::context::fiber from = std::move(to.fiber_).resume();
  arrived(std::move(from));
}

// The first thing on the stack of a context that was resumed: where its resumer stands is known only now.
void Context::arrived(boost::context::fiber&& from) {
  const void* bottom = nullptr;
  std::size_t size = 0;
  asan_finish_switch(fake_stack_, &bottom, &size);
  if (resumed_by_->stack_ == nullptr) {
    resumed_by_->stack_bottom_ = bottom;
    resumed_by_->stack_size_ = size;
  }
  resumed_by_->fiber_ = std::move(from);
}

void Context::run(Scheduler& scheduler) {
  for (;;) scheduler.run_current_task();
}

Context& ContextPool::acquire() {
  if (free_.empty()) {
    contexts_.push_back(std::make_unique<Context>(scheduler_));
    free_.reserve(contexts_.size());
    return *contexts_.back();
  }
  Context& context = *free_.back();
  free_.pop_back();
  return context;
}

}  // namespace quire::sim
