// Random programs against a byte-exact model: several tasks read, write, truncate, fault, sync and punch holes, each in a
// file of its own (regular or shmem) and in stripes of one shared file, while an evictor takes random pages as reclaim
// does, the flusher runs, and the seed chooses the interleaving. QUIRE_SEEDS runs more seeds.
#include <cstdlib>
#include <map>

#include "effort.h"
#include "file_machine.h"
#include "quire/base/rng.h"

namespace quire::file {
namespace {

constexpr std::uint64_t kMaxSize = 40 * kPageSize;
constexpr std::uint64_t kStripe = 700;  // bytes; no divisor of a page, so tasks share pages
constexpr unsigned kTasks = 4;

// One task's file and what must be in it.
struct Subject {
  File* file = nullptr;
  std::string name;  // empty: shmem
  std::vector<std::byte> model;
  // What stores through a mapping left in the last page behind the end of a shmem file: part of the file when it grows, away
  // when it is cut.
  std::map<std::uint64_t, std::byte> behind;

  void grow(std::uint64_t size) {
    if (size <= model.size()) return;
    model.resize(size);
    for (auto at = behind.begin(); at != behind.end() && at->first < size; at = behind.erase(at)) model[at->first] = at->second;
  }
  void cut(std::uint64_t size) {
    model.resize(size);
    behind.clear();
  }
};

class Program {
 public:
  Program(FileMachine& m, std::uint64_t seed, unsigned number, Subject& own, File& shared)
      : m_(m), rng_(seed * 1000 + number), number_(number), own_(own), shared_(shared), stripes_(kMaxSize) {}

  void run(unsigned ops) {
    for (unsigned i = 0; i < ops && !testing::Test::HasFailure(); ++i) step();
    check_all();
  }

 private:
  void step() {
    switch (rng_.below(16)) {
      case 0:
      case 1:
      case 2:
      case 3: return write();
      case 4:
      case 5:
      case 6: return read();
      case 7: return truncate();
      case 8:
      case 9: return fault();
      case 10: return store_through_mapping();
      case 11: return punch();
      case 12: return sync();
      case 13:
      case 14: return stripe();
      case 15: return rare();
    }
  }

  std::uint64_t place() { return rng_.below(kMaxSize); }
  std::uint64_t length() { return 1 + rng_.below(rng_.chance(1, 4) ? 5 * kPageSize : 500); }

  void write() {
    const std::uint64_t pos = place();
    auto bytes = FileMachine::pattern(std::min(length(), kMaxSize - pos), rng_());
    own_.grow(pos + bytes.size());
    std::copy(bytes.begin(), bytes.end(), own_.model.begin() + static_cast<std::ptrdiff_t>(pos));
    ASSERT_EQ(m_.write(*own_.file, pos, bytes).value_or(0), bytes.size());
  }

  void read() {
    const std::uint64_t pos = place();
    const auto bytes = m_.read(*own_.file, pos, length());
    ASSERT_LE(bytes.size(), own_.model.size() > pos ? own_.model.size() - pos : 0);
    ASSERT_TRUE(std::equal(bytes.begin(), bytes.end(),
                           own_.model.begin() + static_cast<std::ptrdiff_t>(std::min<std::uint64_t>(pos, own_.model.size()))))
        << "seed task " << number_ << " at " << pos;
  }

  void truncate() {
    const std::uint64_t size = place();
    ASSERT_TRUE(m_.vfs->ftruncate(*own_.file, size));
    size > own_.model.size() ? own_.grow(size) : own_.cut(size);
  }

  // The folio of a random page, mapped for as long as it is locked; null when the page is beyond the end.
  phys::Folio* fault_in(Pgoff index) {
    for (;;) {
      const auto hint = static_cast<FaultHint>(rng_.below(3));
      const Result<FilemapFault> fault = own_.file->sb().fault(*own_.file, index, hint);
      if (!fault) {
        EXPECT_EQ(fault.error(), Errno::kFault);
        EXPECT_GE(pages_to_bytes(index.value()), own_.model.size());
        return nullptr;
      }
      if (m_.vfs->filemap().folio_lock_mapping(*fault->folio, own_.file->mapping())) return fault->folio;
      m_.vfs->filemap().folio_put(*fault->folio);
    }
  }
  void release(phys::Folio& folio) {
    phys::folio_unlock(*m_.phys, folio);
    m_.vfs->filemap().folio_put(folio);
  }

  void fault() {
    const Pgoff index(place() >> kPageShift);
    phys::Folio* folio = fault_in(index);
    if (folio == nullptr) return;
    const std::uint64_t start = pages_to_bytes(index.value());
    const std::uint64_t n = std::min(kPageSize, own_.model.size() - start);
    const std::byte* bytes = m_.phys->page_address(*folio);
    EXPECT_TRUE(std::equal(bytes, bytes + n, own_.model.begin() + static_cast<std::ptrdiff_t>(start)))
        << "task " << number_ << " page " << index.value();
    release(*folio);
  }

  // As a shared mapping does: page_mkwrite, then a store, perhaps behind the end of the file.
  void store_through_mapping() {
    const Pgoff index(place() >> kPageShift);
    phys::Folio* folio = fault_in(index);
    if (folio == nullptr) return;
    phys::folio_unlock(*m_.phys, *folio);
    if (own_.file->sb().page_mkwrite(*own_.file, *folio)) {
      const std::uint64_t offset = rng_.below(kPageSize);
      const auto value = static_cast<std::byte>(rng_());
      m_.phys->page_address(*folio)[offset] = value;
      const std::uint64_t pos = pages_to_bytes(index.value()) + offset;
      if (pos < own_.model.size()) {
        own_.model[pos] = value;
      } else if (own_.name.empty()) {
        own_.behind[pos] = value;
      }
      phys::folio_unlock(*m_.phys, *folio);
    }
    m_.vfs->filemap().folio_put(*folio);
  }

  void punch() {
    const std::uint64_t pos = place();
    const std::uint64_t len = length();
    ASSERT_TRUE(m_.vfs->fallocate(*own_.file, FallocateMode::kPunchHole | FallocateMode::kKeepSize, pos, len));
    const std::uint64_t end = std::min<std::uint64_t>(pos + len, own_.model.size());
    for (std::uint64_t i = pos; i < end; ++i) own_.model[i] = std::byte{0};
    own_.behind.erase(own_.behind.lower_bound(pos), own_.behind.lower_bound(pos + len));
  }

  void sync() {
    switch (rng_.below(4)) {
      case 0: ASSERT_TRUE(m_.vfs->fsync(*own_.file, SyncKind::kFsync)); break;
      case 1: ASSERT_TRUE(m_.vfs->sync_file_range(*own_.file, place(), length(), SyncFileRange::kWrite)); break;
      case 2: ASSERT_TRUE(m_.vfs->fadvise(*own_.file, place(), length(), Fadvice::kDontNeed)); break;
      case 3: ASSERT_TRUE(m_.vfs->fadvise(*own_.file, place(), length(), Fadvice::kWillNeed)); break;
    }
  }

  // Its own stripes of the shared file.
  void stripe() {
    const std::uint64_t stripes = kMaxSize / (kStripe * kTasks);
    const std::uint64_t pos = (rng_.below(stripes) * kTasks + number_) * kStripe;
    if (rng_.chance(1, 2)) {
      const auto bytes = FileMachine::pattern(kStripe, rng_());
      std::copy(bytes.begin(), bytes.end(), stripes_.begin() + static_cast<std::ptrdiff_t>(pos));
      ASSERT_EQ(m_.write(shared_, pos, bytes).value_or(0), kStripe);
    } else {
      const auto bytes = m_.read(shared_, pos, kStripe);
      ASSERT_TRUE(std::equal(bytes.begin(), bytes.end(), stripes_.begin() + static_cast<std::ptrdiff_t>(pos)));
    }
  }

  void rare() {
    switch (rng_.below(8)) {
      case 0: m_.vfs->drop_pagecache(); break;
      case 1: m_.vfs->sync(); break;
      case 2: m_.vfs->validate(); break;
      case 3: recreate(); break;
      case 4: m_.scheduler.sleep_for(rng_.below(20 * sim::kSecond)); break;
      default: m_.scheduler.sleep_for(rng_.below(sim::kMillisecond)); break;
    }
  }

  // Away with the file, with whatever is dirty or in flight, and a new one in its place.
  void recreate() {
    File* old = own_.file;
    if (own_.name.empty()) {
      own_.file = &m_.shmem(0);
    } else {
      ASSERT_TRUE(m_.fs.unlink(own_.name));
      own_.file = &m_.create(own_.name);
    }
    own_.cut(0);
    m_.vfs->fput(*old);
  }

  void check_all() {
    ASSERT_EQ(own_.file->inode().i_size_read(), own_.model.size());
    ASSERT_EQ(m_.read(*own_.file, 0, kMaxSize + 1), own_.model);
    if (own_.name.empty()) return;
    ASSERT_TRUE(m_.vfs->fsync(*own_.file, SyncKind::kFsync));
    m_.vfs->drop_pagecache();
    ASSERT_EQ(m_.read(*own_.file, 0, kMaxSize + 1), own_.model);
  }

  FileMachine& m_;
  Rng rng_;
  unsigned number_;
  Subject& own_;
  File& shared_;
  std::vector<std::byte> stripes_;
};

// Until no program is left, so that no folio is in its hands when the machine is looked over.
void evict(FileMachine& m, std::uint64_t seed, std::vector<Subject>& subjects, File& shared, const unsigned& running) {
  Rng rng(seed ^ 0xe71c7);
  while (running > 0) {
    Subject& subject = subjects[rng.below(subjects.size())];
    File& file = rng.chance(1, 4) ? shared : *subject.file;
    m.vfs->fget(file);  // recreate() may close it under our hands
    for (std::uint64_t n = rng.below(8); n > 0; --n) m.reclaim(file.mapping(), rng.below(kMaxSize >> kPageShift));
    m.vfs->fput(file);
    m.scheduler.sleep_for(rng.below(100'000) + 1);
  }
}

// What all seeds together came to.
struct Totals {
  std::int64_t swapped_out = 0, swapped_in = 0, written = 0, refaulted = 0;
};

void run_seed(std::uint64_t seed, unsigned ops, Totals& totals) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  const SwapDeviceKind swap = seed % 2 == 0 ? SwapDeviceKind::kZram : SwapDeviceKind::kDisk;
  FileMachine m({.ram = 40 * kMiB,
                 .cpus = 1 + static_cast<unsigned>(seed % 3),
                 .seed = seed,
                 .preempt_permille = static_cast<unsigned>(seed % 5) * 50,
                 .swap = swap});
  m.vfs->writeback().start_flusher();
  m.vfs->writeback().tunables().dirty_expire_centisecs = 100;
  std::vector<Subject> subjects(kTasks);
  for (unsigned i = 0; i < kTasks; ++i) {
    const bool shmem = i % 2 == 1;
    if (!shmem) subjects[i].name = "file" + std::to_string(i);
    subjects[i].file = shmem ? &m.shmem(0) : &m.create(subjects[i].name);
  }
  File& shared = m.create("shared", std::make_unique<ZeroBacking>(kMaxSize));
  std::vector<std::unique_ptr<Program>> programs;
  unsigned running = kTasks;
  for (unsigned i = 0; i < kTasks; ++i) {
    programs.push_back(std::make_unique<Program>(m, seed, i, subjects[i], shared));
    m.scheduler.spawn("program", [&programs, &running, i, ops] {
      programs[i]->run(ops);
      --running;
    });
  }
  m.scheduler.spawn("evictor", [&] { evict(m, seed, subjects, shared, running); });
  m.scheduler.run();
  m.vfs->validate();
  m.swap->validate();
  m.lru.validate();
  totals.swapped_out += m.event(phys::VmEvent::kPswpout);
  totals.swapped_in += m.event(phys::VmEvent::kPswpin);
  totals.written += m.node_stat(phys::NodeStat::kNrWritten);
  totals.refaulted += m.node_stat(phys::NodeStat::kWorkingsetRefaultFile);
}

TEST(FileModel, EveryByteIsRightUnderEvictionAndWriteback) {
  const std::uint64_t seeds = from_environment("QUIRE_SEEDS", 16, 5);
  Totals totals;
  for (std::uint64_t seed = 1; seed <= seeds && !testing::Test::HasFailure(); ++seed) run_seed(seed, 450, totals);
  // That the runs were about something.
  EXPECT_GT(totals.swapped_out, 0);
  EXPECT_GT(totals.swapped_in, 0);
  EXPECT_GT(totals.written, 0);
  EXPECT_GT(totals.refaulted, 0);
}

// The same seed gives the same run, to the nanosecond and the last counter.
TEST(FileModel, ASeedRepeats) {
  const auto run = [] {
    FileMachine m({.ram = 40 * kMiB, .cpus = 2, .seed = 5, .preempt_permille = 100, .swap = SwapDeviceKind::kZram});
    m.vfs->writeback().start_flusher();
    std::vector<Subject> subjects(2);
    subjects[0].name = "a";
    subjects[0].file = &m.create("a");
    subjects[1].file = &m.shmem(0);
    File& shared = m.create("shared", std::make_unique<ZeroBacking>(kMaxSize));
    Program one(m, 5, 0, subjects[0], shared);
    Program two(m, 5, 1, subjects[1], shared);
    unsigned running = 2;
    m.scheduler.spawn("one", [&] { one.run(300), --running; });
    m.scheduler.spawn("two", [&] { two.run(300), --running; });
    m.scheduler.spawn("evictor", [&] { evict(m, 5, subjects, shared, running); });
    m.scheduler.run();
    return std::pair(m.scheduler.now(), m.phys->vmstat().events());
  };
  EXPECT_EQ(run(), run());
}

}  // namespace
}  // namespace quire::file
