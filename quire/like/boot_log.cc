#include "quire/like/boot_log.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "quire/like/lines.h"
#include "quire/phys/range_set.h"

namespace quire::like {

namespace {

constexpr std::string_view kVersion = "Linux version ";

bool starts_with_digit(std::string_view text) {
  return !text.empty() && std::isdigit(static_cast<unsigned char>(text.front())) != 0;
}

// "[    0.000000] ", "[Sun Nov 22 16:00:00 2026] " or "[    T0] ", but not "[mem 0x…".
bool strip_time(std::string_view& line) {
  if (!line.starts_with('[') || line.starts_with("[mem ")) return false;
  const std::size_t close = line.find(']');
  if (close == std::string_view::npos || close > 40) return false;
  const std::string_view inside = line.substr(1, close - 1);
  const bool seconds = inside.find_first_not_of(" 0123456789.TC") == std::string_view::npos;
  const bool date = inside.find(':') != std::string_view::npos && inside.find("0x") == std::string_view::npos;
  if (!seconds && !date) return false;
  line.remove_prefix(close + 1);
  if (line.starts_with(' ')) line.remove_prefix(1);
  return true;
}

// "<6>", and dmesg -x's "kern  :info  : ".
bool strip_level(std::string_view& line) {
  if (line.starts_with('<')) {
    const std::size_t close = line.find('>');
    if (close != std::string_view::npos && close <= 4) {
      line.remove_prefix(close + 1);
      return true;
    }
  }
  if (line.starts_with("kern ")) {
    const std::size_t second = line.find(": ", line.find(':') + 1);
    if (second != std::string_view::npos && second < 20) {
      line.remove_prefix(second + 2);
      return true;
    }
  }
  return false;
}

// "Nov 22 16:00:00 host kernel: ", and journalctl's "host kernel: " behind the seconds.
bool strip_syslog(std::string_view& line) {
  constexpr std::string_view kProgram = " kernel: ";
  const std::size_t at = line.find(kProgram);
  if (at == std::string_view::npos || at > 100) return false;
  const auto words = words_of(line.substr(0, at));
  const bool dated = words.size() > 1 && std::ranges::any_of(words, [](std::string_view w) {
                       return starts_with_digit(w) && w.find(':') != std::string_view::npos;
                     });
  if (words.size() != 1 && !dated) return false;
  line.remove_prefix(at + kProgram.size());
  return true;
}

// What memblock=debug says, as the state that follows from it.
class MemblockReplay {
 public:
  void line(std::string_view message) {
    if (message.starts_with("MEMBLOCK configuration:")) {
      if (known_ && first_.empty()) first_ = ranges();
      state_ = phys::RangeSet();
      known_ = true;
      return;
    }
    const std::string_view text = trim(message);
    const auto range = bracket_range(text);
    if (text.find("alloc_bootmem_huge_page") != std::string_view::npos) gigantic_next_ = true;
    if (!range) return;
    if (text.starts_with("reserved[") || text.starts_with("memblock_reserve:")) {
      state_.add(*range);
      if (text.find("efi_reserve_boot_services") != std::string_view::npos) efi.push_back(*range);
      if (gigantic_next_) gigantic.push_back(*range);
      gigantic_next_ = false;
    } else if (text.starts_with("memblock_free:") || text.starts_with("memblock_phys_free:") ||
               text.starts_with("memblock_free_late:") || text.starts_with("__memblock_free_late:")) {
      state_.remove(*range);
    }
  }
  std::vector<Range<PhysAddr>> efi, gigantic;

  [[nodiscard]] bool known() const { return known_; }
  [[nodiscard]] const std::vector<Range<PhysAddr>>& ranges() const { return state_.ranges(); }
  [[nodiscard]] std::vector<Range<PhysAddr>> first() const { return first_.empty() && known_ ? ranges() : first_; }

 private:
  phys::RangeSet state_;
  bool known_ = false;
  bool gigantic_next_ = false;
  std::vector<Range<PhysAddr>> first_;
};

std::optional<MemoryLine> memory_line(std::string_view message) {
  const auto kib_before = [message](std::string_view name) -> std::uint64_t {
    const std::size_t at = message.find(name);
    if (at == std::string_view::npos) return 0;
    const std::size_t begin = message.find_last_not_of("0123456789", at - 1);
    return decimal(message.substr(begin + 1, at - begin - 1)).value_or(0);
  };
  const auto total = number_after(message, "K/");
  if (!total) return std::nullopt;
  return MemoryLine{*total, kib_before("K kernel code"), kib_before("K rodata"), kib_before("K reserved")};
}

// Bytes in huge pages that boot set aside, of a size that the buddy does not have.
std::uint64_t gigantic_bytes(std::string_view message) {
  const auto pages = number_after(message, "pre-allocated ");
  const auto gib = number_after(message, "registered ");
  if (!pages || !gib || message.find(" GiB page size") == std::string_view::npos) return 0;
  return *pages * *gib * kGiB;
}

std::optional<FreedMemory> freed_line(std::string_view message) {
  if (message.starts_with("efi: ")) message.remove_prefix(5);
  constexpr std::string_view kOpening = "Freeing ";
  const std::size_t memory = message.find(" memory: ");
  if (!message.starts_with(kOpening) || memory == std::string_view::npos || memory < kOpening.size()) return std::nullopt;
  const auto kib = number_after(message, " memory: ");
  if (!kib) return std::nullopt;
  return FreedMemory{std::string(message.substr(kOpening.size(), memory - kOpening.size())), *kib};
}

// Lines that say how memory is laid out, and that a kernel of the same memory prints the same.
bool is_layout(std::string_view message) {
  constexpr std::array<std::string_view, 5> kOpenings = {"Initmem setup node ", "On node ", "Fallback order", "Built ",
                                                         "Policy zone: "};
  return std::ranges::any_of(kOpenings, [&](std::string_view o) { return message.starts_with(o); });
}

class Reader {
 public:
  explicit Reader(BootLog& log) : log_(log) {}

  void line(std::string_view message) {
    if (message.starts_with(kVersion)) {
      log_.version = message.substr(kVersion.size());
      log_.from_the_start = true;
    } else if (message.starts_with("Command line: ")) {
      log_.cmdline = std::string(message.substr(14));
    } else if (message.starts_with("BIOS-e820: ") || message.starts_with("e820: ")) {
      map_line(message);
    } else if (!sections(message)) {
      facts(message);
    }
    if (!log_.memory || message.find("free_late:") != std::string_view::npos) memblock_.line(message);
  }
  void finish() {
    if (!memblock_.known()) return;
    log_.reserved_first = memblock_.first();
    log_.efi_boot_services = std::move(memblock_.efi);
    log_.gigantic_pages = std::move(memblock_.gigantic);
    if (log_.dropped == 0 && log_.memory) log_.reserved = memblock_.ranges();
  }

 private:
  void map_line(std::string_view message) {
    const auto range = mem_range(message);
    if (!range) return;
    if (message.starts_with("BIOS-e820: ")) {
      log_.firmware_map.push_back({*range, std::string(trim(message.substr(message.find(']') + 1)))});
      return;
    }
    if (message.starts_with("e820: update ") && message.ends_with("usable ==> reserved")) log_.reserved_ram.push_back(*range);
    if (message.starts_with("e820: remove ") && message.ends_with("] usable")) log_.removed_ram.push_back(*range);
  }

  // The indented lines under a heading.
  bool sections(std::string_view message) {
    if (message.starts_with("Zone ranges:") || message.starts_with("Movable zone start") ||
        message.starts_with("Early memory node ranges")) {
      section_ = message.front();
      log_.layout.emplace_back(message);
      return true;
    }
    if (!message.starts_with("  ")) {
      section_ = '\0';
      return false;
    }
    if (section_ == '\0') return false;
    log_.layout.emplace_back(message);
    if (section_ == 'E') node_range(message);
    return true;
  }
  void node_range(std::string_view message) {
    const auto range = mem_range(message);
    const std::string_view text = trim(message);
    const std::size_t colon = text.find(':');
    if (!range || !text.starts_with("node") || colon == std::string_view::npos) return;
    const auto nid = decimal(trim(text.substr(4, colon - 4)));
    if (nid) log_.node_ranges.push_back({static_cast<unsigned>(*nid), *range});
  }

  void facts(std::string_view message) {
    if (is_layout(message)) log_.layout.emplace_back(message);
    if (message.starts_with("Built ")) log_.total_pages = number_after(message, "Total pages: ");
    if (message.starts_with("HugeTLB: registered ")) log_.gigantic_bytes += gigantic_bytes(message);
    if (message.starts_with("ACPI: SRAT: Node ")) {
      const auto nid = number_after(message, "Node ");
      const auto range = mem_range(message);
      if (nid && range) log_.srat.push_back({static_cast<unsigned>(*nid), *range});
    } else if (message.starts_with("SRAT: PXM ")) {
      if (const auto nid = number_after(message, "-> Node ")) log_.srat_cpus.push_back(static_cast<unsigned>(*nid));
    } else if (message.find("Brought up ") != std::string_view::npos) {
      const std::size_t comma = message.find(", ");
      if (comma != std::string_view::npos) {
        if (const auto cpus = number_after(message.substr(comma), ", ")) log_.cpus = static_cast<unsigned>(*cpus);
      }
    } else if (message.starts_with("RAMDISK: ") || message.starts_with("Allocated new RAMDISK: ")) {
      if (const auto range = mem_range(message)) log_.ramdisk = range;
    } else if (message.starts_with("Memory: ")) {
      log_.memory = memory_line(message);
    } else if (auto freed = freed_line(message)) {
      log_.freed.push_back(std::move(*freed));
    } else if (message.find("printk messages dropped") != std::string_view::npos) {
      ++log_.dropped;
    }
  }

  BootLog& log_;
  MemblockReplay memblock_;
  char section_ = '\0';
};

}  // namespace

std::string_view log_message(std::string_view line) {
  // Marks come in any order, each at most once or twice: journals repeat the kernel's own seconds.
  for (int i = 0; i < 4; ++i) {
    if (!strip_level(line) && !strip_time(line) && !strip_syslog(line)) break;
  }
  return line;
}

BootLog parse_boot_log(std::string_view text) {
  std::vector<std::string_view> messages;
  unsigned boots = 0;
  for (const std::string_view line : lines_of(text)) {
    const std::string_view message = log_message(line);
    if (message.starts_with(kVersion)) {
      ++boots;
      messages.clear();
    }
    messages.push_back(message);
  }
  BootLog log;
  log.boots = boots;
  Reader reader(log);
  for (const std::string_view message : messages) reader.line(message);
  reader.finish();
  return log;
}

}  // namespace quire::like
