// Acts of a task on other processes' plots, and on the files that several of them map.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "plot_actor.h"
#include "quire/file/iov_iter.h"

namespace quire::kernel::test {

using arch::Access;
using file::Seals;
using vm::Advice;
using vm::UserIovec;

namespace {

constexpr std::byte kUntouched{0xa5};
constexpr Seals kNoWrites = Seals::kWrite | Seals::kFutureWrite;

// What a call that reads pages may find in each of them while it is under way.
class Watch {
 public:
  explicit Watch(std::vector<std::shared_ptr<Content>> contents) : contents_(std::move(contents)), slots_(contents_.size()) {
    for (std::size_t i = 0; i < contents_.size(); ++i) {
      slots_[i] = contents_[i]->may;
      contents_[i]->watches.push_back(&slots_[i]);
      if (!contents_[i]->may_vanish()) continue;
      for (Possible& slot : slots_[i]) slot.insert(0);
    }
  }
  ~Watch() {
    for (std::size_t i = 0; i < contents_.size(); ++i) std::erase(contents_[i]->watches, &slots_[i]);
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Of page i; empty: all is as it may be.
  [[nodiscard]] std::string wrong(std::size_t i, const std::byte* bytes) const {
    for (std::uint64_t at = 0; at < kPageSize; ++at) {
      const auto slot = static_cast<unsigned>(at / (kPageSize / kSlots));
      if (at == slot_offset(slot)) {
        Number number = 0;
        std::memcpy(&number, bytes + at, sizeof number);
        if (!slots_[i][slot].contains(number)) {
          return fmt::format("slot {} holds {}, which is none of {}", slot, number, fmt::join(slots_[i][slot], " "));
        }
        at += sizeof number - 1;
      } else if (bytes[at] != std::byte(0)) {
        return "bytes that nobody wrote";
      }
    }
    return {};
  }

 private:
  std::vector<std::shared_ptr<Content>> contents_;
  std::vector<Slots> slots_;
};

// Another process's memory is there, and its plot in its place, as long as a call needs them.
class Hold {
 public:
  Hold(vm::Vm& vm, Space& space, Plot& plot) : vm_(vm), mm_(space.mm()), plot_(plot) {
    vm::Vm::mmget(mm_);
    ++plot_.remote;
  }
  ~Hold() {
    --plot_.remote;
    vm_.mmput(mm_);
  }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  [[nodiscard]] vm::Mm& mm() { return mm_; }

 private:
  vm::Vm& vm_;
  vm::Mm& mm_;
  Plot& plot_;
};

constexpr std::array kHarmless{Advice::kCold, Advice::kPageOut, Advice::kPageOut, Advice::kWillNeed};

}  // namespace

bool Actor::own_advice(Plot& plot) {
  constexpr std::array kAdvices{Advice::kCold, Advice::kPageOut, Advice::kPageOut, Advice::kWillNeed, Advice::kPopulateRead};
  const auto range = range_of(plot, some_pages());
  const Advice advice = kAdvices[rng_.below(kAdvices.size())];
  static_cast<void>(vm().madvise(mm(), range.begin, range.size(), advice));  // locked, guarded or moved meanwhile
  return true;
}

bool Actor::others_advice() {
  Space* other = some_space();
  if (other == nullptr) return false;
  Plot& plot = other->plots[rng_.below(kPlots)];
  if (!plot.mapped || plot.placing) return false;
  Hold hold(vm(), *other, plot);
  const auto range = range_of(plot, some_pages());
  const std::array parts{UserIovec{range.begin, range.size()}, UserIovec{plot.base, kPageSize}};
  const bool harmful = other != &space_ && rng_.chance(1, 4);
  constexpr std::array kHarmful{Advice::kDontNeed, Advice::kFree, Advice::kGuardInstall, Advice::kWipeOnFork};
  const Advice advice = harmful ? kHarmful[rng_.below(kHarmful.size())] : kHarmless[rng_.below(kHarmless.size())];
  const auto advised = vm().process_madvise(mm(), &hold.mm(), parts, advice);
  if (harmful) {
    expect(advised ? Status{} : Status(fail(advised.error())), Errno::kInval, "harmful advice on another's memory");
  } else if (advised && *advised > range.size() + kPageSize) {
    fray_.mismatch("more was advised than asked for");
  }
  return true;
}

// How far a call that goes through pages [page, page + count) may get at the most, for certain now.
std::uint64_t Actor::sure_reach(const Plot& plot, std::uint64_t page, Access kind) const {
  if (kind == Access::kWrite && plot.read_only.surely()) return page;
  while (page < kPlotPages && !plot.pages[page].guarded.surely() && !plot.pages[page].content->beyond.surely()) ++page;
  return page;
}

bool Actor::remote_read() {
  Space* other = some_space();
  if (other == nullptr) return false;
  Plot& plot = other->plots[rng_.below(kPlots)];
  if (!plot.mapped || plot.placing) return false;
  const std::uint64_t first = rng_.below(kPlotPages);
  const std::uint64_t count = 1 + rng_.below(std::min(kScratchPages, kPlotPages - first));
  std::vector<std::byte> bytes(count * kPageSize, kUntouched);
  if (vm().copy_to_user(mm(), scratch(), bytes) != bytes.size() || !plot.mapped || plot.placing || !other->lives) return false;
  Hold hold(vm(), *other, plot);
  std::vector<std::shared_ptr<Content>> contents;
  for (std::uint64_t i = 0; i < count; ++i) contents.push_back(plot.pages[first + i].content);
  const Watch watch(contents);
  const Moment begun = fray_.clock.tick();
  const std::uint64_t reach = sure_reach(plot, first, Access::kRead);
  std::vector<UserIovec> from;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (i == 0 || rng_.chance(1, 2)) from.push_back({plot.base + (first + i) * kPageSize, 0});
    from.back().iov_len += kPageSize;
  }
  const auto read = vm().process_vm_readv(mm(), std::array{UserIovec{scratch(), bytes.size()}}, &hold.mm(), from);
  if (killed()) return true;
  if (!read) {
    if (read.error() != Errno::kFault) fray_.mismatch(fmt::format("process_vm_readv: {}", errno_name(read.error())));
    return true;
  }
  // A page that was in the way is so still, and was all the time.
  const bool in_the_way =
      reach - first < count && plot.placed <= begun && sure_reach(plot, first, Access::kRead) == reach &&
      (!plot.pages[reach].guarded.maybe_not_since(begun) || !plot.pages[reach].content->beyond.maybe_not_since(begun));
  if (in_the_way && *read > (reach - first) * kPageSize) fray_.mismatch("process_vm_readv read what cannot be read");
  if (vm().copy_from_user(mm(), bytes, scratch()) != bytes.size()) return true;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::byte* page = bytes.data() + i * kPageSize;
    const bool there = (i + 1) * kPageSize <= *read;
    const std::string wrong = there ? watch.wrong(i, page) : "";
    if (!wrong.empty()) return fray_.mismatch("process_vm_readv: " + wrong), true;
    const auto touched = [](std::byte b) { return b != kUntouched; };
    if (i * kPageSize >= *read && std::any_of(page, page + kPageSize, touched)) fray_.mismatch("read beyond what it says");
  }
  return true;
}

bool Actor::remote_write() {
  Space* other = some_space();
  if (other == nullptr) return false;
  Plot& plot = other->plots[rng_.below(kPlots)];
  const Pages pages = some_pages();
  const std::uint64_t count = std::min<std::uint64_t>(pages.end - pages.first, 4);
  std::array<Number, 4> numbers{};
  for (std::uint64_t i = 0; i < count; ++i) numbers[i] = ++fray_.next;
  if (vm().copy_to_user(mm(), scratch(), std::as_bytes(std::span(numbers).first(count))) != count * sizeof(Number))
    return false;
  if (!plot.mapped || plot.placing || !other->lives) return false;
  Hold hold(vm(), *other, plot);
  std::vector<UserIovec> to;
  std::vector<std::shared_ptr<Content>> contents;
  const Moment begun = fray_.clock.tick();
  for (std::uint64_t i = 0; i < count; ++i) {
    to.push_back({plot.base + (pages.first + i) * kPageSize + slot_offset(slot_), sizeof(Number)});
    contents.push_back(plot.pages[pages.first + i].content);
    contents.back()->begin_write(slot_, numbers[i]);
  }
  const bool read_only = plot.read_only.surely();
  const auto written = vm().process_vm_writev(mm(), std::array{UserIovec{scratch(), count * sizeof(Number)}}, &hold.mm(), to);
  const std::uint64_t done = written ? *written / sizeof(Number) : 0;
  for (std::uint64_t i = 0; i < count; ++i) contents[i]->end_write(slot_, i < done, begun);
  if (killed()) return true;
  if (written ? *written % sizeof(Number) != 0 : written.error() != Errno::kFault)
    fray_.mismatch("process_vm_writev: half a word");
  if (plot.placed > begun) return true;
  if (done != 0 && read_only && !plot.read_only.maybe_not_since(begun))
    fray_.mismatch("process_vm_writev wrote what is read-only");
  for (std::uint64_t i = 0; i < done; ++i) {
    const Fact& guarded = plot.pages[pages.first + i].guarded;
    if (guarded.surely() && !guarded.maybe_not_since(begun)) fray_.mismatch("process_vm_writev wrote behind a guard");
  }
  return true;
}

bool Actor::file_write() {
  SealedFile& file = *fray_.files[rng_.below(fray_.files.size())];
  const std::uint64_t page = rng_.below(kPlotPages);
  if (file.cutting || page >= file.pages) return false;
  ++file.writers;
  const bool sealed = any(file.seals, kNoWrites);
  const Moment begun = fray_.clock.tick();
  Number number = ++fray_.next;
  Content& content = *file.contents[page];
  if (!sealed) content.begin_write(slot_, number);
  file::KernelBuffer from(std::as_writable_bytes(std::span(&number, 1)));
  const auto written = fray_.machine.vfs().pwrite(*file.file, page * kPageSize + slot_offset(slot_), sizeof number, from);
  if (!sealed) content.end_write(slot_, written && *written == sizeof number, begun);
  --file.writers;
  const Status status = written ? Status{} : Status(fail(written.error()));
  if (!sealed && !written && written.error() == Errno::kPerm && file.sealed_since(begun)) return true;
  expect(status, sealed ? Expected(Errno::kPerm) : std::nullopt, "pwrite");
  return true;
}

bool Actor::file_read() {
  SealedFile& file = *fray_.files[rng_.below(fray_.files.size())];
  const std::uint64_t page = rng_.below(kPlotPages);
  std::array<std::byte, kPageSize> bytes;
  const Watch watch({file.contents[page]});
  const Moment begun = fray_.clock.tick();
  file::KernelBuffer to(bytes);
  const auto read = fray_.machine.vfs().pread(*file.file, page * kPageSize, kPageSize, to);
  if (killed() || !read) return true;
  const Fact& beyond = file.contents[page]->beyond;
  if (*read == 0 ? !beyond.maybe_since(begun) : *read != kPageSize || !beyond.maybe_not_since(begun)) {
    fray_.mismatch(fmt::format("pread of page {}: {} bytes", page, *read));
  } else if (const std::string wrong = *read != 0 ? watch.wrong(0, bytes.data()) : ""; !wrong.empty()) {
    fray_.mismatch("pread: " + wrong);
  }
  return true;
}

// Another size, or a hole.
bool Actor::cut() {
  SealedFile& file = *fray_.files.back();
  if (file.cutting || file.writers != 0) return false;
  file.cutting = true;
  const Moment begun = fray_.clock.tick();
  const bool punch = rng_.chance(1, 2);
  const Pages pages = some_pages();
  const std::uint64_t size = punch ? file.pages : pages.first + 1;
  const std::uint64_t first = punch ? pages.first : size;
  const std::uint64_t end = punch ? pages.end : file.pages;
  const Seals against = punch               ? kNoWrites
                        : size < file.pages ? Seals::kShrink
                        : size > file.pages ? Seals::kGrow
                                            : Seals::kNone;
  const bool sealed = any(file.seals, against);
  for (std::uint64_t page = first; page < end && !sealed; ++page) {
    file.contents[page]->begin_zeroing();
    if (!punch) file.contents[page]->beyond.begin();
  }
  for (std::uint64_t page = file.pages; page < size && !sealed; ++page) file.contents[page]->beyond.begin();
  file::Vfs& vfs = fray_.machine.vfs();
  const Status status = punch ? vfs.fallocate(*file.file, file::FallocateMode::kPunchHole | file::FallocateMode::kKeepSize,
                                              first * kPageSize, (end - first) * kPageSize)
                              : vfs.ftruncate(*file.file, size * kPageSize);
  const bool came_meanwhile = !sealed && !status && status.error() == Errno::kPerm && file.sealed_since(begun);
  if (!came_meanwhile) expect(status, sealed ? Expected(Errno::kPerm) : std::nullopt, "a cut");
  for (std::uint64_t page = first; page < end && !sealed; ++page) {
    if (!status) file.contents[page]->spoil();
    file.contents[page]->end_zeroing(fray_.clock);
    if (status && !punch) file.contents[page]->is_zero_now();
    if (!punch) file.contents[page]->beyond.end(status.has_value(), fray_.clock);
  }
  for (std::uint64_t page = file.pages; page < size && !sealed; ++page) {
    file.contents[page]->beyond.end(!status.has_value(), fray_.clock);
  }
  if (status && !punch) file.pages = size;
  file.cutting = false;
  return true;
}

// One more seal; what is sealed against writing is followed by another file.
bool Actor::seal_file() {
  constexpr std::size_t kMostFiles = 5;
  SealedFile& file = *fray_.files.back();
  if (file.sealing || (file.seals == Seals::kNone && rng_.chance(3, 4))) return false;
  if (any(file.seals, Seals::kWrite)) {
    if (fray_.files.size() == kMostFiles || rng_.chance(3, 4)) return false;
    file.sealing = true;  // one at a time
    const Status made = fray_.new_file();
    file.sealing = false;
    return made.has_value();
  }
  constexpr std::array kSeals{Seals::kShrink, Seals::kGrow, Seals::kFutureWrite, Seals::kWrite};
  const Seals seal = kSeals[rng_.below(kSeals.size())];
  file.sealing = true;
  const Status sealed = file::memfd_add_seals(*file.file, seal);
  if (sealed) file.seals |= seal;
  file.sealed_at = fray_.clock.tick();
  file.sealing = false;
  if (killed()) return true;
  if (!sealed && (seal != Seals::kWrite || sealed.error() != Errno::kBusy)) {
    fray_.mismatch(fmt::format("seal: {}", errno_name(sealed.error())));
  }
  if (!sealed || seal != Seals::kWrite) return true;
  ++fray_.write_sealed;
  for (const auto& space : fray_.spaces) {
    for (const Plot& plot : space->plots) {
      const bool open = space->lives && plot.mapped && !plot.placing && plot.file == &file && !plot.never_writable;
      if (open) fray_.mismatch("a file was sealed that is mapped for writing");
    }
  }
  return true;
}

}  // namespace quire::kernel::test
