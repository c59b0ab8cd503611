// Whether the frames of user and file pages hold their bytes. The kernel's own data (page tables, struct Page, slab
// objects) is always real.
#pragma once

#include <cstdint>

namespace quire::phys {

enum class DataMode : std::uint8_t {
  kData,      // every byte is stored; copies and zeroing are done
  kDataless,  // user and file contents are not stored: clearing and copying only cost virtual time
};

}  // namespace quire::phys
