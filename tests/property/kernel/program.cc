#include "program.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace quire::kernel::test {

using vm::MapFlags;
using vm::Prot;

void Program::run(Thread& thread) {
  thread_ = &thread;
  ++findings_.living;
  for (unsigned i = 0; i < options_.steps && !killed() && findings_.first_mismatch.empty(); ++i) step();
  // At the end every page is looked at as a whole.
  for (auto it = pages_.begin(); it != pages_.end() && !killed() && findings_.first_mismatch.empty(); ++it) {
    if (it->second.rights != Rights::kNone) compare(it->first, *it->second.bytes, 0, kPageSize);
  }
  while (!children_.empty() && !killed()) wait_for_child();
  if (killed()) ++findings_.killed;
  --findings_.living;
  machine_.processes().exit_thread(thread, {});
}

void Program::step() {
  switch (rng_.below(32)) {
    case 0:
    case 1: return map();
    case 2: return unmap();
    case 3: return protect();
    case 4: return move();
    case 5: return forget();
    case 6: return fork();
    case 7: return check_forbidden();
    case 8: return wait_for_child();
    case 9:
    case 10: return check_whole_page();
    case 11:
    case 12:
    case 13: return fill();
    default: return rng_.chance(1, 2) ? write_some() : read_some();
  }
}

void Program::map() {
  const std::uint64_t count = 1 + rng_.below(64);
  if (pages_.size() + count > options_.most_pages) return unmap();
  const Sharing sharing = rng_.chance(1, 4) ? Sharing::kShared : Sharing::kPrivate;
  ++findings_.calls;
  const MapFlags flags = MapFlags::kAnonymous | (sharing == Sharing::kShared ? MapFlags::kShared : MapFlags::kPrivate);
  const auto at = machine_.vm().mmap(mm(), VirtAddr(0), count * kPageSize, Prot::kRead | Prot::kWrite, flags, nullptr, 0);
  if (!at) {
    if (!killed() && at.error() != Errno::kNoMem) mismatch(fmt::format("mmap: {}", errno_name(at.error())));
    return;
  }
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto [it, fresh] =
        pages_.emplace((at->value() >> kPageShift) + i, MappedPage{std::make_shared<PageModel>(), sharing, Rights::kReadWrite});
    if (!fresh) mismatch(fmt::format("mmap gave {:#x}, which is mapped", at->value()));
  }
}

Range<std::uint64_t> Program::random_run(std::uint64_t most) {
  if (pages_.empty()) return {};
  auto it = random_page();
  Range<std::uint64_t> run{it->first, it->first + 1};
  const std::uint64_t wanted = 1 + rng_.below(most);
  for (++it; it != pages_.end() && it->first == run.end && run.size() < wanted; ++it) ++run.end;
  return run;
}

Program::Pages::iterator Program::random_page() {
  auto it = pages_.begin();
  std::advance(it, static_cast<std::ptrdiff_t>(rng_.below(pages_.size())));
  return it;
}

void Program::unmap() {
  const auto run = random_run(32);
  if (run.empty()) return;
  ++findings_.calls;
  const auto done = machine_.vm().munmap(mm(), VirtAddr(run.begin << kPageShift), run.size() * kPageSize);
  if (!done) {
    if (!killed() && done.error() != Errno::kNoMem) mismatch(fmt::format("munmap: {}", errno_name(done.error())));
    return;
  }
  pages_.erase(pages_.lower_bound(run.begin), pages_.lower_bound(run.end));
}

void Program::protect() {
  const auto run = random_run(32);
  if (run.empty()) return;
  const auto rights = static_cast<Rights>(rng_.below(3));
  const Prot prot = rights == Rights::kNone       ? Prot::kNone
                    : rights == Rights::kReadOnly ? Prot::kRead
                                                  : Prot::kRead | Prot::kWrite;
  ++findings_.calls;
  const auto done = machine_.vm().mprotect(mm(), VirtAddr(run.begin << kPageShift), run.size() * kPageSize, prot);
  if (!done) {
    if (!killed() && done.error() != Errno::kNoMem) mismatch(fmt::format("mprotect: {}", errno_name(done.error())));
    return;
  }
  for (auto it = pages_.lower_bound(run.begin); it != pages_.end() && it->first < run.end; ++it) it->second.rights = rights;
}

// Grows a stretch of private pages by one page, which moves it when the place behind it is taken.
void Program::move() {
  const auto run = random_run(8);
  if (run.empty() || pages_.size() >= options_.most_pages) return;
  const MappedPage first = pages_.at(run.begin);
  if (first.sharing == Sharing::kShared) return;
  std::uint64_t end = run.begin + 1;
  while (end < run.end && pages_.at(end).sharing == first.sharing && pages_.at(end).rights == first.rights) ++end;
  const std::uint64_t count = end - run.begin;
  ++findings_.calls;
  const auto at = machine_.vm().mremap(mm(), VirtAddr(run.begin << kPageShift), count * kPageSize, (count + 1) * kPageSize,
                                       vm::MremapFlags::kMayMove);
  if (!at) {
    // EFAULT: the stretch is more than one area to the machine.
    if (!killed() && at.error() != Errno::kNoMem && at.error() != Errno::kFault) {
      mismatch(fmt::format("mremap: {}", errno_name(at.error())));
    }
    return;
  }
  const std::uint64_t to = at->value() >> kPageShift;
  for (std::uint64_t i = 0; i < count && to != run.begin; ++i) {
    auto node = pages_.extract(run.begin + i);
    node.key() = to + i;
    if (!pages_.insert(std::move(node)).inserted) return mismatch("mremap moved onto pages that are mapped");
  }
  const MappedPage grown{std::make_shared<PageModel>(), first.sharing, first.rights};
  if (!pages_.emplace(to + count, grown).second) mismatch("mremap grew onto a page that is mapped");
}

void Program::forget() {
  const auto run = random_run(16);
  if (run.empty()) return;
  ++findings_.calls;
  const auto done =
      machine_.vm().madvise(mm(), VirtAddr(run.begin << kPageShift), run.size() * kPageSize, vm::Advice::kDontNeed);
  if (!done) {
    if (!killed()) mismatch(fmt::format("madvise: {}", errno_name(done.error())));
    return;
  }
  for (auto it = pages_.lower_bound(run.begin); it != pages_.end() && it->first < run.end; ++it) {
    // A private page is gone and reads as zeroes; a shared one stays in its file.
    if (it->second.sharing == Sharing::kPrivate) it->second.bytes = std::make_shared<PageModel>();
  }
}

void Program::fork() {
  if (findings_.living >= options_.most_processes) return;
  auto child = std::make_shared<Program>(machine_, options_, findings_, rng_());
  child->options_.steps = options_.steps / 2;
  // The child's pages are copied when the fork has returned, before either side runs on: nothing runs between.
  Pages snapshot = pages_;
  for (auto& [vpn, page] : snapshot) {
    if (page.sharing == Sharing::kPrivate) page.bytes = std::make_shared<PageModel>(*page.bytes);
  }
  child->pages_ = std::move(snapshot);
  const auto made = machine_.processes().fork(*thread_->process, [child](Thread& thread) { child->run(thread); });
  if (!made) {
    if (!killed() && made.error() != Errno::kNoMem) mismatch(fmt::format("fork: {}", errno_name(made.error())));
    return;
  }
  ++findings_.forks;
  children_.push_back(*made);
}

void Program::wait_for_child() {
  if (children_.empty()) return;
  const auto ended = machine_.processes().wait(*thread_->process, *children_.back());
  if (!ended && !killed()) mismatch(fmt::format("wait: {}", errno_name(ended.error())));
  children_.pop_back();
}

void Program::write_some() {
  if (pages_.empty()) return map();
  write_to(random_page());
}

// Touches a stretch as a whole: what makes memory short.
void Program::fill() {
  const auto run = random_run(128);
  for (auto it = pages_.lower_bound(run.begin); it != pages_.end() && it->first < run.end && !killed(); ++it) write_to(it);
}

void Program::write_to(Pages::iterator it) {
  if (it->second.rights != Rights::kReadWrite) return;
  const std::uint64_t offset = rng_.below(kPageSize);
  const std::uint64_t length = 1 + rng_.below(std::min<std::uint64_t>(kPageSize - offset, 256));
  const vm::AccessOutcome outcome =
      machine_.vm().access(mm(), VirtAddr((it->first << kPageShift) + offset), arch::Access::kWrite);
  if (!outcome.ok()) {
    if (!killed())
      mismatch(fmt::format("write to {:#x} failed: signal {}", it->first << kPageShift, static_cast<int>(outcome.signal)));
    return;
  }
  std::byte* bytes = machine_.vm().to_host(outcome.phys);
  for (std::uint64_t i = 0; i < length; ++i) bytes[i] = (*it->second.bytes)[offset + i] = static_cast<std::byte>(rng_());
  ++findings_.writes;
}

void Program::read_some() {
  if (pages_.empty()) return map();
  auto it = random_page();
  if (it->second.rights == Rights::kNone) return;
  const std::uint64_t offset = rng_.below(kPageSize);
  compare(it->first, *it->second.bytes, offset, 1 + rng_.below(kPageSize - offset));
}

void Program::check_whole_page() {
  if (pages_.empty()) return;
  auto it = random_page();
  if (it->second.rights != Rights::kNone) compare(it->first, *it->second.bytes, 0, kPageSize);
}

void Program::compare(std::uint64_t vpn, const PageModel& model, std::uint64_t offset, std::uint64_t length) {
  const VirtAddr address((vpn << kPageShift) + offset);
  const vm::AccessOutcome outcome = machine_.vm().access(mm(), address, arch::Access::kRead);
  if (!outcome.ok()) {
    if (!killed()) mismatch(fmt::format("read of {:#x} failed: signal {}", address.value(), static_cast<int>(outcome.signal)));
    return;
  }
  ++findings_.reads;
  const std::byte* bytes = machine_.vm().to_host(outcome.phys);
  for (std::uint64_t i = 0; i < length; ++i) {
    if (bytes[i] != model[offset + i]) {
      return mismatch(fmt::format("pid {}: byte {:#x} is {:#04x}, not {:#04x}", thread_->process->pid, address.value() + i,
                                  static_cast<unsigned>(bytes[i]), static_cast<unsigned>(model[offset + i])));
    }
  }
}

void Program::check_forbidden() {
  ++findings_.checks;
  if (pages_.empty()) return;
  auto it = random_page();
  if (it->second.rights == Rights::kReadWrite) return;
  const auto kind = it->second.rights == Rights::kNone ? arch::Access::kRead : arch::Access::kWrite;
  const vm::AccessOutcome outcome = machine_.vm().access(mm(), VirtAddr(it->first << kPageShift), kind);
  if (outcome.ok()) return mismatch(fmt::format("access to {:#x} against its protection succeeded", it->first << kPageShift));
  if (!killed() && (outcome.signal != vm::Signal::kSegv || outcome.si_code != vm::SiCode::kSegvAccErr)) {
    mismatch("access against protection did not end in SIGSEGV, SEGV_ACCERR");
  }
}

void Program::mismatch(std::string what) {
  if (findings_.first_mismatch.empty()) findings_.first_mismatch = std::move(what);
}

}  // namespace quire::kernel::test
