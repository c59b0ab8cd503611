// The OOM killer.
#include "quire/reclaim/oom.h"

#include "quire/base/bug.h"
#include "quire/reclaim/reclaim.h"

namespace quire::reclaim {

std::optional<std::int64_t> oom_badness(const OomCandidate& candidate, std::uint64_t totalpages) {
  if (candidate.oom_score_adj == kOomScoreAdjMin || candidate.state == OomCandidate::State::kSkip) return std::nullopt;
  const auto pages = static_cast<std::int64_t>(candidate.rss + candidate.swapents + candidate.pgtables);
  return pages + candidate.oom_score_adj * static_cast<std::int64_t>(totalpages / 1000);
}

OomChoice select_bad_process(OomVictims& victims, std::uint64_t totalpages) {
  OomChoice choice;
  victims.for_each_candidate([&](const OomCandidate& candidate) {
    if (candidate.state == OomCandidate::State::kVictim) {
      // Its memory is on the way; killing another would be one too many.
      choice = OomChoice{OomChoice::Kind::kAlreadyDying, candidate.pid, 0};
      return OomVisit::kStop;
    }
    const auto points = oom_badness(candidate, totalpages);
    if (!points) return OomVisit::kContinue;
    if (choice.kind == OomChoice::Kind::kNobody || *points >= choice.points) {
      choice = OomChoice{OomChoice::Kind::kChosen, candidate.pid, *points};
    }
    return OomVisit::kContinue;
  });
  return choice;
}

// The process that asked for memory, if it may be killed.
static OomChoice allocating_task(OomVictims& victims, std::uint64_t totalpages) {
  OomChoice choice;
  const std::uint64_t current = victims.current_pid();
  victims.for_each_candidate([&](const OomCandidate& candidate) {
    if (candidate.pid != current) return OomVisit::kContinue;
    if (const auto points = oom_badness(candidate, totalpages)) {
      choice = OomChoice{OomChoice::Kind::kChosen, candidate.pid, *points};
    }
    return OomVisit::kStop;
  });
  return choice;
}

bool Reclaim::out_of_memory(phys::Gfp gfp, Order) {
  if (victims_ == nullptr) return false;
  // A task that is dying anyway gets on by itself.
  if (victims_->fatal_signal_pending()) return true;
  // Who may not enter the file system could not reclaim what others can: no reason to kill.
  if (!any(gfp, phys::Gfp::kFs)) return true;
  const std::uint64_t totalpages = parts_.phys.totalram_pages() + parts_.swap.total_swap_pages();
  OomChoice choice;
  if (tunables_.oom_kill_allocating_task) choice = allocating_task(*victims_, totalpages);
  if (choice.kind == OomChoice::Kind::kNobody) choice = select_bad_process(*victims_, totalpages);
  if (choice.kind == OomChoice::Kind::kNobody) return false;
  if (choice.kind == OomChoice::Kind::kAlreadyDying) return true;
  ++nr_oom_kills_;
  parts_.phys.vmstat().count_vm_event(phys::VmEvent::kOomKill);
  events_.mark_victim([&] { return MarkVictim{choice.pid}; });
  victims_->oom_kill_process(choice.pid, static_cast<std::uint64_t>(choice.points > 0 ? choice.points : 0));
  return true;
}

}  // namespace quire::reclaim
