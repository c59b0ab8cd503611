// A task that does random things to the plots of its own process, and looks at and writes to those of others: see plots.h.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plots.h"
#include "quire/base/rng.h"

namespace quire::kernel::test {

// What acts may be, so that a test can say that each was done.
enum class Act : std::uint8_t {
  kLook,
  kWrite,
  kGuard,
  kUnguard,
  kDontNeed,
  kFree,
  kOwnAdvice,
  kOthersAdvice,
  kLock,
  kLockAll,
  kOnFork,
  kProtect,
  kSeal,
  kMove,
  kRemap,
  kFork,
  kRemoteRead,
  kRemoteWrite,
  kFileWrite,
  kFileRead,
  kCut,
  kFileSeal,
  kCount
};

// What the tasks of one machine share.
struct Fray {
  Fray(Machine& on, std::uint64_t with_seed) : machine(on), seed(with_seed) {}

  Machine& machine;
  const std::uint64_t seed;
  Clock clock;
  Number next = 0;
  std::vector<std::unique_ptr<Space>> spaces;
  std::vector<std::unique_ptr<SealedFile>> files;  // the last is the one that is mapped from now on
  std::array<bool, kSlots> taken{};
  unsigned round = 0, living = 0, finished = 0;
  bool over = false;
  std::array<std::uint64_t, static_cast<std::size_t>(Act::kCount)> done{};
  std::uint64_t refused = 0, killed = 0, short_of_memory = 0, write_sealed = 0;
  std::string first_mismatch;

  void mismatch(std::string what) {
    if (first_mismatch.empty()) first_mismatch = std::move(what);
  }
  // A slot that nobody has, or kSlots.
  unsigned take_slot();
  Status new_file();
  // Until the test calls the next round, or the task's process is killed; false: the test is over.
  bool wait_for_round(unsigned next_round, const Process& self);
};

class Actor {
 public:
  static constexpr unsigned kActsInARound = 12;

  Actor(Fray& fray, Space& space, unsigned slot, std::uint64_t seed) : fray_(fray), space_(space), slot_(slot), rng_(seed) {}

  // The first thread of a process makes its plots before it acts.
  void set_up();
  // Rounds [first, first + rounds), or until the test is over.
  void act(Thread& thread, unsigned first, unsigned rounds);
  // Reads a page and holds it against the model.
  void look(Plot& plot, std::uint64_t page);

 private:
  struct Pages {  // of a plot
    std::uint64_t first, end;
  };

  bool one_act();
  // --- plot_acts.cc: on the process's own plots; false: not now
  void write(Plot& plot, std::uint64_t page);
  bool guard(Plot& plot);
  bool unguard(Plot& plot);
  bool dont_need(Plot& plot);
  bool free(Plot& plot);
  bool lock(Plot& plot);
  bool lock_all();
  bool on_fork(Plot& plot);
  bool protect(Plot& plot);
  bool seal(Plot& plot);
  bool defy_seal(Plot& plot);
  bool move(Plot& plot);
  bool remap(Plot& plot);
  bool fork();
  // --- plot_calls.cc: on others', and on files
  bool own_advice(Plot& plot);
  bool others_advice();
  bool remote_read();
  bool remote_write();
  bool file_write();
  bool file_read();
  bool cut();
  bool seal_file();

  void refused(const vm::AccessOutcome& outcome, const Plot& plot, std::uint64_t page, arch::Access kind, Moment begun);
  void check_bytes(const std::byte* bytes, Content& content, std::string_view where);
  // Did the call succeed? It must, or end in the error that is expected; or be short of memory.
  using Expected = std::optional<Errno>;
  bool expect(const Status& status, Expected expected, std::string_view call);
  void map(Plot& plot, PlotKind kind, std::optional<VirtAddr> over);
  // Where to ask for a place: anywhere, often beside another plot, or apart from all.
  VirtAddr some_place();
  void guards_are_open(Plot& plot, std::array<bool, kPlotPages>& were);
  [[nodiscard]] static bool discard_is_sealed(const Plot& plot) {
    return plot.sealed && plot.kind != PlotKind::kFile && plot.read_only.surely();
  }
  [[nodiscard]] std::uint64_t sure_reach(const Plot& plot, std::uint64_t page, arch::Access kind) const;
  [[nodiscard]] Pages some_pages();
  [[nodiscard]] Range<VirtAddr> range_of(const Plot& plot, Pages pages) const;
  [[nodiscard]] VirtAddr scratch() const { return space_.scratch + slot_ * kScratchPages * kPageSize; }
  [[nodiscard]] bool killed() const { return space_.process->killed(); }
  [[nodiscard]] vm::Mm& mm() const { return space_.mm(); }
  [[nodiscard]] vm::Vm& vm() const { return fray_.machine.vm(); }
  Plot& some_plot() { return space_.plots[rng_.below(kPlots)]; }
  Space* some_space();

  Fray& fray_;
  Space& space_;
  unsigned slot_;
  Rng rng_;
};

// A plot that a call changes, until the end of the block.
class Claim {
 public:
  explicit Claim(Plot& plot) : plot_(plot) { plot_.busy = true; }
  ~Claim() { plot_.busy = plot_.placing = false; }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  Plot& plot_;
};

}  // namespace quire::kernel::test
