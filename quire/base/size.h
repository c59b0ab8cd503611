// Sizes as people write them: "64M", "1.5G", "4096", "0x10000", "128MiB". Suffixes are powers of 1024, as Linux reads them
// (memparse): K, M, G, T, P, E, with or without "B" or "iB", in either case.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quire/base/user_error.h"

namespace quire {

// Bytes. The error is a sentence that names the text, what is wrong with it and what would do.
[[nodiscard]] Checked<std::uint64_t> parse_size(std::string_view text);

// The shortest exact form that parse_size reads back: "64M", "1536K", "4097".
[[nodiscard]] std::string format_size(std::uint64_t bytes);

}  // namespace quire
