// What ftrace's function graph shows of the fault path: which function ran in which. A FuncGraph::Call that lives as long as
// its function tells of entry and exit; when nobody listens that is two loads and two predictable branches.
#pragma once

#include <string_view>

#include "quire/base/tracepoint.h"

namespace quire::vm {

struct FuncgraphEntry {
  static constexpr std::string_view kName = "funcgraph_entry";
  std::string_view func;
  void fields(auto&& f) const { f("func", func); }
};

struct FuncgraphExit {
  static constexpr std::string_view kName = "funcgraph_exit";
  std::string_view func;
  void fields(auto&& f) const { f("func", func); }
};

// The processor's exception, before anything is looked up (ftrace's exceptions:page_fault_user).
struct PageFaultUser {
  static constexpr std::string_view kName = "page_fault_user";
  std::uint64_t address;
  std::uint64_t ip;  // sim::Task::ip of who faulted; 0 where no task runs
  std::uint32_t error_code;
  void fields(auto&& f) const {
    f("address", address);
    f("ip", ip);
    f("error_code", error_code);
  }
};

class FuncGraph {
 public:
  explicit FuncGraph(TraceRegistry& traces) : entry_(traces), exit_(traces) {}

  class Call {
   public:
    Call(const FuncGraph& graph, std::string_view func) : graph_(graph), func_(func) {
      graph_.entry_([this] { return FuncgraphEntry{.func = func_}; });
    }
    ~Call() {
      graph_.exit_([this] { return FuncgraphExit{.func = func_}; });
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    const FuncGraph& graph_;
    std::string_view func_;
  };

 private:
  Tracepoint<FuncgraphEntry> entry_;
  Tracepoint<FuncgraphExit> exit_;
};

}  // namespace quire::vm
