#include "quire/lru/lruvec.h"

namespace quire::lru {

std::string_view lru_list_name(LruList l) {
  constexpr std::array<std::string_view, kLruLists> kNames{"inactive_anon", "active_anon", "inactive_file", "active_file",
                                                           "unevictable"};
  return kNames[static_cast<std::size_t>(l)];
}

std::uint64_t Lruvec::size(LruList l, phys::ZoneType highest) const {
  std::uint64_t pages = 0;
  for (std::size_t zone = 0; zone <= index(highest); ++zone) pages += zone_size_[zone][index(l)];
  return pages;
}

std::uint64_t Lruvec::size(LruList l) const { return size(l, phys::ZoneType::kDevice); }

}  // namespace quire::lru
