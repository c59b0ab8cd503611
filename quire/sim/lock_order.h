// Lock order checking, as lockdep does it. Taking B while holding A records the edge A → B between their classes, once
// and for all tasks; an edge that closes a ring is a possible deadlock even if none happened, and is reported as a BUG
// that names both chains. Taking a class that is held already is one too, unless the inner lock is taken with another
// subclass (lock_nested, Linux's SINGLE_DEPTH_NESTING). A trylock cannot deadlock, so it makes no edge towards itself.
//
// Off in release builds unless Scheduler::set_lock_checks asks for it. The graph allocates when it sees a new edge.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "quire/sim/lock_class.h"

namespace quire::sim {

class Task;

inline constexpr unsigned kLockSubclasses = 8;
inline constexpr unsigned kSingleDepthNesting = 1;

enum class AcquireKind : std::uint8_t { kBlocking, kTry };
enum class LockShare : std::uint8_t { kExclusive, kRead };

// A lock that the current task takes.
struct LockTaken {
  const void* lock;
  LockClass* lock_class;
  unsigned subclass = 0;
  AcquireKind how = AcquireKind::kBlocking;
  LockShare share = LockShare::kExclusive;
};

// The locks a task holds, oldest first.
struct HeldLocks {
  static constexpr unsigned kMax = 48;  // MAX_LOCK_DEPTH
  struct Held {
    const void* lock = nullptr;
    LockClass* lock_class = nullptr;
    std::uint8_t subclass = 0;
    AcquireKind how = AcquireKind::kBlocking;
  };
  std::array<Held, kMax> locks;
  unsigned count = 0;
};

class LockOrder {
 public:
  // `task` is about to take `lock`. Does not return when that breaks the order.
  void acquire(Task& task, const void* lock, LockClass& lock_class, unsigned subclass, AcquireKind how);
  void release(Task& task, const void* lock);
  // True when the task's list (kept only while checking is on) has the lock.
  [[nodiscard]] static bool holds(const Task& task, const void* lock);

  // Drops what was learnt.
  void reset();
  // Edges known, as "a -> b", in order of discovery.
  [[nodiscard]] std::vector<std::string> edges() const;

 private:
  using Node = unsigned;  // class index * kLockSubclasses + subclass
  struct Edge {
    Node to;
    std::string where;  // who took what under what when the edge was first seen
  };
  struct Vertex {
    std::string name;
    std::vector<Edge> out;
  };

  Node node(const LockClass& lock_class, unsigned subclass);
  void add_edge(Task& task, const HeldLocks::Held& held, Node to);
  // The edges of a path from `from` to `to`; empty when there is none.
  [[nodiscard]] std::vector<const Edge*> path(Node from, Node to) const;
  [[noreturn]] void report(Task& task, const HeldLocks::Held& held, Node to, const std::vector<const Edge*>& back) const;

  std::map<Node, Vertex> graph_;
  std::vector<std::pair<Node, Node>> order_;
};

}  // namespace quire::sim
