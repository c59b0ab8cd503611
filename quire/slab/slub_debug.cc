#include "quire/slab/slub_debug.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace quire::slab {

namespace {

Checked<SlabFlags> parse_letters(std::string_view letters) {
  if (letters.empty()) return kDebugDefaultFlags;
  SlabFlags flags = SlabFlags::kNone;
  if (letters == "-") return flags;
  for (const char letter : letters) {
    switch (std::toupper(static_cast<unsigned char>(letter))) {
      case 'F': flags |= SlabFlags::kConsistencyChecks; break;
      case 'Z': flags |= SlabFlags::kRedZone; break;
      case 'P': flags |= SlabFlags::kPoison; break;
      case 'U': flags |= SlabFlags::kStoreUser; break;
      case 'T': flags |= SlabFlags::kTrace; break;
      default:
        return user_error(
            fmt::format("'{}' is no slab debugging option; there are F (checks), Z (red zones), P (poison), U (owners), T "
                        "(trace) and - (none)",
                        letter));
    }
  }
  return flags;
}

bool matches(std::string_view pattern, std::string_view name) {
  if (!pattern.ends_with('*')) return pattern == name;
  pattern.remove_suffix(1);
  return name.starts_with(pattern);
}

// Takes what stands before `mark` off `text`, and the mark.
std::string_view take_until(std::string_view& text, char mark) {
  const std::string_view part = text.substr(0, text.find(mark));
  text.remove_prefix(std::min(text.size(), part.size() + 1));
  return part;
}

}  // namespace

Checked<SlubDebug> parse_slub_debug(std::string_view text) {
  SlubDebug debug;
  do {
    std::string_view block = take_until(text, ';');
    const auto flags = parse_letters(take_until(block, ','));
    if (!flags) return std::unexpected(flags.error());
    SlabDebugRule rule{.flags = *flags, .caches = {}};
    while (!block.empty()) {
      const std::string_view name = take_until(block, ',');
      if (name.empty()) return user_error("a cache without a name; write names separated by single commas");
      rule.caches.emplace_back(name);
    }
    rule.caches.empty() ? static_cast<void>(debug.all = rule.flags) : debug.rules.push_back(std::move(rule));
  } while (!text.empty());
  return debug;
}

SlabFlags debug_flags(const SlubDebug& debug, std::string_view cache) {
  for (const SlabDebugRule& rule : debug.rules) {
    if (std::ranges::any_of(rule.caches, [cache](std::string_view pattern) { return matches(pattern, cache); })) {
      return rule.flags;
    }
  }
  return debug.all;
}

}  // namespace quire::slab
