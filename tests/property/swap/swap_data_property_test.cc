// Pages of every kind of content go out to swap devices and come back; every byte is compared with a copy kept aside.
#include <rapidcheck.h>

#include "swap_machine.h"

namespace quire::swap {
namespace {

using phys::Folio;

enum class Content : std::uint64_t { kZero, kWord, kText, kNoise, kSparse, kCount };

std::vector<std::byte> make_page(Content content, Rng& rng) {
  std::vector<std::byte> bytes(kPageSize);
  const std::uint64_t word = rng();
  for (std::size_t i = 0; i < kPageSize; ++i) {
    switch (content) {
      case Content::kZero:
      case Content::kCount: break;
      case Content::kWord: bytes[i] = static_cast<std::byte>(word >> (i % 8 * 8)); break;
      case Content::kText: bytes[i] = static_cast<std::byte>('a' + rng.below(6)); break;
      case Content::kNoise: bytes[i] = static_cast<std::byte>(rng()); break;
      case Content::kSparse:
        if (rng.chance(1, 64)) bytes[i] = static_cast<std::byte>(rng());
        break;
    }
  }
  return bytes;
}

// One process's worth of pages, each either resident or at a swap entry.
class Pages {
 public:
  Pages(SwapMachine& m, std::uint64_t seed, std::size_t n) : m_(m), rng_(seed), pages_(n) {}

  void run(int operations) {
    for (int i = 0; i < operations; ++i) one_operation();
    for (Slot& slot : pages_) drop(slot);
  }

 private:
  struct Slot {
    std::vector<std::byte> bytes;
    SwapEntry entry = kNoSwap;
  };

  void one_operation() {
    Slot& slot = pages_[rng_.below(pages_.size())];
    if (slot.entry == kNoSwap) {
      slot.bytes = make_page(static_cast<Content>(rng_.below(static_cast<std::uint64_t>(Content::kCount))), rng_);
      Folio& folio = m_.anon_folio(0);
      std::memcpy(m_.phys->page_address(folio), slot.bytes.data(), kPageSize);
      slot.entry = m_.swap_out(folio);
    } else if (rng_.chance(1, 2)) {
      Folio& folio = m_.swap_in(slot.entry);
      RC_ASSERT(std::memcmp(m_.phys->page_address(folio), slot.bytes.data(), kPageSize) == 0);
      m_.lru.lru_add_drain_all();
      m_.put(folio);
      slot.entry = kNoSwap;
    } else {
      drop(slot);
    }
  }

  void drop(Slot& slot) {
    if (slot.entry != kNoSwap) m_.swap->free_swap_and_cache(slot.entry);
    slot.entry = kNoSwap;
  }

  SwapMachine& m_;
  Rng rng_;
  std::vector<Slot> pages_;
};

TEST(SwapDataProperty, EveryByteComesBack) {
  rc::check([](std::uint64_t seed) {
    Rng rng(seed);
    SwapMachine m({.ram = 32 * kMiB,
                   .cpus = 1 + static_cast<unsigned>(rng.below(2)),
                   .seed = seed,
                   .preempt_permille = rng.chance(1, 2) ? 50u : 0u});
    const bool zram = rng.chance(1, 2);
    if (zram) {
      m.add_zram(8 * kMiB);
    } else {
      m.add_disk(8 * kMiB, std::nullopt, rng.chance(1, 2) ? SwapDeviceFlags::kSolidState : SwapDeviceFlags::kNone);
    }
    for (std::uint64_t t = 0; t < 3; ++t) {
      m.scheduler.spawn("pages", [&m, seed, t] { Pages(m, seed * 3 + t, 100).run(400); });
    }
    m.scheduler.run();
    m.validate();
    RC_ASSERT(m.swap->get_nr_swap_pages() + m.swap->si_swapinfo().cached == m.swap->total_swap_pages());
  });
}

}  // namespace
}  // namespace quire::swap
