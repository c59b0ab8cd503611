// What the kernel's log would say of a caller's mistake or of a failure: one line each, to the machine's log, and the last one
// kept for who asks. Linux: pr_warn, WARN and their kin, whose callers go on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quire/phys/phys_mem.h"

namespace quire::kvirt {

class KernelLog {
 public:
  explicit KernelLog(phys::PhysMem& phys) : phys_(phys) {}

  void warn(std::string line) {
    phys_.printk(line);
    note(std::move(line));
  }
  // Kept as the last line, but told elsewhere.
  void note(std::string line) {
    ++warnings_;
    last_ = std::move(line);
  }
  [[nodiscard]] std::uint64_t warnings() const { return warnings_; }
  [[nodiscard]] const std::string& last() const { return last_; }

 private:
  phys::PhysMem& phys_;
  std::uint64_t warnings_ = 0;
  std::string last_;
};

}  // namespace quire::kvirt
