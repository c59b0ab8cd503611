// The OOM killer's judgement: who is killed when nothing else is left. Who the processes are, and how one is killed, is the
// kernel floor's knowledge: it implements OomVictims.
//
// badness = resident pages + swap entries + page-table pages + oom_score_adj / 1000 of all memory; the worst one goes, the
// last of equals. While a victim is still dying nobody else is killed.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "quire/base/function_ref.h"
#include "quire/phys/gfp.h"

namespace quire::reclaim {

inline constexpr int kOomScoreAdjMin = -1000;  // never killed
inline constexpr int kOomScoreAdjMax = 1000;

struct OomCandidate {
  enum class State : std::uint8_t {
    kAlive,
    kVictim,  // chosen already, its memory is on the way
    kSkip,    // nothing more to be had from it (MMF_OOM_SKIP, a vfork child), or not killable (init, kernel threads)
  };
  std::uint64_t pid = 0;
  std::string_view comm;
  State state = State::kAlive;
  int oom_score_adj = 0;
  std::uint64_t rss = 0;  // pages: anonymous, file and shmem
  std::uint64_t swapents = 0;
  std::uint64_t pgtables = 0;  // pages
};

enum class OomVisit : std::uint8_t { kContinue, kStop };

class OomVictims {
 public:
  virtual ~OomVictims() = default;
  // Every process with an address space, in order of creation.
  virtual void for_each_candidate(FunctionRef<OomVisit(const OomCandidate&)> visit) = 0;
  // Kills it with all that shares its memory: it gets no further than its next kernel exit, and may use reserves until then.
  virtual void oom_kill_process(std::uint64_t pid, std::uint64_t points) = 0;
  // The process of the running task; 0 when it has none.
  [[nodiscard]] virtual std::uint64_t current_pid() const = 0;
  // A SIGKILL is pending for the running task (fatal_signal_pending).
  [[nodiscard]] virtual bool fatal_signal_pending() const = 0;
};

// oom_badness: pages; nullopt for one that must not be killed.
[[nodiscard]] std::optional<std::int64_t> oom_badness(const OomCandidate& candidate, std::uint64_t totalpages);

struct OomChoice {
  enum class Kind : std::uint8_t { kNobody, kAlreadyDying, kChosen } kind = Kind::kNobody;
  std::uint64_t pid = 0;
  std::int64_t points = 0;
};
// select_bad_process
[[nodiscard]] OomChoice select_bad_process(OomVictims& victims, std::uint64_t totalpages);

}  // namespace quire::reclaim
