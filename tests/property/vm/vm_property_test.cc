// Random programs on a small machine with swap, against the naive model: mmap, munmap, mprotect, mremap, madvise, mlock, fork,
// exit, reads and writes, while pages are taken away at random. After each step every structure is walked; every byte read
// must be the model's, every bad access must end in the right signal.
//
// QUIRE_SEEDS and QUIRE_OPS set how many programs of how many steps are run.
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "../../unit/vm/vm_machine.h"
#include "effort.h"
#include "vm_model.h"

namespace quire::vm {
namespace {

constexpr VirtAddr kBase{0x10000000};
constexpr std::uint64_t kWindow = 48;
constexpr std::uint64_t kMaxRun = 12;
constexpr std::size_t kMaxProcesses = 5;

struct Process {
  Mm* mm = nullptr;
  ModelMm model;
};

class Program {
 public:
  explicit Program(std::uint64_t seed) : rng_(seed), machine_({.ram = 24 * kMiB, .seed = seed, .zram = 8 * kMiB}) {
    const std::uint64_t file_pages = 20;
    file_ = &machine_.open("/data", file_pages * kPageSize, seed);
    const file::GeneratedBacking bytes(file_pages * kPageSize, seed);
    file_object_ = std::make_shared<ModelObject>();
    for (std::uint64_t page = 0; page < file_pages; ++page) {
      Content content;
      for (unsigned slot = 0; slot < kSlots; ++slot) {
        content[slot] = std::to_integer<std::uint8_t>(bytes.byte_at(page * kPageSize + slot * kSlotStride));
      }
      file_object_->pages.push_back(content);
    }
  }

  void run(std::uint64_t ops) {
    machine_.run([this, ops] {
      processes_.push_back({&machine_.mm_alloc(), {}});
      for (step_ = 0; step_ < ops && !::testing::Test::HasFailure(); ++step_) {
        step();
        if (std::getenv("QUIRE_TRACE") != nullptr) std::fputs(std::exchange(history_, "").c_str(), stderr);
        check_layout();
        machine_.vm.validate();
      }
      for (Process& process : processes_) check_all(process);
      while (!processes_.empty()) exit_one(0);
      machine_.vfs.fput(*file_);
      machine_.lru.lru_add_drain_all();
    });
    machine_.validate();
    EXPECT_EQ(machine_.phys->global_node_page_state(phys::NodeStat::kNrAnonPages), 0);
    EXPECT_EQ(machine_.phys->global_node_page_state(phys::NodeStat::kNrPageTablePages), 0);
    EXPECT_EQ(machine_.vm.commit().committed_as(), 0u);
    // Slots may stay with folios that only the swap cache holds, until reclaim comes by.
    const swap::SwapInfo swap = machine_.swap.si_swapinfo();
    EXPECT_EQ(swap.total - swap.free, swap.cached);
  }

 private:
  struct Run {
    std::uint64_t first;
    std::uint64_t count;
    [[nodiscard]] VirtAddr start() const { return kBase + first * kPageSize; }
    [[nodiscard]] std::uint64_t bytes() const { return count * kPageSize; }
  };
  Run random_run() {
    const std::uint64_t first = rng_.below(kWindow);
    return {first, 1 + rng_.below(std::min(kMaxRun, kWindow - first))};
  }
  Process& random_process() { return processes_[rng_.below(processes_.size())]; }
  // Mostly a mapped one.
  std::uint64_t random_page(const Process& process) {
    if (process.model.empty() || rng_.chance(1, 10)) return rng_.below(kWindow);
    return std::next(process.model.begin(), static_cast<std::ptrdiff_t>(rng_.below(process.model.size())))->first;
  }
  Prot random_prot() {
    constexpr std::array kProts{kRw, kRw, kRw, Prot::kRead, Prot::kNone, Prot::kRead | Prot::kExec};
    return kProts[rng_.below(kProts.size())];
  }

  // The program so far, printed when it goes wrong.
  void note(std::string what, const Process& process, const Run& run) {
    history_ += std::to_string(step_) + ": process " + std::to_string(&process - processes_.data()) + " " + what + " " +
                std::to_string(run.first) + "+" + std::to_string(run.count) + "\n";
  }

  void step() {
    Process& process = random_process();
    const std::uint64_t what = rng_.below(100);
    if (what < 25) return touch(process, arch::Access::kWrite);
    if (what < 40) return touch(process, arch::Access::kRead);
    if (what < 58) return reclaim(process);
    if (what < 68) return map(process);
    if (what < 73) return unmap(process);
    if (what < 79) return protect(process);
    if (what < 84) return remap(process);
    if (what < 90) return advise(process);
    if (what < 92) return lock(process);
    if (what < 97) return fork(process);
    if (processes_.size() > 1) exit_one(rng_.below(processes_.size()));
  }

  void map(Process& process) {
    const Run run = random_run();
    const Prot prot = random_prot();
    const bool shared = rng_.chance(1, 3);
    const bool named = rng_.chance(1, 3);
    const MapFlags type = shared ? MapFlags::kShared : MapFlags::kPrivate;
    MapFlags flags = type | MapFlags::kFixed | (named ? MapFlags::kNone : MapFlags::kAnonymous);
    if (rng_.chance(1, 8)) flags |= MapFlags::kPopulate;
    const std::uint64_t offset = named ? rng_.below(16) : 0;
    note(std::string("mmap ") + (named ? "file " : "anon ") + (shared ? "shared" : "private"), process, run);
    const Result<VirtAddr> at =
        machine_.vm.mmap(*process.mm, run.start(), run.bytes(), prot, flags, named ? file_ : nullptr, offset * kPageSize);
    ASSERT_TRUE(at) << errno_name(at.error());
    std::shared_ptr<ModelObject> object = named ? file_object_ : nullptr;
    if (!named && shared) {
      object = std::make_shared<ModelObject>();
      object->pages.resize(run.count);
    }
    bool populate = any(flags, MapFlags::kPopulate);
    for (std::uint64_t i = 0; i < run.count; ++i) {
      ModelPage& page = process.model[run.first + i] = {
          .prot = prot, .object = object, .index = offset + i, .shared = shared, .own = object == nullptr};
      populate = populate && page.populate();
    }
  }

  void unmap(Process& process) {
    const Run run = random_run();
    note("munmap", process, run);
    ASSERT_TRUE(machine_.vm.munmap(*process.mm, run.start(), run.bytes()));
    for (std::uint64_t i = 0; i < run.count; ++i) process.model.erase(run.first + i);
  }

  void protect(Process& process) {
    const Run run = random_run();
    const Prot prot = random_prot();
    note("mprotect " + std::to_string(static_cast<int>(prot)), process, run);
    const Status done = machine_.vm.mprotect(*process.mm, run.start(), run.bytes(), prot);
    for (std::uint64_t i = 0; i < run.count; ++i) {
      const auto page = process.model.find(run.first + i);
      if (page == process.model.end()) {
        ASSERT_TRUE(fails_with(done, Errno::kNoMem));
        return;
      }
      const bool writable_now = any(prot, Prot::kWrite) && !any(page->second.prot, Prot::kWrite);
      page->second.prot = prot;
      if (page->second.locked && writable_now) page->second.populate();
    }
    ASSERT_TRUE(done) << errno_name(done.error());
  }

  void remap(Process& process) {
    const Run from = random_run();
    const bool fixed = rng_.chance(1, 2);
    const bool keeps = fixed && rng_.chance(1, 3);  // MREMAP_DONTUNMAP
    const std::uint64_t new_count = fixed ? from.count : 1 + rng_.below(kMaxRun);
    const std::uint64_t to_first = rng_.below(kWindow);
    const VirtAddr to = kBase + to_first * kPageSize;
    const bool mapped = process.model.contains(from.first);
    MremapFlags flags = fixed ? MremapFlags::kMayMove | MremapFlags::kFixed : MremapFlags::kNone;
    if (keeps) flags |= MremapFlags::kDontUnmap;
    note((keeps ? "mremap without unmapping to " : "mremap to ") +
             (fixed ? std::to_string(to_first) : "size " + std::to_string(new_count)),
         process, from);
    const Result<VirtAddr> at = machine_.vm.mremap(*process.mm, from.start(), from.bytes(), new_count * kPageSize, flags, to);
    if (!mapped) {
      ASSERT_TRUE(fails_with(at, Errno::kFault));
      return;
    }
    if (fixed && !at && at.error() == Errno::kInval) return;  // source and target overlap
    if (!fixed && new_count <= from.count) {                  // shrinking: the tail goes, whatever lies there
      ASSERT_TRUE(at) << errno_name(at.error());
      for (std::uint64_t i = new_count; i < from.count; ++i) process.model.erase(from.first + i);
      return;
    }
    ModelMm moved;
    for (std::uint64_t i = 0; at && i < from.count; ++i) {
      const auto page = process.model.find(from.first + i);
      ASSERT_NE(page, process.model.end()) << "moved a hole in step " << step_;
      moved[i] = page->second;
      process.model.erase(page);
    }
    if (fixed) {  // the target is cleared even when the move is refused afterwards
      for (std::uint64_t i = 0; i < new_count; ++i) process.model.erase(to_first + i);
    }
    if (!at) return;
    if (keeps) leave_empty(process, from, moved);
    const std::uint64_t first = (*at - kBase) / kPageSize;
    for (std::uint64_t i = 0; i < new_count; ++i) {
      if (moved.contains(i)) {
        process.model[first + i] = moved[i];
        continue;
      }
      ModelPage grown = moved[from.count - 1];
      grown.index += i - (from.count - 1);
      grown.own = grown.object == nullptr;
      grown.content = {};
      grown.lazyfree = false;
      if (grown.locked) grown.populate();
      process.model[first + i] = grown;
    }
  }

  // Where pages were moved away from and the area stays: as never written, and of the whole area no lock.
  void leave_empty(Process& process, const Run& from, const ModelMm& moved) {
    const Vma* area = process.mm->mm_vmas.lookup(from.start());
    for (const auto& [i, page] : moved) {
      ModelPage& left = process.model[from.first + i] = page;
      left.drop();
    }
    for (std::uint64_t number = 0; number < kWindow; ++number) {
      if (!area->range().contains(kBase + number * kPageSize)) continue;
      process.model[number].locked = false;
    }
  }

  void advise(Process& process) {
    const Run run = random_run();
    constexpr std::array kAdvices{Advice::kDontNeed,   Advice::kFree,     Advice::kCold,
                                  Advice::kDontFork,   Advice::kDoFork,   Advice::kWipeOnFork,
                                  Advice::kKeepOnFork, Advice::kWillNeed, Advice::kSequential};
    const Advice advice = kAdvices[rng_.below(kAdvices.size())];
    note("madvise " + std::to_string(static_cast<int>(advice)), process, run);
    const Status done = machine_.vm.madvise(*process.mm, run.start(), run.bytes(), advice);
    for (std::uint64_t i = 0; i < run.count; ++i) {
      const auto found = process.model.find(run.first + i);
      if (found == process.model.end()) continue;
      ModelPage& page = found->second;
      const bool anonymous = page.object == nullptr;
      bool refused = false;
      switch (advice) {
        case Advice::kDontNeed:
          refused = page.locked;
          if (!refused) page.drop();
          break;
        case Advice::kFree:
          refused = page.locked || !anonymous;
          if (!refused) page.lazyfree = true;
          break;
        case Advice::kCold: refused = page.locked; break;
        case Advice::kDontFork: page.dontfork = true; break;
        case Advice::kDoFork: page.dontfork = false; break;
        case Advice::kWipeOnFork:
          refused = !anonymous;
          if (!refused) page.wipeonfork = true;
          break;
        case Advice::kKeepOnFork: page.wipeonfork = false; break;
        default: break;
      }
      if (refused) {
        ASSERT_TRUE(fails_with(done, Errno::kInval));
        return;
      }
    }
  }

  void lock(Process& process) {
    const Run run = random_run();
    const bool locks = rng_.chance(1, 2);
    note(locks ? "mlock" : "munlock", process, run);
    const Status done = locks ? machine_.vm.mlock(*process.mm, run.start(), run.bytes())
                              : machine_.vm.munlock(*process.mm, run.start(), run.bytes());
    bool hole = false;  // refused there, when the part before it has been locked but not populated
    for (std::uint64_t i = 0; i < run.count && !hole; ++i) {
      const auto page = process.model.find(run.first + i);
      hole = page == process.model.end();
      if (!hole) page->second.locked = locks;
    }
    if (hole) {
      ASSERT_TRUE(fails_with(done, Errno::kNoMem));
      return;
    }
    bool populate = locks;
    for (std::uint64_t i = 0; i < run.count && populate; ++i) populate = process.model[run.first + i].populate();
    ASSERT_EQ(done.has_value(), populate || !locks);
  }

  void fork(Process& process) {
    if (processes_.size() >= kMaxProcesses) return;
    note("fork", process, {0, 0});
    const Result<Mm*> child = machine_.vm.dup_mm(*process.mm);
    ASSERT_TRUE(child) << errno_name(child.error());
    Process forked{*child, model_fork(process.model)};
    processes_.push_back(std::move(forked));
  }

  void exit_one(std::size_t index) {
    note("exit", processes_[index], {0, 0});
    machine_.vm.mmput(*processes_[index].mm);
    processes_.erase(processes_.begin() + static_cast<std::ptrdiff_t>(index));
  }

  void reclaim(Process& process) {
    const VirtAddr at = kBase + random_page(process) * kPageSize;
    phys::Page* page = machine_.page_at(*process.mm, at);
    if (page == nullptr || page == &machine_.vm.zero_page()) return;
    note("reclaim " + describe(process.model.at((at - kBase) / kPageSize)), process, {(at - kBase) / kPageSize, 1});
    machine_.reclaim(phys::page_folio(*page), rng_.chance(1, 2) ? TtuFlags::kBatchFlush : TtuFlags::kNone);
  }

  // What MADV_FREE left: the old bytes or zeroes, but of the whole page.
  void settle(Process& process, std::uint64_t number, ModelPage& page) {
    if (!page.lazyfree) return;
    Content real{};
    for (unsigned slot = 0; slot < kSlots; ++slot) {
      const int byte = machine_.read(*process.mm, kBase + number * kPageSize + slot * kSlotStride);
      ASSERT_GE(byte, 0);
      real[slot] = static_cast<std::uint8_t>(byte);
    }
    if (real == Content{}) page.content = {};
    ASSERT_EQ(real, page.content) << "a page freed lazily, " << number << " in step " << step_;
  }

  void touch(Process& process, arch::Access kind) {
    const std::uint64_t number = random_page(process);
    const unsigned slot = static_cast<unsigned>(rng_.below(kSlots));
    const auto found = process.model.find(number);
    const VirtAddr at = kBase + number * kPageSize + slot * kSlotStride;
    const bool write = kind == arch::Access::kWrite;
    note((write ? "write " : "read ") + (found == process.model.end() ? "nothing" : describe(found->second)), process,
         {number, slot});
    if (found == process.model.end()) {
      const AccessOutcome outcome = machine_.vm.access(*process.mm, at, kind);
      ASSERT_EQ(outcome.signal, Signal::kSegv);
      ASSERT_EQ(outcome.si_code, SiCode::kSegvMapErr);
      return;
    }
    ModelPage& page = found->second;
    if (page.prot == Prot::kNone || (write && !any(page.prot, Prot::kWrite))) {
      const AccessOutcome outcome = machine_.vm.access(*process.mm, at, kind);
      ASSERT_EQ(outcome.signal, Signal::kSegv);
      ASSERT_EQ(outcome.si_code, SiCode::kSegvAccErr);
      return;
    }
    if (page.beyond_end()) {
      ASSERT_EQ(machine_.vm.access(*process.mm, at, kind).signal, Signal::kBus);
      return;
    }
    settle(process, number, page);
    if (!write) {
      ASSERT_EQ(machine_.read(*process.mm, at), page.seen()[slot])
          << "page " << number << " in step " << step_ << ": " << describe(page);
      return;
    }
    const auto value = static_cast<std::uint8_t>(1 + rng_.below(255));
    ASSERT_TRUE(machine_.write(*process.mm, at, value).ok());
    page.written()[slot] = value;
    page.lazyfree = false;
  }

  void check_all(Process& process) {
    for (auto& [number, page] : process.model) {
      if (page.prot == Prot::kNone || page.beyond_end() || ::testing::Test::HasFailure()) continue;
      settle(process, number, page);
      for (unsigned slot = 0; slot < kSlots; ++slot) {
        ASSERT_EQ(machine_.read(*process.mm, kBase + number * kPageSize + slot * kSlotStride), page.seen()[slot])
            << "page " << number << " at the end: " << describe(page);
      }
    }
  }

  static std::string describe(const ModelPage& page) {
    std::string text = page.object == nullptr ? "anonymous" : "page " + std::to_string(page.index) + " of an object";
    return text + (page.shared ? " shared" : page.own ? " own copy" : " not copied");
  }

  // Bytes of a page that is mapped, without touching it as a program would.
  void peek(Process& process, std::uint64_t number, ModelPage& page) {
    const phys::Page* real = machine_.page_at(*process.mm, kBase + number * kPageSize);
    if (real == nullptr || page.lazyfree) return;
    ASSERT_FALSE(page.beyond_end()) << "page " << number << " in step " << step_;
    const std::byte* bytes = machine_.phys->page_address(*real);
    for (unsigned slot = 0; slot < kSlots; ++slot) {
      ASSERT_EQ(std::to_integer<int>(bytes[slot * kSlotStride]), page.seen()[slot])
          << "page " << number << " in step " << step_ << ", seen in its frame: " << describe(page) << ", frame "
          << machine_.phys->page_to_pfn(*real).value() << " slot " << slot << " mapcount " << real->mapcount << " mapping "
          << real->mapping << " index " << real->index << ' ' << phys::page_flag_names(real->flags);
    }
  }

  void check_layout() {
    for (Process& process : processes_) {
      for (std::uint64_t number = 0; number < kWindow; ++number) {
        const Vma* vma = process.mm->mm_vmas.lookup(kBase + number * kPageSize);
        const auto page = process.model.find(number);
        ASSERT_EQ(vma != nullptr, page != process.model.end()) << "page " << number << " in step " << step_;
        if (vma == nullptr) continue;
        const auto access = static_cast<Prot>(static_cast<std::uint32_t>(vma->vm_flags & VmFlags::kAccessFlags));
        ASSERT_EQ(access, page->second.prot) << "page " << number << " in step " << step_;
        ASSERT_EQ(vma->has(VmFlags::kLocked), page->second.locked) << "page " << number << " in step " << step_;
        peek(process, number, page->second);
      }
    }
  }

  Rng rng_;
  VmMachine machine_;
  file::File* file_ = nullptr;
  std::shared_ptr<ModelObject> file_object_;
  std::vector<Process> processes_;
  std::uint64_t step_ = 0;
  std::string history_;
};

TEST(VmProperty, ProgramsSeeTheirOwnBytes) {
  const std::uint64_t first = from_environment("QUIRE_SEED", 1);
  const std::uint64_t seeds = from_environment("QUIRE_SEEDS", 40, 15);
  const std::uint64_t ops = from_environment("QUIRE_OPS", 400);
  for (std::uint64_t seed = first; seed < first + seeds && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Program(seed).run(ops);
  }
}

}  // namespace
}  // namespace quire::vm
