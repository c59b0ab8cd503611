// Somebody who looks at each block before it is freed: a check of QUIRE_DEBUG builds. Others never call it.
#pragma once

#include "quire/base/types.h"

namespace quire::phys {

class FreeWatch {
 public:
  virtual ~FreeWatch() = default;
  // 2^order frames from `first` on are about to be freed. From any context; must not wait.
  virtual void before_free(Pfn first, Order order) = 0;
};

}  // namespace quire::phys
