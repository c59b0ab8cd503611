// Tracepoints: where the machine tells what it does, with ftrace's event and field names. One costs a load and a
// predictable branch when nobody listens.
//
// An event is a plain struct that names itself and lists its fields:
//
//   struct MmPageAlloc {
//     static constexpr std::string_view kName = "mm_page_alloc";
//     Pfn pfn; unsigned order;
//     void fields(auto&& f) const { f("pfn", pfn.value()); f("order", order); }
//   };
//
// A subsystem owns `Tracepoint<MmPageAlloc> mm_page_alloc{registry};` and fires it with a lambda, so that nothing is
// computed for no listener:   mm_page_alloc([&] { return MmPageAlloc{...}; });
//
// Field values are integers, bools or std::string_view. Confined to the machine's host thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace quire {

using FieldValue = std::variant<std::int64_t, std::uint64_t, std::string_view>;
using FieldVisitor = std::function<void(std::string_view name, FieldValue value)>;

// One event as a listener sees it, whatever its type. Valid only during the call.
class EventView {
 public:
  virtual ~EventView() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  virtual void fields(const FieldVisitor& visit) const = 0;
};

class TracepointBase {
 public:
  TracepointBase(const TracepointBase&) = delete;
  TracepointBase& operator=(const TracepointBase&) = delete;

  [[nodiscard]] std::string_view name() const { return name_; }
  [[nodiscard]] bool enabled() const { return enabled_; }

  using Listener = std::function<void(const EventView&)>;
  void listen(Listener listener) {
    listeners_.push_back(std::move(listener));
    enabled_ = true;
  }
  void silence() {
    listeners_.clear();
    enabled_ = false;
  }

 protected:
  explicit TracepointBase(std::string_view name) : name_(name) {}
  ~TracepointBase() = default;
  void tell(const EventView& event) const {
    for (const Listener& listener : listeners_) listener(event);
  }

  bool enabled_ = false;

 private:
  std::string_view name_;
  std::vector<Listener> listeners_;
};

// All tracepoints of one machine, in the order in which its parts were built.
class TraceRegistry {
 public:
  void add(TracepointBase& tracepoint) { tracepoints_.push_back(&tracepoint); }
  [[nodiscard]] const std::vector<TracepointBase*>& all() const { return tracepoints_; }
  [[nodiscard]] TracepointBase* find(std::string_view name) const {
    for (TracepointBase* t : tracepoints_) {
      if (t->name() == name) return t;
    }
    return nullptr;
  }

 private:
  std::vector<TracepointBase*> tracepoints_;
};

template <class Event>
class Tracepoint final : public TracepointBase {
 public:
  explicit Tracepoint(TraceRegistry& registry) : TracepointBase(Event::kName) { registry.add(*this); }

  template <class Make>
  void operator()(Make&& make) const {
    if (enabled_) [[unlikely]]
      fire(std::forward<Make>(make)());
  }

 private:
  class View final : public EventView {
   public:
    explicit View(const Event& event) : event_(event) {}
    [[nodiscard]] std::string_view name() const override { return Event::kName; }
    void fields(const FieldVisitor& visit) const override {
      event_.fields([&visit](std::string_view name, auto value) {
        if constexpr (std::is_convertible_v<decltype(value), std::string_view>) {
          visit(name, std::string_view(value));
        } else if constexpr (std::is_signed_v<decltype(value)>) {
          visit(name, static_cast<std::int64_t>(value));
        } else {
          visit(name, static_cast<std::uint64_t>(value));
        }
      });
    }

   private:
    const Event& event_;
  };

  [[gnu::cold, gnu::noinline]] void fire(const Event& event) const { tell(View(event)); }
};

}  // namespace quire
