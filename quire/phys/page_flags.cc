#include "quire/phys/page_flags.h"

#include <array>
#include <string_view>

namespace quire::phys {

namespace {

constexpr std::array<std::string_view, 37> kPageFlagNames = {"locked",
                                                             "referenced",
                                                             "uptodate",
                                                             "dirty",
                                                             "lru",
                                                             "active",
                                                             "workingset",
                                                             "waiters",
                                                             "error",
                                                             "slab",
                                                             "owner_priv_1",
                                                             "arch_1",
                                                             "reserved",
                                                             "private",
                                                             "private_2",
                                                             "writeback",
                                                             "head",
                                                             "mappedtodisk",
                                                             "reclaim",
                                                             "swapbacked",
                                                             "unevictable",
                                                             "mlocked",
                                                             "uncached",
                                                             "hwpoison",
                                                             "young",
                                                             "idle",
                                                             "reported",
                                                             "anon_exclusive",
                                                             "",
                                                             "",
                                                             "",
                                                             "",
                                                             "buddy",
                                                             "offline",
                                                             "table",
                                                             "guard",
                                                             "pcp"};

}  // namespace

std::string page_flag_names(std::uint64_t flags) {
  std::string out;
  for (std::size_t bit = 0; bit < kPageFlagNames.size(); ++bit) {
    if ((flags >> bit & 1) == 0 || kPageFlagNames[bit].empty()) continue;
    if (!out.empty()) out += '|';
    out += kPageFlagNames[bit];
  }
  return out;
}

}  // namespace quire::phys
