// Up to 15 folios on their way to or from a list: what one CPU gathers before it takes lru_lock once (Linux's
// folio_batch). Each entry holds a reference, which the batch's owner drops when it is drained.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quire/base/bug.h"
#include "quire/phys/folio.h"

namespace quire::lru {

class FolioBatch {
 public:
  static constexpr std::size_t kSize = 15;  // PAGEVEC_SIZE

  // Returns the room left, so 0 says: drain me now.
  std::size_t add(phys::Folio& folio) {
    QUIRE_DCHECK(count_ < kSize);
    folios_[count_++] = &folio;
    return kSize - count_;
  }
  [[nodiscard]] std::size_t count() const { return count_; }
  [[nodiscard]] bool empty() const { return count_ == 0; }
  [[nodiscard]] phys::Folio& operator[](std::size_t i) const { return *folios_[i]; }
  [[nodiscard]] std::span<phys::Folio* const> folios() const { return {folios_.data(), count_}; }
  void reset() { count_ = 0; }

 private:
  std::array<phys::Folio*, kSize> folios_{};
  std::uint32_t count_ = 0;
};

}  // namespace quire::lru
