// Which zone an allocation takes its pages from, and what it does when there are none: policy, above the mechanism of
// buddy, per-CPU lists and watermark checks in PhysMem. One file for each flow: linux_6.cc.
//
// The commonest case never gets here: PhysMem::alloc_pages takes an order-0 page from the CPU's list when the preferred
// zone stands above its low watermark, which every flow would do too.
#pragma once

#include <memory>
#include <string_view>

#include "quire/phys/gfp.h"
#include "quire/phys/phys_config.h"
#include "quire/phys/zone.h"

namespace quire::phys {

class PhysMem;

// One request, prepared from gfp flags (Linux's struct alloc_context).
struct AllocContext {
  Gfp gfp;
  Order order;
  ZoneList* zonelist;
  Zone* preferred_zone;
  ZoneType highest_zoneidx;
  MigrateType migratetype;
  bool spread_dirty_pages;  // the caller means to dirty the page: keep nodes below their share of dirty pages
};

class AllocPolicy {
 public:
  virtual ~AllocPolicy() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  // The page with one reference, prepared as gfp says, or nullptr. May sleep where gfp allows it.
  virtual Page* alloc_pages(PhysMem& mem, AllocContext& ac) = 0;
};

[[nodiscard]] std::unique_ptr<AllocPolicy> make_linux_6_alloc_policy();

}  // namespace quire::phys
