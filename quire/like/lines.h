// Texts of other programs, line by line, and the numbers in them. Nothing here trusts what it reads: what is not as expected
// is nullopt.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "quire/base/types.h"

namespace quire::like {

// The lines of a text, without their ends (LF or CR LF). The text must outlive them.
[[nodiscard]] std::vector<std::string_view> lines_of(std::string_view text);
[[nodiscard]] std::string_view trim(std::string_view text);
// Words between blanks and tabs.
[[nodiscard]] std::vector<std::string_view> words_of(std::string_view line);

// All of the text as a decimal number; hexadecimal with or without 0x.
[[nodiscard]] std::optional<std::uint64_t> decimal(std::string_view text);
[[nodiscard]] std::optional<std::uint64_t> hexadecimal(std::string_view text);
// The decimal number that starts right behind the first `key` in the line.
[[nodiscard]] std::optional<std::uint64_t> number_after(std::string_view line, std::string_view key);
// "0xA-0xB" or "A-B" (both ends belong to it) in hexadecimal.
[[nodiscard]] std::optional<Range<PhysAddr>> address_range(std::string_view text);
// The first "[mem 0xA-0xB]" of a line, or nullopt.
[[nodiscard]] std::optional<Range<PhysAddr>> mem_range(std::string_view line);
// The first "[0xA-0xB]".
[[nodiscard]] std::optional<Range<PhysAddr>> bracket_range(std::string_view line);

// A range of bytes as the whole pages inside it.
[[nodiscard]] Range<Pfn> whole_pages(Range<PhysAddr> range);

}  // namespace quire::like
