#include "quire/like/lines.h"

#include <algorithm>
#include <charconv>

namespace quire::like {

namespace {

std::optional<std::uint64_t> number(std::string_view text, int base) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<Range<PhysAddr>> range_behind(std::string_view line, std::string_view opening) {
  const std::size_t at = line.find(opening);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = line.substr(at + opening.size());
  const std::size_t close = rest.find(']');
  if (close == std::string_view::npos) return std::nullopt;
  return address_range(rest.substr(0, close));
}

}  // namespace

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    while (line.ends_with('\r')) line.remove_suffix(1);
    out.push_back(line);
  }
  return out;
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> out;
  for (;;) {
    line = trim(line);
    if (line.empty()) return out;
    out.push_back(line.substr(0, line.find_first_of(" \t")));
    line.remove_prefix(out.back().size());
  }
}

std::optional<std::uint64_t> decimal(std::string_view text) { return number(text, 10); }

std::optional<std::uint64_t> hexadecimal(std::string_view text) {
  if (text.starts_with("0x")) text.remove_prefix(2);
  return number(text, 16);
}

std::optional<std::uint64_t> number_after(std::string_view line, std::string_view key) {
  const std::size_t at = line.find(key);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = line.substr(at + key.size());
  return decimal(rest.substr(0, rest.find_first_not_of("0123456789")));
}

std::optional<Range<PhysAddr>> address_range(std::string_view text) {
  const std::size_t dash = text.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto first = hexadecimal(trim(text.substr(0, dash)));
  const auto last = hexadecimal(trim(text.substr(dash + 1)));
  if (!first || !last || *last < *first || *last == ~std::uint64_t{0}) return std::nullopt;
  return Range<PhysAddr>{PhysAddr(*first), PhysAddr(*last + 1)};
}

std::optional<Range<PhysAddr>> mem_range(std::string_view line) { return range_behind(line, "[mem "); }
std::optional<Range<PhysAddr>> bracket_range(std::string_view line) {
  for (std::size_t at = line.find("[0x"); at != std::string_view::npos; at = line.find("[0x", at + 1)) {
    if (const auto range = range_behind(line.substr(at), "[")) return range;
  }
  return std::nullopt;
}

Range<Pfn> whole_pages(Range<PhysAddr> range) {
  return {phys_to_pfn(align_up(range.begin, kPageSize)), phys_to_pfn(range.end)};
}

}  // namespace quire::like
