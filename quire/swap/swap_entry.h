// A swap entry names a slot of a swap area: which area (type), which page of it (offset). arch defines it and packs it
// into non-present PTEs. Here its one-word form is kept in `Page::private_` of folios in the swap cache and, by shmem, in
// XArray values. Offset 0 is every area's header, so no slot is {0, 0}, and kNoSwap stands for "none".
#pragma once

#include "quire/arch/swap_entry.h"

namespace quire::swap {

using arch::kMaxSwapFiles;
using arch::SwapEntry;

inline constexpr SwapEntry kNoSwap{};

}  // namespace quire::swap
