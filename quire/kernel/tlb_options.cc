#include "quire/kernel/tlb_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include "quire/base/nearest.h"

namespace quire::kernel {

namespace {

using TlbArray = arch::TlbConfig::Array;
constexpr std::array<std::pair<std::string_view, TlbArray arch::TlbConfig::*>, 5> kTlbArrays{{
    {"l1_4k", &arch::TlbConfig::l1_4k},
    {"l1_2m", &arch::TlbConfig::l1_2m},
    {"l1_1g", &arch::TlbConfig::l1_1g},
    {"l2", &arch::TlbConfig::l2},
    {"l2_1g", &arch::TlbConfig::l2_1g},
}};

std::optional<unsigned> whole(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Checked<TlbArray> parse_shape(std::string_view text, std::string_view part) {
  const auto cross = text.find('x');
  const auto entries = whole(text.substr(0, cross));
  const auto ways = cross == std::string_view::npos ? std::nullopt : whole(text.substr(cross + 1));
  if (!entries || !ways) return user_error(fmt::format("tlb '{}': write ENTRIESxWAYS, as in l2=1536x12", part));
  if (*ways < 1 || *ways > arch::TlbConfig::kMaxWays) {
    return user_error(fmt::format("tlb '{}': a set has 1 to {} ways, not {}", part, arch::TlbConfig::kMaxWays, *ways));
  }
  if (*entries < *ways || *entries > arch::TlbConfig::kMaxEntries || *entries % *ways != 0 ||
      !std::has_single_bit(*entries / *ways)) {
    return user_error(fmt::format(
        "tlb '{}': {} entries in sets of {} are no power of two of sets; take {} times 1, 2, 4, 8, ... and at most {}", part,
        *entries, *ways, *ways, arch::TlbConfig::kMaxEntries));
  }
  return TlbArray{*entries, *ways};
}

}  // namespace

Checked<arch::TlbConfig> parse_tlb(std::string_view text) {
  arch::TlbConfig config;
  std::vector<std::string_view> given;
  for (bool more = !text.empty(); more;) {
    const auto comma = text.find(',');
    const std::string_view part = text.substr(0, comma);
    more = comma != std::string_view::npos;
    text.remove_prefix(more ? comma + 1 : text.size());
    const auto equals = part.find('=');
    const std::string_view name = part.substr(0, equals);
    TlbArray arch::TlbConfig::* array = nullptr;
    std::vector<std::string_view> names;
    for (const auto& [known, member] : kTlbArrays) {
      if (known == name) array = member;
      names.push_back(known);
    }
    if (array == nullptr) {
      const std::string_view guess = nearest(name, names);
      return user_error(fmt::format("tlb '{}': there is no array '{}'; {}there are: {}", part, name,
                                    guess.empty() ? "" : fmt::format("did you mean '{}'? ", guess), fmt::join(names, ", ")));
    }
    if (std::ranges::find(given, name) != given.end()) return user_error(fmt::format("tlb: '{}' is given twice", name));
    given.push_back(name);
    const auto shape = parse_shape(equals == std::string_view::npos ? "" : part.substr(equals + 1), part);
    if (!shape) return std::unexpected(shape.error());
    config.*array = *shape;
  }
  const unsigned l1 = config.l1_4k.entries + config.l1_2m.entries + config.l1_1g.entries;
  if (l1 > arch::TlbConfig::kMaxL1) {
    return user_error(fmt::format("tlb: the first level has {} entries in all; at most {}", l1, arch::TlbConfig::kMaxL1));
  }
  return config;
}

Checked<void> check_tlbs(const arch::TlbConfig& config, unsigned cpus) {
  const std::uint64_t one =
      config.l1_4k.entries + config.l1_2m.entries + config.l1_1g.entries + config.l2.entries + config.l2_1g.entries;
  if (one * cpus <= kMostTlbEntries) return {};
  return user_error(
      fmt::format("tlb: {} entries on each of {} CPUs are more than this host is asked to hold; at most {} in all", one, cpus,
                  kMostTlbEntries));
}

}  // namespace quire::kernel
