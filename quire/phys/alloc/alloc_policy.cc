#include "quire/phys/alloc/alloc_policy.h"

#include <algorithm>
#include <array>

namespace quire::phys {

namespace {

// In the order of AllocPolicyKind.
constexpr std::array<std::string_view, 3> kNames = {"linux-2.4", "linux-4.0", "linux-6"};

}  // namespace

std::unique_ptr<AllocPolicy> make_alloc_policy(AllocPolicyKind kind) {
  switch (kind) {
    case AllocPolicyKind::kLinux24: return make_linux_2_4_alloc_policy();
    case AllocPolicyKind::kLinux40: return make_linux_4_0_alloc_policy();
    case AllocPolicyKind::kLinux6: break;
  }
  return make_linux_6_alloc_policy();
}

std::span<const std::string_view> alloc_policy_names() { return kNames; }

std::optional<AllocPolicyKind> find_alloc_policy(std::string_view name) {
  const auto it = std::ranges::find(kNames, name);
  if (it == kNames.end()) return std::nullopt;
  return static_cast<AllocPolicyKind>(it - kNames.begin());
}

}  // namespace quire::phys
