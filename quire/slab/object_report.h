// What the debugging of objects found, in words for a person and in fields for a program. The machine goes on after a
// report, as Linux does: the bytes are put right, or the object is given up.
//
// Reports are kept by their SlabSystem, the first kKept with their text, all of them counted; whoever wants to know at once
// sets a handler. Addresses are those of the machine's direct map, so that a run and its repetition report the same.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quire::slab {

enum class ObjectProblem : std::uint8_t {
  kLeftRedZone,   // written before the object's start
  kRightRedZone,  // written beyond its end
  kUseAfterFree,  // written while it was free
  kPadding,       // written between objects, or between an object's end and the next word
  kSlabPadding,   // written behind the last object of a slab
  kDoubleFree,
  kInvalidPointer,  // freed at an address in a slab that is no object's start
  kNoObject,        // freed, but in no slab
  kWrongCache,      // freed to another cache than its own
  kCount,
};
[[nodiscard]] std::string_view object_problem_name(ObjectProblem problem);

struct ObjectReport {
  ObjectProblem problem{};
  std::string cache{};         // the object's, or the one that it was freed to when it has none
  std::uint64_t address = 0;   // of the object; 0 when it is in no RAM
  std::int64_t offset = 0;     // of the first wrong byte, from the object's start
  std::size_t length = 0;      // wrong bytes, from the first to the last
  std::string found_by{};      // who allocated or freed when it was found; empty when validate() found it
  std::string allocated_by{};  // functions; empty without owner tracking
  std::string freed_by{};
  std::string text{};  // all of it, several lines
};

class ObjectReports {
 public:
  static constexpr std::size_t kKept = 64;
  using Handler = std::function<void(const ObjectReport&)>;
  using TraceSink = std::function<void(std::string_view line)>;

  // Is told each report, too, when it is made; in the middle of an allocation, so it calls nothing of the machine.
  void set_handler(Handler handler) { handler_ = std::move(handler); }
  // Where caches with kTrace tell each allocation and free.
  void set_trace_sink(TraceSink sink) { trace_ = std::move(sink); }

  void add(ObjectReport report);
  // Whether anybody would see the next report's text; else it need not be composed, and count_only() does.
  [[nodiscard]] bool wanted() const { return handler_ != nullptr || kept_.size() < kKept; }
  void count_only(ObjectProblem problem) {
    ++count_;
    ++counts_[static_cast<std::size_t>(problem)];
  }
  void trace(std::string_view line) const {
    if (trace_) trace_(line);
  }
  [[nodiscard]] bool tracing() const { return trace_ != nullptr; }

  [[nodiscard]] const std::vector<ObjectReport>& kept() const { return kept_; }
  [[nodiscard]] std::uint64_t count() const { return count_; }
  [[nodiscard]] std::uint64_t count(ObjectProblem problem) const { return counts_[static_cast<std::size_t>(problem)]; }
  void clear();

 private:
  std::vector<ObjectReport> kept_;
  std::uint64_t count_ = 0;
  std::array<std::uint64_t, static_cast<std::size_t>(ObjectProblem::kCount)> counts_{};
  Handler handler_;
  TraceSink trace_;
};

}  // namespace quire::slab
