// Swap slots against a naive model: a map from slot to its users and its cache hold.
#include <map>

#include <rapidcheck.h>

#include "swap_machine.h"

namespace quire::swap {
namespace {

struct Holds {
  std::uint64_t users = 0;
  bool cache = false;
};
using Model = std::map<SwapEntry, Holds>;

SwapEntry pick(const Model& model, Rng& rng) {
  return std::next(model.begin(), static_cast<std::ptrdiff_t>(rng.below(model.size())))->first;
}

void forget_if_free(Model& model, SwapEntry entry) {
  const auto it = model.find(entry);
  if (it->second.users == 0 && !it->second.cache) model.erase(it);
}

void one_operation(SwapMachine& m, Model& model, Rng& rng) {
  const std::uint64_t what = rng.below(100);
  if (what < 35 || model.empty()) {
    const auto got = m.swap->get_swap_page();
    RC_ASSERT(got.has_value() == (model.size() < m.swap->total_swap_pages()));
    if (!got) return;
    RC_ASSERT(model.find(*got) == model.end());
    model[*got] = Holds{0, true};
    return;
  }
  const SwapEntry entry = pick(model, rng);
  Holds& holds = model[entry];
  if (what < 65) {
    // In bursts, to reach continuation counts.
    for (std::uint64_t n = rng.chance(1, 8) ? 100 : 1; n > 0; --n) {
      RC_ASSERT(m.swap->swap_duplicate(entry).has_value());
      ++holds.users;
    }
  } else if (what < 85) {
    for (std::uint64_t n = rng.chance(1, 8) ? 100 : 1; n > 0 && holds.users > 0; --n) {
      m.swap->swap_free(entry);
      --holds.users;
    }
  } else if (holds.cache) {
    m.swap->put_swap_folio(entry);
    holds.cache = false;
  }
  forget_if_free(model, entry);
}

TEST(SwapSlotsProperty, AgreesWithTheModel) {
  rc::check([](std::uint64_t seed) {
    Rng rng(seed);
    SwapMachine m({.ram = 16 * kMiB, .seed = seed});
    const auto kind = rng.chance(1, 2) ? SwapDeviceFlags::kSolidState : SwapDeviceFlags::kNone;
    m.add_disk((2 + rng.below(1200)) * kPageSize, 1, kind);
    if (rng.chance(1, 2)) m.add_disk((2 + rng.below(300)) * kPageSize, 1);
    Model model;
    for (int i = 0; i < 3000; ++i) {
      one_operation(m, model, rng);
      if (i % 500 == 0) m.swap->validate();
    }
    m.swap->validate();
    RC_ASSERT(m.swap->get_nr_swap_pages() == m.swap->total_swap_pages() - model.size());
    for (const auto& [entry, holds] : model) {
      RC_ASSERT(m.swap->swap_count(entry) == holds.users);
      RC_ASSERT(m.swap->swp_swap_info(entry).has_cache(entry.offset) == holds.cache);
    }
  });
}

}  // namespace
}  // namespace quire::swap
