// quire explain alloc: one allocation.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "quire/cli/command.h"
#include "quire/cli/experiment.h"
#include "quire/cli/explain.h"
#include "quire/cli/machine_state.h"
#include "quire/cli/numbers.h"
#include "quire/kernel/machine.h"
#include "quire/phys/alloc/alloc_policy.h"

namespace quire::cli {

namespace {

using phys::Gfp;

// What is asked, checked.
struct AllocQuestion {
  Order order;
  Gfp gfp = Gfp::kKernel;
  Nid nid = kNoNode;
  MachineState state;
};

Checked<AllocQuestion> alloc_question(const ExplainOptions& options, unsigned nodes) {
  AllocQuestion q;
  const auto order =
      whole_number("--order", options.order.value_or("0"), {.least = 0, .most = phys::kMaxOrder.value(), .what = "log2 pages"});
  if (!order) return std::unexpected(order.error());
  q.order = Order(static_cast<unsigned>(*order));
  const std::string words = options.gfp.value_or("GFP_KERNEL");
  const auto gfp = phys::parse_gfp(words);
  if (!gfp) return user_error(fmt::format("--gfp {}: {}", words, gfp.error().sentence));
  q.gfp = *gfp;
  const auto fill = whole_number("--fill", options.fill, {.least = 0, .most = 100, .what = "percent"});
  if (!fill) return std::unexpected(fill.error());
  q.state.fill_percent = static_cast<unsigned>(*fill);
  if (options.fragment) {
    if (q.order.value() == 0) return user_error("--fragment: a single page is never in pieces; give --order 1 or more");
    q.state.fragmented = q.order;
  }
  if (options.node) {
    const auto nid = whole_number("--on-node", *options.node, {.least = 0, .most = nodes - 1, .what = "this machine's nodes"});
    if (!nid) return std::unexpected(nid.error());
    q.nid = Nid(static_cast<int>(*nid));
  }
  return q;
}

// Tracepoints of other floors that are steps of an allocation; the rest (scheduler, LRU, slab) is not.
bool is_step_of_allocation(std::string_view name) {
  constexpr std::string_view kSteps[] = {"mm_vmscan_wakeup_kswapd",
                                         "mm_vmscan_direct_reclaim_begin",
                                         "mm_vmscan_direct_reclaim_end",
                                         "mm_vmscan_node_reclaim_begin",
                                         "mm_vmscan_node_reclaim_end",
                                         "mm_vmscan_throttled",
                                         "reclaim_retry_zone",
                                         "compact_retry",
                                         "mark_victim",
                                         "mm_page_alloc",
                                         "mm_page_alloc_zone_locked",
                                         "mm_page_alloc_extfrag"};
  return name.starts_with("alloc_") || name.starts_with("mm_compaction_") ||
         std::ranges::find(kSteps, name) != std::end(kSteps);
}

// What came of it all.
struct Allocation {
  Experiment experiment;
  FillReport before;
  std::vector<std::string> log;  // the kernel's report of a failure
  std::optional<Pfn> pfn;
  sim::Nanos took = 0;
};

// Reclaim's own allocations (a swap slot's page) are steps of it, not of the request.
class OutermostOnly {
 public:
  explicit OutermostOnly(Steps& steps) : steps_(steps) {}
  void operator()(Event event) {
    const bool begins = event.name == "alloc_begin";
    const bool ends = event.name == "mm_page_alloc";
    if (begins) ++depth_;
    if (depth_ <= 1) steps_.add(std::move(event));
    if (ends && depth_ > 0) --depth_;
  }

 private:
  Steps& steps_;
  int depth_ = 0;
};

Allocation allocate(kernel::Machine& machine, const AllocQuestion& q) {
  Allocation a;
  Experiment& experiment = a.experiment;
  std::optional<StepListener> listener;
  const auto body = [&](kernel::Thread& thread) {
    const auto filled = Filler(machine, thread).bring_into(q.state);
    if (!filled) {
      experiment.mistake = filled.error().sentence;
      return;
    }
    a.before = *filled;
    machine.phys().set_log_sink([&a](std::string_view line) { a.log.emplace_back(line); });
    listener.emplace(machine, is_step_of_allocation, OutermostOnly(experiment.steps));
    experiment.begun_at = listener->start();
    const phys::Page* page = machine.phys().alloc_pages(q.gfp, q.order, q.nid);
    if (page != nullptr) a.pfn = machine.phys().page_to_pfn(*page);
    a.took = machine.scheduler().now() - listener->start();
    experiment.done = true;
    listener.reset();
    machine.phys().set_log_sink({});
  };
  run_experiment(machine, experiment, body, [&] {
    if (listener) a.took = machine.scheduler().now() - listener->start();
    listener.reset();
    machine.phys().set_log_sink({});
  });
  return a;
}

// --- telling --------------------------------------------------------------------------------------------------------------------

std::string flag_words(std::int64_t alloc_flags) {
  const auto flags = static_cast<phys::AllocFlags>(alloc_flags);
  using F = phys::AllocFlags;
  constexpr std::pair<F, std::string_view> kWords[] = {{F::kNoWatermarks, "ALLOC_NO_WATERMARKS"},
                                                       {F::kOom, "ALLOC_OOM"},
                                                       {F::kHarder, "ALLOC_HARDER"},
                                                       {F::kHigh, "ALLOC_HIGH"},
                                                       {F::kCma, "ALLOC_CMA"},
                                                       {F::kNoFragment, "ALLOC_NOFRAGMENT"},
                                                       {F::kFair, "ALLOC_FAIR"},
                                                       {F::kKswapd, "ALLOC_KSWAPD"}};
  constexpr std::string_view kMarks[] = {"ALLOC_WMARK_MIN", "ALLOC_WMARK_LOW", "ALLOC_WMARK_HIGH", "ALLOC_WMARK_PROMO"};
  std::vector<std::string_view> words;
  if (!any(flags, F::kNoWatermarks)) words.push_back(kMarks[bits(flags & F::kWmarkMask)]);
  for (const auto& [flag, word] : kWords) {
    if (any(flags, flag)) words.push_back(word);
  }
  return fmt::format("{}", fmt::join(words, " "));
}

std::string zone_line(const Event& e) {
  return fmt::format("    node {} {:<8} free {} pages, {} mark {}{}: {}", e.n("nid"), e.s("zone"), e.n("free"),
                     e.s("mark_name"), e.n("mark"),
                     e.n("protection") != 0 ? fmt::format(" + protection {}", e.n("protection")) : "", e.s("verdict"));
}

std::string taken_line(const Event& e) {
  if (e.n("pfn") == static_cast<std::int64_t>(phys::kNoPfn)) {
    return fmt::format("    node {} {:<8} has no such block to give", e.n("nid"), e.s("zone"));
  }
  return fmt::format("    node {} {:<8} gives pfn {:#x}, from the {}", e.n("nid"), e.s("zone"), e.n("pfn"), e.s("source"));
}

std::string_view type_name(std::int64_t type) { return phys::migratetype_name(static_cast<phys::MigrateType>(type)); }

std::string extfrag_line(const Event& e) {
  return fmt::format("    fallback: a {} block of order {} serves the {} request{}", type_name(e.n("fallback_migratetype")),
                     e.n("fallback_order"), type_name(e.n("alloc_migratetype")),
                     e.n("change_ownership") != 0 ? ", its pageblock changes type" : "");
}

// One line for an event; nothing for one that another line tells better.
std::string line(const Event& e) {
  const std::string_view name = e.name;
  if (name == "alloc_pass") return fmt::format("  {} [{}]", e.s("why"), flag_words(e.n("alloc_flags")));
  if (name == "alloc_zone") return zone_line(e);
  if (name == "alloc_taken") return taken_line(e);
  if (name == "alloc_step") {
    std::string text = fmt::format("  {}", e.s("step"));
    if (!e.s("result").empty()) text += fmt::format(": {}", e.s("result"));
    if (e.n("pages") != 0) text += fmt::format(" ({} page{})", e.n("pages"), e.n("pages") == 1 ? "" : "s");
    return text;
  }
  if (name == "alloc_retry") return fmt::format("  retry: {}", e.s("why"));
  if (name == "alloc_gave_up") return fmt::format("  gives up: {}", e.s("why"));
  if (name == "mm_page_alloc_extfrag") return extfrag_line(e);
  if (name == "mm_vmscan_wakeup_kswapd")
    return fmt::format("    kswapd of node {} wakes up, for order {}", e.n("nid"), e.n("order"));
  if (name == "mm_vmscan_throttled") {
    return fmt::format("    throttled for {} us: {}", e.n("usec_delayed"), e.s("reason"));
  }
  if (name == "mark_victim") return fmt::format("    process {} is killed", e.n("pid"));
  if (name == "reclaim_retry_zone") {
    return fmt::format(
        "    would {} pages, {} of them reclaimable, pass the min mark of {} on node {}? {} (no progress: {} times)",
        e.n("available"), e.n("reclaimable"), e.n("min_wmark"), e.n("node"), e.n("wmark_check") != 0 ? "yes" : "no",
        e.n("no_progress_loops"));
  }
  if (name == "compact_retry") {
    return fmt::format("    compaction {}, priority {}, retry {} of {}: {}", e.s("result"), e.n("priority"), e.n("retries"),
                       e.n("max_retries"), e.n("ret") != 0 ? "once more" : "no more");
  }
  return {};
}

// Compaction tells of each run of pages; one line for each zone does, and --json has the rest.
class CompactionLine {
 public:
  // The line, when the zone is done.
  std::string take(const Event& e) {
    if (e.name == "mm_compaction_suitable") zone_ = fmt::format("node {} {}", e.n("nid"), e.s("zone"));
    if (e.name == "mm_compaction_begin") scanned_ = moved_ = 0;
    if (e.name == "mm_compaction_isolate_migratepages") scanned_ += e.n("nr_scanned");
    if (e.name == "mm_compaction_migratepages") moved_ += e.n("nr_migrated");
    if (e.name != "mm_compaction_end") return {};
    return fmt::format("    {}: {} pages looked at, {} moved: {}", zone_, scanned_, moved_, e.s("status"));
  }

 private:
  std::string zone_;
  std::int64_t scanned_ = 0;
  std::int64_t moved_ = 0;
};

// Events as lines. Refills of a per-CPU list tell of each block; one line does for a run of them.
std::vector<std::string> lines_of(const auto& events) {
  std::vector<std::string> lines;
  std::int64_t refill = 0;
  CompactionLine compaction;
  for (const Event& event : events) {
    if (event.name == "mm_page_alloc_zone_locked") {
      refill += event.n("percpu_refill");
      continue;
    }
    if (refill > 1) lines.push_back(fmt::format("    the per-CPU list is refilled: {} blocks from the buddy\n", refill));
    if (event.name != "mm_page_alloc_extfrag") refill = 0;
    const std::string text = event.name.starts_with("mm_compaction_") ? compaction.take(event) : line(event);
    if (!text.empty()) lines.push_back(fmt::format("{:>9.1f} us{}\n", static_cast<double>(event.at) / 1000, text));
  }
  return lines;
}

// The beginning and the end of a long telling; of one that has no end, more of what it does again and again is no help.
void tell_steps(const Allocation& a) {
  constexpr std::size_t kMostLines = 200;
  constexpr std::size_t kLastTries = 40;
  std::vector<std::string> lines = lines_of(a.experiment.steps.first());
  const std::vector<std::string> last = lines_of(a.experiment.steps.last());
  lines.insert(lines.end(), last.begin(), last.end());
  const std::size_t end = a.experiment.done ? kMostLines / 2 : kLastTries;
  const std::size_t begin = a.experiment.done ? kMostLines - end : 0;
  if (lines.size() <= begin + end) {
    for (const std::string& text : lines) print(text);
    return;
  }
  for (std::size_t i = 0; i < begin; ++i) print(lines[i]);
  print(fmt::format("  ... {} steps in all; {} (--json has more) ...\n", a.experiment.steps.all(),
                    a.experiment.done ? "those between are left out" : "these are the last"));
  for (std::size_t i = lines.size() - end; i < lines.size(); ++i) print(lines[i]);
}

// Why a request still tries.
std::string still_trying(const AllocQuestion& q, const Allocation& a) {
  const std::string why = any(q.gfp, Gfp::kNoFail)
                              ? "__GFP_NOFAIL forbids it to give up, and there is no such block to be had"
                              : "a request like this one gives up only when there is nothing left to reclaim or to kill";
  return fmt::format("still trying after {:.1f} s of the machine's time and {} steps: {}", static_cast<double>(a.took) / 1e9,
                     a.experiment.steps.all(), why);
}

void tell(const kernel::Machine& machine, const AllocQuestion& q, const Allocation& a) {
  const kernel::MachineConfig& config = machine.config();
  print(fmt::format("{} of order {} ({} page{}), {}{}, policy {}\n", "one allocation", q.order.value(), q.order.pages(),
                    q.order.pages() == 1 ? "" : "s", phys::gfp_names(q.gfp),
                    q.nid == kNoNode ? "" : fmt::format(", on node {}", q.nid.value()),
                    config.alloc_policy.empty() ? config.profile : config.alloc_policy));
  print(
      fmt::format("the machine before: {} of {} pages free, largest free block {}; page cache {}, anonymous {}, kernel {}\n\n",
                  a.before.free, a.before.managed,
                  a.before.largest_free ? fmt::format("of order {}", a.before.largest_free->value()) : "none",
                  a.before.page_cache, a.before.anonymous, a.before.kernel));
  tell_steps(a);
  if (!a.experiment.done) {
    print(fmt::format("\nresult: {}\n", still_trying(q, a)));
  } else if (a.pfn) {
    print(fmt::format("\nresult: pfn {:#x} after {:.1f} us\n", a.pfn->value(), static_cast<double>(a.took) / 1000));
  } else {
    print(fmt::format("\nresult: NULL after {:.1f} us\n", static_cast<double>(a.took) / 1000));
  }
  for (const std::string& text : a.log) print(fmt::format("log: {}\n", text));
}

nlohmann::json to_json(const kernel::Machine& machine, const AllocQuestion& q, const Allocation& a) {
  const kernel::MachineConfig& config = machine.config();
  nlohmann::json before = {{"free", a.before.free},
                           {"managed", a.before.managed},
                           {"page_cache", a.before.page_cache},
                           {"anonymous", a.before.anonymous},
                           {"kernel", a.before.kernel}};
  before["largest_free_order"] =
      a.before.largest_free ? nlohmann::json(a.before.largest_free->value()) : nlohmann::json(nullptr);
  return {{"order", q.order.value()},
          {"gfp", phys::gfp_names(q.gfp)},
          {"policy", config.alloc_policy.empty() ? config.profile : config.alloc_policy},
          {"before", std::move(before)},
          {"done", a.experiment.done},
          {"steps", a.experiment.steps.all()},
          {"events_left_out", a.experiment.steps.left_out()},
          {"events", a.experiment.steps.to_json()},
          {"log", a.log},
          {"ns", a.took},
          {"pfn", a.pfn ? nlohmann::json(a.pfn->value()) : nlohmann::json(nullptr)}};
}

}  // namespace

int explain_alloc(const ExplainOptions& options) {
  auto config = options.machine.config();
  if (!config) return complain(config.error().sentence, kUsage);
  const auto q = alloc_question(options, config->nodes);
  if (!q) return complain(q.error().sentence, kUsage);
  auto machine = kernel::Machine::boot(*config);
  if (!machine) return complain(machine.error().sentence);
  const Allocation a = allocate(**machine, *q);
  if (!a.experiment.mistake.empty()) return complain(a.experiment.mistake);
  if (options.json) {
    print_json(to_json(**machine, *q, a));
  } else {
    tell(**machine, *q, a);
  }
  return a.experiment.done ? 0 : 1;
}

}  // namespace quire::cli
