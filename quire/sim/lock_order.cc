#include "quire/sim/lock_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "quire/base/bug.h"
#include "quire/sim/task.h"

namespace quire::sim {
namespace {

std::string node_name(std::string_view class_name, unsigned subclass) {
  return subclass == 0 ? std::string(class_name) : fmt::format("{}/{}", class_name, subclass);
}

}  // namespace

LockOrder::Node LockOrder::node(const LockClass& lock_class, unsigned subclass) {
  QUIRE_BUG_ON(subclass >= kLockSubclasses);
  const Node n = lock_class.index() * kLockSubclasses + subclass;
  Vertex& vertex = graph_[n];
  if (vertex.name.empty()) vertex.name = node_name(lock_class.name(), subclass);
  return n;
}

void LockOrder::acquire(Task& task, const void* lock, LockClass& lock_class, unsigned subclass, AcquireKind how) {
  HeldLocks& held = task.held_locks;
  const Node to = node(lock_class, subclass);
  if (how == AcquireKind::kBlocking) {
    // Down to and including the last lock that was waited for: what lies below has its edges to that one already.
    for (unsigned i = held.count; i-- > 0;) {
      const HeldLocks::Held& h = held.locks[i];
      if (h.lock == lock) bug(fmt::format("task '{}' takes '{}' twice", task.name(), lock_class.name()));
      add_edge(task, h, to);
      if (h.how == AcquireKind::kBlocking) break;
    }
  }
  if (held.count == HeldLocks::kMax) bug(fmt::format("task '{}' holds too many locks", task.name()));
  held.locks[held.count++] =
      HeldLocks::Held{.lock = lock, .lock_class = &lock_class, .subclass = static_cast<std::uint8_t>(subclass), .how = how};
}

void LockOrder::release(Task& task, const void* lock) {
  HeldLocks& held = task.held_locks;
  for (unsigned i = held.count; i-- > 0;) {
    if (held.locks[i].lock != lock) continue;
    std::copy(held.locks.begin() + i + 1, held.locks.begin() + held.count, held.locks.begin() + i);
    --held.count;
    return;
  }
  // Taken before checking was switched on.
}

bool LockOrder::holds(const Task& task, const void* lock) {
  const HeldLocks& held = task.held_locks;
  return std::any_of(held.locks.begin(), held.locks.begin() + held.count,
                     [lock](const HeldLocks::Held& h) { return h.lock == lock; });
}

void LockOrder::add_edge(Task& task, const HeldLocks::Held& held, Node to) {
  const Node from = node(*held.lock_class, held.subclass);
  Vertex& vertex = graph_[from];
  const bool known = std::any_of(vertex.out.begin(), vertex.out.end(), [to](const Edge& e) { return e.to == to; });
  if (known) return;
  if (from == to) report(task, held, to, {});
  const std::vector<const Edge*> back = path(to, from);
  if (!back.empty()) report(task, held, to, back);

  std::string chain;
  for (unsigned i = 0; i < task.held_locks.count; ++i) {
    const HeldLocks::Held& h = task.held_locks.locks[i];
    chain += (i == 0 ? "" : ", ") + node_name(h.lock_class->name(), h.subclass);
  }
  vertex.out.push_back(Edge{.to = to,
                            .where = fmt::format("task '{}' took '{}' holding '{}' (all it held: {})", task.name(),
                                                 graph_[to].name, vertex.name, chain)});
  order_.emplace_back(from, to);
}

// Breadth first: the shortest chain reads best.
std::vector<const LockOrder::Edge*> LockOrder::path(Node from, Node to) const {
  std::map<Node, std::pair<Node, const Edge*>> reached_by;
  std::vector<Node> queue{from};
  for (std::size_t i = 0; i < queue.size(); ++i) {
    const auto vertex = graph_.find(queue[i]);
    if (vertex == graph_.end()) continue;
    for (const Edge& e : vertex->second.out) {
      if (e.to == from || !reached_by.emplace(e.to, std::pair(queue[i], &e)).second) continue;
      queue.push_back(e.to);
    }
  }
  std::vector<const Edge*> edges;
  if (!reached_by.contains(to)) return edges;
  for (Node n = to; n != from; n = reached_by.at(n).first) edges.push_back(reached_by.at(n).second);
  std::reverse(edges.begin(), edges.end());
  return edges;
}

void LockOrder::report(Task& task, const HeldLocks::Held& held, Node to, const std::vector<const Edge*>& back) const {
  const std::string& wanted = graph_.at(to).name;
  const std::string holding = node_name(held.lock_class->name(), held.subclass);
  if (back.empty()) {
    bug(
        fmt::format("possible recursive locking: task '{}' takes '{}' and holds another '{}' already "
                    "(if that is in a safe order, take the inner one with lock_nested)",
                    task.name(), wanted, holding));
  }
  std::string chain;
  for (const Edge* e : back) chain += "\n    " + e->where;
  bug(fmt::format("possible deadlock, locks in both orders:\n  now: task '{}' takes '{}' holding '{}'\n  before:{}",
                  task.name(), wanted, holding, chain));
}

void LockOrder::reset() {
  graph_.clear();
  order_.clear();
}

std::vector<std::string> LockOrder::edges() const {
  std::vector<std::string> names;
  names.reserve(order_.size());
  for (const auto& [from, to] : order_) names.push_back(graph_.at(from).name + " -> " + graph_.at(to).name);
  return names;
}

}  // namespace quire::sim
