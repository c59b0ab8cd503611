#include "quire/slab/object_debug.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "quire/slab/kmem_cache_base.h"
#include "quire/slab/object_dump.h"
#include "quire/slab/slab_system.h"

namespace quire::slab::object_debug {

namespace {

using State = ObjectPlace::State;

enum class Use : std::uint8_t { kFree, kAllocated };

bool poisons_object(const KmemCacheBase& cache) {
  return any(cache.flags(), SlabFlags::kPoison) && !any(cache.flags(), SlabFlags::kTypesafeByRcu) && cache.ctor() == nullptr;
}
bool has(const KmemCacheBase& cache, SlabFlags flag) { return any(cache.flags(), flag); }
std::byte red_zone(Use use) { return use == Use::kFree ? kRedInactive : kRedActive; }

// The pieces around an object that the allocator watches, as offsets from it.
struct Zone {
  std::int64_t from;
  std::int64_t to;
};
Zone left_zone(const SlotGeometry& g) { return {-static_cast<std::int64_t>(g.left_red_zone), 0}; }
Zone right_zone(const SlotGeometry& g) {
  return {static_cast<std::int64_t>(g.object_size), static_cast<std::int64_t>(g.inuse)};
}
Zone padding(const SlotGeometry& g) {
  std::size_t from = g.inuse;
  if (g.free_pointer >= g.inuse) from = g.free_pointer + sizeof(void*);
  if (g.tracks != 0) from = g.tracks + 2 * kTrackSize;
  return {static_cast<std::int64_t>(from), static_cast<std::int64_t>(g.size - g.left_red_zone)};
}

void fill(void* object, Zone zone, std::byte value) {
  if (zone.from < zone.to) {
    std::memset(static_cast<std::byte*>(object) + zone.from, std::to_integer<int>(value),
                static_cast<std::size_t>(zone.to - zone.from));
  }
}

// Red zones and poison of an object that is (or is about to be) free or allocated.
void init_object(const KmemCacheBase& cache, void* object, Use use) {
  const SlabGeometry& g = cache.geometry();
  if (has(cache, SlabFlags::kRedZone)) {
    fill(object, left_zone(g), red_zone(use));
    fill(object, right_zone(g), red_zone(use));
  }
  if (poisons_object(cache)) {
    fill(object, {0, static_cast<std::int64_t>(g.object_size) - 1}, kPoisonFree);
    static_cast<std::byte*>(object)[g.object_size - 1] = kPoisonEnd;
  }
}

// An object that is marked as free already: one on its way to or from its slab, which still counts as in use there.
bool marked_free(const KmemCacheBase& cache, const ObjectPlace& place) {
  if (place.state == State::kFree) return true;
  if (!has(cache, SlabFlags::kRedZone)) return false;
  const Zone left = left_zone(cache.geometry());
  const Zone right = right_zone(cache.geometry());
  const auto inactive = [](std::byte b) { return b == kRedInactive; };
  return std::all_of(place.object + left.from, place.object + left.to, inactive) &&
         std::all_of(place.object + right.from, place.object + right.to, inactive);
}

// The return address of the frame that `caller` returns into. Everything here keeps frame pointers.
const void* caller_of(const void* caller) {
  struct Frame {
    const Frame* up;
    const void* return_address;
  };
  const auto* frame = static_cast<const Frame*>(__builtin_frame_address(0));
  for (int depth = 0; depth < 12; ++depth) {
    const Frame* up = frame->up;
    if (frame->return_address == caller) return up > frame ? up->return_address : nullptr;
    if (up <= frame) break;
    frame = up;
  }
  return nullptr;
}

void set_track(const KmemCacheBase& cache, void* object, TrackKind kind, const void* caller) {
  if (!has(cache, SlabFlags::kStoreUser)) return;
  const sim::Scheduler& scheduler = cache.system().scheduler();
  track_of(cache, object, kind) = {.address = caller,
                                   .parent = caller_of(caller),
                                   .when = scheduler.now(),
                                   .task = scheduler.context().id(),
                                   .cpu = scheduler.cpu()};
}

void trace(const KmemCacheBase& cache, const char* what, const void* object) {
  if (!has(cache, SlabFlags::kTrace) || !cache.system().object_reports().tracing()) return;
  cache.system().object_reports().trace(fmt::format("TRACE {} {} {:#x}", cache.name(), what, machine_address(cache, object)));
}

// Compares a zone with what should be in it, reports the first difference and puts all of it right.
class ZoneCheck {
 public:
  ZoneCheck(const KmemCacheBase& cache, const ObjectPlace& place, const Occasion& occasion)
      : cache_(cache), place_(place), occasion_(occasion) {}

  void expect(Zone zone, std::byte value, ObjectProblem problem) {
    if (zone.from >= zone.to) return;
    const std::span bytes(place_.object + zone.from, static_cast<std::size_t>(zone.to - zone.from));
    const auto wrong = [value](std::byte b) { return b != value; };
    const auto first = std::ranges::find_if(bytes, wrong);
    if (first == bytes.end()) return;
    auto last = bytes.end();
    while (!wrong(last[-1])) --last;
    good_ = false;
    const Damage damage{.from = first - bytes.begin() + zone.from, .to = last - bytes.begin() + zone.from, .value = value};
    report(cache_, place_, problem, occasion_, &damage);
    std::ranges::fill(first, last, value);
  }
  [[nodiscard]] bool good() const { return good_; }

 private:
  const KmemCacheBase& cache_;
  const ObjectPlace& place_;
  Occasion occasion_;
  bool good_ = true;
};

// Everything around (and, when it is free, in) an object; false when some of it was wrong.
bool check_bytes(const KmemCacheBase& cache, const ObjectPlace& place, Use use, const Occasion& occasion) {
  const SlabGeometry& g = cache.geometry();
  ZoneCheck check(cache, place, occasion);
  if (has(cache, SlabFlags::kRedZone)) {
    check.expect(left_zone(g), red_zone(use), ObjectProblem::kLeftRedZone);
    check.expect(right_zone(g), red_zone(use), ObjectProblem::kRightRedZone);
  }
  if (has(cache, SlabFlags::kPoison)) {
    if (!has(cache, SlabFlags::kRedZone)) check.expect(right_zone(g), kPoisonInUse, ObjectProblem::kPadding);
    if (use == Use::kFree && poisons_object(cache)) {
      const auto end = static_cast<std::int64_t>(g.object_size);
      check.expect({0, end - 1}, kPoisonFree, ObjectProblem::kUseAfterFree);
      check.expect({end - 1, end}, kPoisonEnd, ObjectProblem::kUseAfterFree);
    }
    check.expect(padding(g), kPoisonInUse, ObjectProblem::kPadding);
  }
  return check.good();
}

// A free that may not be: nothing happens to the object.
KmemCacheBase* refuse(const KmemCacheBase& cache, const ObjectPlace& place, ObjectProblem problem, const void* object,
                      const void* caller) {
  report(cache, place, problem,
         {.what = "free", .caller = caller, .parent = caller_of(caller), .freed = object, .done = "nothing is freed"});
  return nullptr;
}

// An address that is freed to a cache that it does not belong to. The cache that it does belong to gets it.
KmemCacheBase* free_elsewhere(KmemCacheBase& cache, void* object, const void* caller) {
  KmemCacheBase* owner = cache.system().virt_to_cache(object);
  if (owner == nullptr || owner == &cache) {
    return refuse(cache, {}, owner == nullptr ? ObjectProblem::kNoObject : ObjectProblem::kInvalidPointer, object, caller);
  }
  const ObjectPlace place = owner->find(object);
  if (place.state == State::kFree) return refuse(*owner, place, ObjectProblem::kDoubleFree, object, caller);
  if (place.state != State::kAllocated) return refuse(*owner, place, ObjectProblem::kInvalidPointer, object, caller);
  report(*owner, place, ObjectProblem::kWrongCache,
         {.what = "free",
          .caller = caller,
          .parent = caller_of(caller),
          .freed = object,
          .freed_to = cache.name(),
          .done = "it goes back to its own cache"});
  return owner->debugged() ? free_checks(*owner, object, caller) : owner;
}

}  // namespace

void setup_slab(const KmemCacheBase& cache, std::byte* slab) {
  if (!has(cache, SlabFlags::kPoison)) return;
  std::memset(slab, std::to_integer<int>(kPoisonInUse), slab_bytes(cache, slab));
}

void setup_object(const KmemCacheBase& cache, void* object) {
  init_object(cache, object, Use::kFree);
  if (!has(cache, SlabFlags::kStoreUser)) return;
  track_of(cache, object, TrackKind::kAlloc) = {};
  track_of(cache, object, TrackKind::kFree) = {};
}

Verdict alloc_checks(KmemCacheBase& cache, void* object, const void* caller) {
  Verdict verdict = Verdict::kGood;
  if (has(cache, SlabFlags::kConsistencyChecks)) {
    const ObjectPlace place = cache.find(object);
    const Occasion occasion{.what = "alloc",
                            .caller = caller,
                            .parent = caller_of(caller),
                            .done = "the bytes are put right, and the object is used no more"};
    if (!check_bytes(cache, place, Use::kFree, occasion)) verdict = Verdict::kBad;
  }
  if (verdict == Verdict::kGood) {
    set_track(cache, object, TrackKind::kAlloc, caller);
    trace(cache, "alloc", object);
  }
  init_object(cache, object, Use::kAllocated);
  return verdict;
}

KmemCacheBase* free_checks(KmemCacheBase& cache, void* object, const void* caller) {
  const ObjectPlace place = cache.find(object);
  if (!has(cache, SlabFlags::kConsistencyChecks)) {
    if (place.state == State::kFree) cache.report_double_free(object);
    if (place.state != State::kAllocated) cache.report_foreign(object);
  } else {
    if (place.state == State::kNone) return free_elsewhere(cache, object, caller);
    if (place.state != State::kAllocated && place.state != State::kFree) {
      return refuse(cache, place, ObjectProblem::kInvalidPointer, object, caller);
    }
    if (marked_free(cache, place)) return refuse(cache, place, ObjectProblem::kDoubleFree, object, caller);
    const Occasion occasion{.what = "free",
                            .caller = caller,
                            .parent = caller_of(caller),
                            .freed = object,
                            .done = "the bytes are put right, and the object is not freed"};
    if (!check_bytes(cache, place, Use::kAllocated, occasion)) return nullptr;
  }
  set_track(cache, object, TrackKind::kFree, caller);
  trace(cache, "free", object);
  init_object(cache, object, Use::kFree);
  return &cache;
}

void check_slab(const KmemCacheBase& cache, const ObjectPlace& first) {
  if (!has(cache, SlabFlags::kPoison)) return;
  const SlabGeometry& g = cache.geometry();
  const std::byte* end = first.slab + slab_bytes(cache, first.slab);
  const std::byte* slots = first.object - g.left_red_zone;
  const auto num = std::min<std::size_t>(g.num, static_cast<std::size_t>(end - slots) / g.size);
  ZoneCheck check(cache, first, {.what = "validate", .done = "the bytes are put right"});
  check.expect({static_cast<std::int64_t>(num * g.size - g.left_red_zone), end - first.object}, kPoisonInUse,
               ObjectProblem::kSlabPadding);
}

void check_object(const KmemCacheBase& cache, const ObjectPlace& place) {
  const Use use = marked_free(cache, place) ? Use::kFree : Use::kAllocated;
  check_bytes(cache, place, use, {.what = "validate", .done = "the bytes are put right"});
}

}  // namespace quire::slab::object_debug
