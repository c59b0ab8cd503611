// Which zone an allocation takes its pages from, and what it does when there are none: policy, above the mechanism of
// buddy, per-CPU lists and watermark checks in PhysMem. One file for each flow: linux_2_4.cc, linux_4_0.cc, linux_6.cc.
//
// linux-6's commonest case never gets here: PhysMem::alloc_pages takes an order-0 page from the CPU's list when the
// preferred zone stands above its low watermark. The other flows have no such short cut (2.4 has no per-CPU lists, 4.0
// counts each page of a zone's fair share), so they are asked each time.
#pragma once

#include <memory>
#include <optional>
#include <span>
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

[[nodiscard]] std::unique_ptr<AllocPolicy> make_linux_2_4_alloc_policy();
[[nodiscard]] std::unique_ptr<AllocPolicy> make_linux_4_0_alloc_policy();
[[nodiscard]] std::unique_ptr<AllocPolicy> make_linux_6_alloc_policy();

[[nodiscard]] std::unique_ptr<AllocPolicy> make_alloc_policy(AllocPolicyKind kind);
// Their names, oldest first: "linux-2.4", "linux-4.0", "linux-6".
[[nodiscard]] std::span<const std::string_view> alloc_policy_names();
[[nodiscard]] std::optional<AllocPolicyKind> find_alloc_policy(std::string_view name);

}  // namespace quire::phys
