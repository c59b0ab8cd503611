#include "quire/phys/kernel_parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <limits>

#include "quire/base/command_words.h"

namespace quire::phys {

namespace {

constexpr PhysAddr kEndOfAll{std::numeric_limits<std::uint64_t>::max()};
constexpr std::uint64_t kEndOfAddresses = 64 * kTiB;  // 46 bits

// simple_strtoull with base 0; `fits` says whether 64 bits hold the number.
std::uint64_t number(std::string_view& text, bool& fits) {
  int base = 10;
  std::string_view digits = text;
  if (digits.size() > 2 && digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X') && std::isxdigit(digits[2]) != 0) {
    base = 16;
    digits.remove_prefix(2);
  } else if (!digits.empty() && digits[0] == '0') {
    base = 8;
  }
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error == std::errc::invalid_argument) return 0;
  fits = error != std::errc::result_out_of_range;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

std::uint64_t number(std::string_view& text) {
  bool fits = true;
  return number(text, fits);
}

// memparse() that says whether 64 bits hold the amount.
std::uint64_t amount(std::string_view& text, bool& fits) {
  constexpr std::string_view kSuffixes = "KMGTPE";
  const std::size_t before = text.size();
  const std::uint64_t value = number(text, fits);
  if (text.size() == before || text.empty()) return value;
  const auto suffix = kSuffixes.find(static_cast<char>(std::toupper(text.front())));
  if (suffix == std::string_view::npos) return value;
  text.remove_prefix(1);
  const std::size_t shift = 10 * (suffix + 1);
  fits = fits && value <= std::numeric_limits<std::uint64_t>::max() >> shift;
  return value << shift;
}

// What the slab allocator and vmalloc take from the command line, when they are set up.
constexpr std::string_view kOtherFloors[] = {"slub_debug",     "slab_nomerge",   "slub_nomerge",
                                             "slab_merge",     "slub_merge",     "slub_min_objects",
                                             "slub_min_order", "slub_max_order", "nohugevmalloc"};

BootStatus malformed(std::string_view word, std::string_view why) {
  return boot_error(fmt::format("kernel parameter '{}': {}", word, why));
}

BootStatus too_large(std::string_view word) { return malformed(word, "a number in it is 16 EiB or more; give a smaller one"); }

// What a range of memmap= has to be: not empty, and within the address space.
BootStatus check_range(std::string_view word, std::uint64_t begin, std::uint64_t bytes) {
  if (bytes == 0) return malformed(word, "the range has a size of 0; give it at least a page, as in 4K");
  if (bytes > kEndOfAddresses || begin > kEndOfAddresses - bytes) {
    return malformed(word, "the range reaches beyond the address space of 46 bits; let it end at 64T or below");
  }
  return {};
}

// Persistent memory has struct Pages of its own, so no part of a page can belong to it.
BootStatus check_persistent(std::string_view word, Range<PhysAddr> range) {
  if (range.begin.value() % kPageSize == 0 && range.end.value() % kPageSize == 0) return {};
  return malformed(word, "persistent memory is made of whole pages; give a size and a start that are multiples of 4K");
}

// "%ss-from+to": what of one type becomes another.
BootStatus convert(std::string_view word, std::uint64_t bytes, std::string_view rest, FirmwareMap& map) {
  rest.remove_prefix(1);
  bool fits = true;
  const std::uint64_t begin = amount(rest, fits);
  if (!fits) return too_large(word);
  if (BootStatus status = check_range(word, begin, bytes); !status) return status;
  const Range<PhysAddr> range{PhysAddr(begin), PhysAddr(begin + bytes)};
  const auto type = [&rest](char mark) -> E820Type {
    if (!rest.starts_with(mark)) return E820Type{};
    rest.remove_prefix(1);
    return static_cast<E820Type>(number(rest));
  };
  const E820Type from = type('-');
  const E820Type to = type('+');
  if (!rest.empty()) return malformed(word, "write memmap=SIZE%START-FROM+TO with types as numbers");
  if (from == E820Type::kPram || to == E820Type::kPram) {
    if (BootStatus status = check_persistent(word, range); !status) return status;
  }
  if (from != E820Type{} && to != E820Type{}) {
    map.update(range, from, to);
  } else if (to != E820Type{}) {
    map.add(range, to);
  } else if (from != E820Type{}) {
    map.remove(range, from);
  } else {
    map.remove(range);
  }
  return {};
}

BootStatus memmap_one(std::string_view word, std::string_view text, FirmwareMap& map) {
  constexpr std::string_view kForms =
      "write memmap=SIZE, SIZE@START (RAM), SIZE#START (ACPI), SIZE$START (reserved), "
      "SIZE!START (persistent) or exactmap";
  constexpr std::string_view kMarks = "@#$!";
  if (text == "exactmap") {
    map = FirmwareMap();
    return {};
  }
  std::string_view rest = text;
  bool fits = true;
  const std::uint64_t bytes = amount(rest, fits);
  if (rest.size() == text.size()) return malformed(word, kForms);
  if (!fits) return too_large(word);
  const char mark = rest.empty() ? '\0' : rest.front();
  if (mark == '%') return convert(word, bytes, rest, map);
  if (mark == '\0') {
    map.remove({PhysAddr(bytes), kEndOfAll}, E820Type::kRam);
    return {};
  }
  rest.remove_prefix(1);
  const std::size_t before = rest.size();
  const std::uint64_t begin = amount(rest, fits);
  if (rest.size() == before || !rest.empty() || !kMarks.contains(mark)) return malformed(word, kForms);
  if (!fits) return too_large(word);
  if (BootStatus status = check_range(word, begin, bytes); !status) return status;
  const Range<PhysAddr> range{PhysAddr(begin), PhysAddr(begin + bytes)};
  switch (mark) {
    case '@': map.add(range, E820Type::kRam); return {};
    case '#': map.add(range, E820Type::kAcpi); return {};
    case '$': map.add(range, E820Type::kReserved); return {};
    default: break;
  }
  if (BootStatus status = check_persistent(word, range); !status) return status;
  map.add(range, E820Type::kPram);
  return {};
}

BootStatus core(std::string_view word, std::string_view text, CoreRequest& request) {
  std::string_view rest = text;
  const std::uint64_t value = number(rest);
  if (rest == "%" && rest.size() < text.size()) {
    if (value > 100) return malformed(word, "more than 100 percent of the memory");
    request = {0, static_cast<unsigned>(value)};
    return {};
  }
  rest = text;
  bool fits = true;
  const std::uint64_t bytes = amount(rest, fits);
  if (!rest.empty() || text.empty()) return malformed(word, "write a size, as in 512M, or a share, as in 30%");
  if (!fits) return too_large(word);
  request = {bytes >> kPageShift, 0};
  return {};
}

BootStatus cma_area(std::string_view word, std::string_view text, CmaRequest& request) {
  std::string_view rest = text;
  bool fits = true;
  request = {.name = "reserved", .bytes = amount(rest, fits)};
  if (rest.starts_with('@')) {
    rest.remove_prefix(1);
    bool base_fits = true;
    request.base = PhysAddr(amount(rest, base_fits));
    fits = fits && base_fits && request.bytes <= kEndOfAll - request.base;
    request.limit = request.base + request.bytes;
    if (rest.starts_with('-')) {
      rest.remove_prefix(1);
      request.limit = PhysAddr(memparse(rest));
    }
    if (request.base + request.bytes == request.limit) request.place = CmaRequest::Place::kFixed;
  }
  if (!rest.empty() || text.empty()) return malformed(word, "write cma=SIZE, cma=SIZE@START or cma=SIZE@START-END");
  if (!fits) return too_large(word);
  return {};
}

}  // namespace

std::uint64_t memparse(std::string_view& text) {
  bool fits = true;
  return amount(text, fits);
}

BootResult<KernelParameters> KernelParameters::parse(std::string_view cmdline, FirmwareMap& map, Arch arch) {
  KernelParameters parameters;
  for (auto [word, name, value] : command_words(cmdline)) {
    BootStatus status;
    if (name == "mem") {
      std::string_view rest = value;
      bool fits = true;
      const std::uint64_t bytes = amount(rest, fits);
      if (!fits) {
        status = too_large(word);
      } else if (bytes == 0 || !rest.empty()) {
        status = malformed(word, "write how much memory to use, as in mem=512M");
      } else {
        map.remove({PhysAddr(bytes), kEndOfAll}, E820Type::kRam);
        parameters.map = Map::kUserDefined;
      }
    } else if (name == "memmap") {
      while (status && !value.empty()) {
        const std::string_view one = value.substr(0, value.find(','));
        value.remove_prefix(std::min(value.size(), one.size() + 1));
        status = memmap_one(word, one, map);
        parameters.map = Map::kUserDefined;
      }
    } else if (name == "highmem" && arch != Arch::kX86_64) {
      std::string_view rest = value;
      parameters.highmem_pages = memparse(rest) >> kPageShift;
      if (!rest.empty() || value.empty()) status = malformed(word, "write a size, as in highmem=512M");
    } else if (name == "kernelcore") {
      status = core(word, value, parameters.kernelcore);
    } else if (name == "movablecore") {
      status = core(word, value, parameters.movablecore);
    } else if (std::ranges::find(kOtherFloors, name) != std::end(kOtherFloors)) {
      continue;
    } else if (name == "cma") {
      status = cma_area(word, value, parameters.cma);
    } else {
      parameters.unknown.emplace_back(word);
    }
    if (!status) return std::unexpected(status.error());
  }
  if (parameters.map == Map::kUserDefined) map.sanitize();
  return parameters;
}

}  // namespace quire::phys
