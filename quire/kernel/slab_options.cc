#include "quire/kernel/slab_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "quire/base/command_words.h"
#include "quire/base/nearest.h"

namespace quire::kernel {

namespace {

constexpr std::string_view kLayouts[] = {"slab", "slub"};  // by SlabLayoutKind
constexpr unsigned kMaxOrder = 10;                         // MAX_ORDER - 1
constexpr unsigned kMaxObjects = 32767;                    // what a slab's descriptor can count

Checked<slab::SlabLayoutKind> find_layout(std::string_view name) {
  const auto it = std::ranges::find(kLayouts, name);
  if (it != std::end(kLayouts)) return static_cast<slab::SlabLayoutKind>(it - std::begin(kLayouts));
  const std::string_view guess = nearest(name, kLayouts);
  return user_error(fmt::format("unknown slab allocator '{}'; {}", name,
                                guess.empty() ? "write slab or slub" : fmt::format("did you mean '{}'?", guess)));
}

// A whole number up to `most`.
Checked<unsigned> number(std::string_view word, std::string_view value, unsigned most) {
  unsigned n = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
  if (error != std::errc() || end != value.data() + value.size() || n > most) {
    return user_error(fmt::format("kernel parameter '{}': write a number from 0 to {}", word, most));
  }
  return n;
}

Checked<void> take_word(const CommandWord& given, slab::SlabConfig& config) {
  const auto& [word, name, value] = given;
  const auto take = [&given](unsigned most, auto& into) -> Checked<void> {
    const auto n = number(given.text, given.value, most);
    if (!n) return std::unexpected(n.error());
    into = *n;
    return {};
  };
  if (name == "slub_debug") {
    auto debug = slab::parse_slub_debug(value);
    if (!debug) return user_error(fmt::format("kernel parameter '{}': {}", word, debug.error().sentence));
    config.debug = std::move(*debug);
  } else if (name == "slab_nomerge" || name == "slub_nomerge") {
    config.merge = slab::SlabMerge::kNo;
  } else if (name == "slab_merge" || name == "slub_merge") {
    config.merge = slab::SlabMerge::kYes;
  } else if (name == "slub_min_objects") {
    return take(kMaxObjects, config.slub.min_objects);
  } else if (name == "slub_min_order") {
    return take(kMaxOrder, config.slub.min_order);
  } else if (name == "slub_max_order") {
    return take(kMaxOrder, config.slub.max_order);
  }
  return {};
}

}  // namespace

Checked<slab::SlabConfig> slab_config(const MachineConfig& config) {
  slab::SlabConfig out;
  const auto layout = find_layout(config.slab);
  if (!layout) return std::unexpected(layout.error());
  out.layout = *layout;
  for (const CommandWord& word : command_words(config.cmdline)) {
    if (auto ok = take_word(word, out); !ok) return std::unexpected(ok.error());
  }
  out.slub.min_order = std::min(out.slub.min_order, out.slub.max_order);
  if (config.slab_debug.empty()) return out;
  auto debug = slab::parse_slub_debug(config.slab_debug);
  if (!debug) return user_error(fmt::format("slab debugging '{}': {}", config.slab_debug, debug.error().sentence));
  out.debug = std::move(*debug);
  return out;
}

}  // namespace quire::kernel
