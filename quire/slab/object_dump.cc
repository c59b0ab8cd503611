#include "quire/slab/object_dump.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "quire/slab/call_site.h"
#include "quire/slab/slab_system.h"

namespace quire::slab::object_debug {

namespace {

constexpr std::uint64_t kPageOffset = 0xffff'8880'0000'0000;  // the direct map of x86-64 without KASLR
constexpr std::int64_t kRow = 16;
constexpr std::int64_t kRowsAround = 2;  // shown before and behind the bytes that are wrong
constexpr std::int64_t kMaxRows = 16;

char printable(std::byte b) {
  const auto c = std::to_integer<unsigned char>(b);
  return c >= 0x20 && c < 0x7f ? static_cast<char>(c) : '.';
}

// What a byte at this distance from an object's start is.
std::string_view region(const SlotGeometry& g, std::int64_t offset) {
  if (offset < 0) return "left red zone";
  const auto at = static_cast<std::size_t>(offset);
  if (at < g.object_size) return "object";
  if (at < g.inuse) return g.left_red_zone != 0 ? "right red zone" : "padding";
  if (g.free_pointer >= g.inuse && at < g.free_pointer + sizeof(void*)) return "free pointer";
  if (g.tracks != 0 && at < g.tracks + 2 * kTrackSize) return "owners";
  return at < g.size - g.left_red_zone ? "padding" : "behind the object";
}

// Bytes that are addresses of the host: they would make a report differ from one run to the next.
bool is_private(std::string_view region) { return region == "owners" || region == "free pointer"; }

// Rows of 16 bytes from the object's start on, each with what it is; under a row with wrong bytes what they should have been.
// Nothing beyond the object's slot is shown, but for damage behind the slab's last object.
class Dump {
 public:
  Dump(const KmemCacheBase& cache, const ObjectPlace& place, const Damage* damage)
      : cache_(cache), place_(place), damage_(damage) {
    const SlabGeometry& g = cache.geometry();
    begin_ = -static_cast<std::int64_t>(g.left_red_zone);
    end_ = static_cast<std::int64_t>(g.size) + begin_;
    if (damage == nullptr || damage->from < end_) return;
    begin_ = damage->from;
    end_ = damage->to;
  }

  [[nodiscard]] std::string text() const {
    const std::int64_t from = damage_ != nullptr ? damage_->from : 0;
    const std::int64_t to = damage_ != nullptr ? damage_->to : static_cast<std::int64_t>(cache_.geometry().inuse);
    const std::int64_t first = std::max(row_of(from) - kRowsAround * kRow, row_of(begin_));
    const std::int64_t last = std::min({row_of(to - 1) + kRowsAround * kRow, row_of(end_ - 1), first + (kMaxRows - 1) * kRow});
    std::string text = "  bytes:\n";
    for (std::int64_t row = first; row <= last; row += kRow) add_row(text, row);
    if (to > last + kRow) text += fmt::format("    … and {} bytes more\n", to - last - kRow);
    return text;
  }

 private:
  static std::int64_t row_of(std::int64_t offset) { return (offset >= 0 ? offset : offset - kRow + 1) / kRow * kRow; }
  [[nodiscard]] bool wrong(std::int64_t offset) const {
    return damage_ != nullptr && offset >= damage_->from && offset < damage_->to && place_.object[offset] != damage_->value;
  }

  void add_row(std::string& text, std::int64_t row) const {
    std::string hex;
    std::string right;
    std::string chars;
    std::string what;
    bool any_wrong = false;
    for (std::int64_t i = row; i < row + kRow; ++i) {
      const bool shown = i >= begin_ && i < end_;
      const std::string_view part = shown ? region(cache_.geometry(), i) : "";
      const bool hidden = !shown || is_private(part);
      hex += !shown ? "   " : hidden ? " --" : fmt::format(" {:02x}", std::to_integer<unsigned>(place_.object[i]));
      chars += hidden ? ' ' : printable(place_.object[i]);
      const bool bad = shown && wrong(i);
      right += bad ? fmt::format(" {:02x}", std::to_integer<unsigned>(damage_->value)) : " ..";
      any_wrong = any_wrong || bad;
      if (!what.ends_with(part)) what += fmt::format("{}{}", what.empty() ? "" : ", ", part);
    }
    text += fmt::format("    {:#x}:{}  |{}|  {}\n", machine_address(cache_, place_.object) + static_cast<std::uint64_t>(row),
                        hex, chars, what);
    if (any_wrong) text += fmt::format("    {:>18} {}  should have been\n", "", right);
  }

  const KmemCacheBase& cache_;
  const ObjectPlace& place_;
  const Damage* damage_;
  std::int64_t begin_ = 0;
  std::int64_t end_ = 0;
};

std::string task_name(const sim::Scheduler& scheduler, std::uint32_t id) {
  if (id == 0 || id > scheduler.tasks().size()) return "boot";
  return fmt::format("task {} ({})", id, scheduler.tasks()[id - 1]->name());
}

std::string tell(const KmemCacheBase& cache, const Track& track, const std::string& function) {
  return fmt::format("{}, cpu {}, {}, at {}.{:09} s", function, track.cpu, task_name(cache.system().scheduler(), track.task),
                     track.when / sim::kSecond, track.when % sim::kSecond);
}

void add_tracks(const KmemCacheBase& cache, const ObjectPlace& place, ObjectReport& r) {
  if (!any(cache.flags(), SlabFlags::kStoreUser)) return;
  const auto add = [&](TrackKind kind, std::string_view what, std::string& by) {
    const Track& track = track_of(cache, place.object, kind);
    if (track.address == nullptr) return;
    by = call_site_name(track.address, track.parent);
    r.text += fmt::format("  {} by {}\n", what, tell(cache, track, by));
  };
  add(TrackKind::kAlloc, "allocated", r.allocated_by);
  add(TrackKind::kFree, "freed", r.freed_by);
}

std::string where(const KmemCacheBase& cache, const ObjectPlace& place) {
  const std::string_view state = place.state == ObjectPlace::State::kFree ? "free" : "in use";
  return fmt::format("  object {:#x} of {} bytes, {}, number {} in the slab at {:#x}\n", machine_address(cache, place.object),
                     cache.object_size(), state, place.index, machine_address(cache, place.slab));
}

std::string freed_address(const KmemCacheBase& cache, const void* freed) {
  const std::uint64_t address = machine_address(cache, freed);
  return address == 0 ? "an address that is not in the machine's RAM" : fmt::format("{:#x}", address);
}

}  // namespace

std::uint64_t machine_address(const KmemCacheBase& cache, const void* p) {
  const phys::Arena& arena = cache.system().phys().arena();
  return arena.contains(p) ? kPageOffset + arena.to_phys(p).value() : 0;
}

std::size_t slab_bytes(const KmemCacheBase& cache, const std::byte* slab) {
  return phys::compound_order(*cache.system().head_page(slab)).bytes();
}

void report(const KmemCacheBase& cache, const ObjectPlace& place, ObjectProblem problem, const Occasion& occasion,
            const Damage* damage) {
  ObjectReports& reports = cache.system().object_reports();
  if (!reports.wanted()) return reports.count_only(problem);
  const bool has_object = place.object != nullptr;
  ObjectReport r{.problem = problem, .cache = std::string(cache.name())};
  if (has_object) r.address = machine_address(cache, place.object);
  if (damage != nullptr) {
    r.offset = damage->from;
    r.length = static_cast<std::size_t>(damage->to - damage->from);
  } else if (has_object && occasion.freed != nullptr) {
    r.offset = static_cast<const std::byte*>(occasion.freed) - place.object;
  }
  r.text = fmt::format("BUG in cache {}: {}\n", cache.name(), object_problem_name(problem));
  if (has_object) r.text += where(cache, place);
  if (damage != nullptr) {
    r.text += fmt::format("  wrong: {} byte{} at {:+} from the object's start, should be {:#04x}\n", r.length,
                          r.length == 1 ? "" : "s", r.offset, std::to_integer<unsigned>(damage->value));
  } else if (occasion.freed != nullptr) {
    r.text += fmt::format("  freed: {}", freed_address(cache, occasion.freed));
    if (has_object && r.offset != 0) r.text += fmt::format(", {:+} from the object's start", r.offset);
    if (!occasion.freed_to.empty()) r.text += fmt::format(", to cache {}", occasion.freed_to);
    r.text += "\n";
  }
  if (occasion.caller != nullptr) r.found_by = call_site_name(occasion.caller, occasion.parent);
  r.text += occasion.caller != nullptr ? fmt::format("  found at {} by {}\n", occasion.what, r.found_by)
                                       : fmt::format("  found at {}\n", occasion.what);
  if (has_object) {
    add_tracks(cache, place, r);
    r.text += Dump(cache, place, damage).text();
  }
  if (!occasion.done.empty()) r.text += fmt::format("  done: {}\n", occasion.done);
  reports.add(std::move(r));
}

}  // namespace quire::slab::object_debug
