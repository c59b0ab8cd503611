// What the LRU tests stand on: a scheduler, physical memory and an Lru on it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "quire/lru/lru.h"
#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"

namespace quire::lru {

struct MachineSpec {
  std::uint64_t ram = 64 * kMiB;
  unsigned cpus = 1;
  unsigned nodes = 1;
  std::uint64_t seed = 0;
  unsigned preempt_permille = 0;
};

class LruMachine {
 public:
  explicit LruMachine(const MachineSpec& spec = {})
      : scheduler({.cpus = spec.cpus, .seed = spec.seed, .preempt_permille = spec.preempt_permille}, {}, traces),
        phys(boot(spec)),
        lru(*phys, scheduler, traces) {}

  phys::Folio& folio(AnonOrFile kind, Order order = Order(0), Nid nid = kNoNode) {
    phys::Folio* f = phys->folio_alloc(phys::Gfp::kHighUserMovable, order, nid);
    if (f == nullptr) throw std::runtime_error("no memory in the test");
    if (kind == AnonOrFile::kAnon) {
      f->mapping = phys::kMappingAnon;
      phys::folio_set_swapbacked(*f);
    }
    return *f;
  }
  // A folio on its list.
  phys::Folio& added(AnonOrFile kind, Order order = Order(0), Nid nid = kNoNode) {
    phys::Folio& f = folio(kind, order, nid);
    lru.folio_add_lru(f);
    lru.lru_add_drain();
    return f;
  }
  // Drops the owner's reference; the mapping would be gone by then.
  void put(phys::Folio& f) {
    f.mapping = 0;
    lru.folio_put(f);
  }

  std::int64_t node_stat(phys::NodeStat s) const { return phys->global_node_page_state(s); }
  std::int64_t zone_stat(phys::ZoneStat s) const { return phys->global_zone_page_state(s); }
  std::int64_t event(phys::VmEvent e) const { return phys->vmstat()[e]; }
  std::uint64_t size(LruList l) const {
    std::uint64_t n = 0;
    for (std::size_t i = 0; i < lru.nodes(); ++i) n += lru.lruvec(Nid(static_cast<int>(i))).size(l);
    return n;
  }
  std::vector<const phys::Folio*> list(LruList l, Nid nid = Nid(0)) const {
    std::vector<const phys::Folio*> all;
    for (const phys::Page& p : lru.lruvec(nid).list(l).pages()) all.push_back(static_cast<const phys::Folio*>(&p));
    return all;
  }
  std::uint64_t free_pages() {
    phys->drain_all_pages();
    return phys->meminfo().freeram;
  }

  TraceRegistry traces;
  sim::Scheduler scheduler;
  std::unique_ptr<phys::PhysMem> phys;
  Lru lru;

 private:
  std::unique_ptr<phys::PhysMem> boot(const MachineSpec& spec) {
    phys::PhysConfig config;
    config.ram_bytes = spec.ram;
    config.cpus = spec.cpus;
    config.kernel_reserved = 4 * kMiB;
    if (spec.nodes > 1) {
      config.nodes.resize(spec.nodes);
      for (phys::NodeConfig& node : config.nodes) node.bytes = spec.ram / spec.nodes;
    }
    auto booted = phys::PhysMem::boot(config, scheduler, traces);
    if (!booted) ADD_FAILURE() << booted.error().message;
    return std::move(*booted);
  }
};

}  // namespace quire::lru
