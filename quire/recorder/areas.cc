#include "quire/recorder/process.h"

namespace quire::recorder {

void KnownAreas::add(std::uint64_t begin, std::uint64_t end) {
  if (begin >= end) return;
  auto at = areas_.upper_bound(begin);
  if (at != areas_.begin() && std::prev(at)->second >= begin) --at;
  while (at != areas_.end() && at->first <= end) {
    if (at->first < begin) begin = at->first;
    if (at->second > end) end = at->second;
    at = areas_.erase(at);
  }
  areas_.emplace(begin, end);
}

void KnownAreas::remove(std::uint64_t begin, std::uint64_t end) {
  auto at = areas_.upper_bound(begin);
  if (at != areas_.begin()) --at;
  while (at != areas_.end() && at->first < end) {
    const auto [old_begin, old_end] = *at;
    if (old_end <= begin) {
      ++at;
      continue;
    }
    at = areas_.erase(at);
    if (old_begin < begin) areas_.emplace(old_begin, begin);
    if (old_end > end) at = areas_.emplace(end, old_end).first;
  }
}

bool KnownAreas::find(std::uint64_t address, std::uint64_t& begin, std::uint64_t& end) const {
  auto at = areas_.upper_bound(address);
  if (at == areas_.begin()) return false;
  --at;
  if (address >= at->second) return false;
  begin = at->first;
  end = at->second;
  return true;
}

}  // namespace quire::recorder
