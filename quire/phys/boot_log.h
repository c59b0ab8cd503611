// PhysBoot::log, apart so that only the boot files pull in the formatter.
#pragma once

#include <fmt/format.h>

#include "quire/phys/boot.h"

namespace quire::phys {

template <class... Args>
void PhysBoot::log(std::string_view format, Args&&... args) {
  log_.push_back(fmt::format(fmt::runtime(format), std::forward<Args>(args)...));
  if (sink_) sink_(log_.back());
}

}  // namespace quire::phys
