#include "quire/trace/lackey.h"

#include <fmt/format.h>

#include <charconv>
#include <string_view>
#include <unordered_map>

namespace quire::trace {
namespace {

constexpr std::uint64_t kLargestAccess = 1u << 20;

struct Line {
  char kind = '\0';  // I, L, S or M; '\0': a line to skip
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
};

// "I  0400d7d4,8" or " S 1ffefff7e8,8". Anything that does not begin like one of these is skipped; nullopt would hide a typo
// in one that does, so that is an error.
std::expected<Line, std::string> parse(std::string_view text) {
  if (text.size() < 2) return Line{};
  const bool instruction = text.starts_with("I ");
  const bool data = text[0] == ' ' && (text[1] == 'L' || text[1] == 'S' || text[1] == 'M') && text.size() > 2 && text[2] == ' ';
  if (!instruction && !data) return Line{};
  Line line;
  line.kind = instruction ? 'I' : text[1];
  text.remove_prefix(2);
  while (text.starts_with(' ')) text.remove_prefix(1);
  const char* const end = text.data() + text.size();
  const auto address = std::from_chars(text.data(), end, line.address, 16);
  if (address.ec != std::errc() || address.ptr == end || *address.ptr != ',') {
    return std::unexpected<std::string>("expected an address in hexadecimal and a comma");
  }
  const auto bytes = std::from_chars(address.ptr + 1, end, line.bytes, 10);
  if (bytes.ec != std::errc() || line.bytes == 0 || line.bytes > kLargestAccess) {
    return std::unexpected<std::string>("expected a size in bytes behind the comma");
  }
  if (line.address + line.bytes - 1 < line.address)
    return std::unexpected<std::string>("the access goes past the last address");
  return line;
}

// The recorder's filter, in its plainest form: the epoch in which each (page, kind) was written last.
class Importer {
 public:
  Importer(TraceWriter& writer, std::uint64_t window, LackeyStatistics& statistics)
      : task_(writer.task({1, 1})), window_(window), statistics_(statistics) {}

  Outcome take(const Line& line) {
    switch (line.kind) {
      case 'I':
        if (Outcome done = access(line, AccessKind::kExec); !done) return done;
        ++statistics_.instructions;
        return {};
      case 'L': return access(line, AccessKind::kRead);
      case 'S': return access(line, AccessKind::kWrite);
      case 'M':
        if (Outcome done = access(line, AccessKind::kRead); !done) return done;
        return access(line, AccessKind::kWrite);
      default: return {};
    }
  }

  Outcome end() {
    Record exit;
    exit.kind = RecordKind::kExit;
    exit.flags = kExitGroup;
    exit.instructions = statistics_.instructions - last_;
    return task_.write(exit);
  }

 private:
  Outcome access(const Line& line, AccessKind kind) {
    const std::uint64_t last = (line.address + line.bytes - 1) >> kPageShift;
    for (std::uint64_t page = line.address >> kPageShift; page <= last; ++page) {
      if (seen(page, kind)) continue;
      if (kind == AccessKind::kWrite) static_cast<void>(seen(page, AccessKind::kRead));
      Record record;
      record.page = page;
      record.access = kind;
      record.instructions = statistics_.instructions - last_;
      last_ = statistics_.instructions;
      ++statistics_.accesses;
      if (Outcome done = task_.write(record); !done) return done;
    }
    return {};
  }

  bool seen(std::uint64_t page, AccessKind kind) {
    if (window_ == 0) return false;
    const std::uint64_t epoch = statistics_.instructions / window_ + 1;
    std::uint64_t& last_epoch = epochs_[page << 2 | static_cast<std::uint64_t>(kind)];
    if (last_epoch == epoch) return true;
    last_epoch = epoch;
    return false;
  }

  static constexpr unsigned kPageShift = 12;
  TaskWriter& task_;
  std::uint64_t window_;
  LackeyStatistics& statistics_;
  std::uint64_t last_ = 0;
  std::unordered_map<std::uint64_t, std::uint64_t> epochs_;
};

}  // namespace

std::expected<LackeyStatistics, std::string> import_lackey(std::istream& text, const std::string& name, TraceWriter& writer,
                                                           std::uint64_t window) {
  LackeyStatistics statistics;
  Importer importer(writer, window, statistics);
  std::string line_text;
  while (std::getline(text, line_text)) {
    ++statistics.lines;
    const auto line = parse(line_text);
    if (!line)
      return std::unexpected(fmt::format("{}:{}: {}: \"{}\"", name, statistics.lines, line.error(), line_text.substr(0, 60)));
    if (Outcome done = importer.take(*line); !done) return std::unexpected(done.error());
  }
  if (statistics.accesses == 0) {
    return std::unexpected(
        fmt::format("{} has no line of lackey's: make it with `valgrind --tool=lackey --trace-mem=yes`", name));
  }
  if (Outcome done = importer.end(); !done) return std::unexpected(done.error());
  return statistics;
}

}  // namespace quire::trace
