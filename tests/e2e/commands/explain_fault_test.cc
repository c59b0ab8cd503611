// quire explain fault: the way of one page fault.
#include <nlohmann/json.hpp>

#include "commands.h"

namespace quire {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

class ExplainFault : public Commands {
 protected:
  [[nodiscard]] Output explain(const std::string& words) const { return quire("explain fault --ram 64M " + words); }
  // The functions of the fault tree in the order in which they were entered.
  [[nodiscard]] std::string way(const std::string& kind) const {
    const Output output = explain("--swap zram:32M --json --kind " + kind);
    EXPECT_EQ(output.status, 0) << kind << ": " << output.err;
    std::string functions;
    const nlohmann::json answer = nlohmann::json::parse(output.out);
    for (const auto& event : answer["events"]) {
      if (event["event"] == "funcgraph_entry") functions += event["fields"]["func"].get<std::string>() + " ";
    }
    return functions;
  }
};

TEST_F(ExplainFault, EachKindTakesItsWayThroughTheTree) {
  const std::string begin = "exc_page_fault handle_mm_fault handle_pte_fault ";
  const std::pair<std::string, std::string> ways[] = {
      {"anon-read", begin + "do_anonymous_page "},
      {"anon-write", begin + "do_anonymous_page "},
      {"zero-write", begin + "do_wp_page wp_page_copy "},
      {"cow", begin + "do_wp_page wp_page_copy "},
      {"reuse", begin + "do_wp_page wp_page_reuse "},
      // Once to have it read, without mmap_lock, and once more to map it.
      {"file-read", begin + "do_fault do_read_fault do_fault_around fault_page handle_mm_fault handle_pte_fault " +
                        "do_fault do_read_fault do_fault_around "},
      {"file-cached", begin + "do_fault do_read_fault do_fault_around "},
      {"file-private", begin + "do_fault do_cow_fault fault_page finish_fault "},
      {"file-shared", begin + "do_fault do_shared_fault fault_page do_page_mkwrite finish_fault fault_dirty_shared_page "},
      {"swap", begin + "do_swap_page map_swapped_in "},
      {"stack", "exc_page_fault expand_stack handle_mm_fault handle_pte_fault do_anonymous_page "},
      {"segv-maperr", "exc_page_fault "},
      {"segv-accerr", "exc_page_fault "},
      {"sigbus", begin + "do_fault do_read_fault do_fault_around fault_page "},
  };
  for (const auto& [kind, functions] : ways) EXPECT_EQ(way(kind), functions) << kind;
}

TEST_F(ExplainFault, APageComesBackFromEveryKindOfSwap) {
  for (const std::string area : {"zram:64M", "disk:64M"}) {
    const Output output = explain("--kind swap --swap " + area);
    EXPECT_EQ(output.status, 0) << area << ": " << output.err;
    EXPECT_THAT(output.out, AllOf(HasSubstr("do_swap_page"), HasSubstr("counted as a major fault"))) << area;
  }
}

TEST_F(ExplainFault, AKindMayBeWrittenInCapitals) {
  EXPECT_EQ(explain("--kind COW").out, explain("--kind cow").out);
  EXPECT_THAT(explain("--kind Cow").out, HasSubstr("do_wp_page"));
}

TEST_F(ExplainFault, LocksPagesAndTimesStandInTheGraph) {
  const Output output = explain("");
  EXPECT_EQ(output.status, 0) << output.err;
  EXPECT_THAT(
      output.out,
      AllOf(HasSubstr("one fault: the first write to anonymous memory"), HasSubstr("error_code=0x6 (user write, no page)"),
            HasSubstr("/* lock_acquire: read mmap_lock */"), HasSubstr("/* mm_page_alloc: gfp_flags=GFP_HIGHUSER_MOVABLE"),
            HasSubstr(" us | }"), HasSubstr("mapped writable, dirty; counted as a minor fault, after ")));
}

TEST_F(ExplainFault, ReadaheadsPagesAreFoldedIntoOne) {
  const Output output = explain("--kind file-read");
  EXPECT_THAT(output.out, AllOf(HasSubstr(" more of these "), HasSubstr("prev_state=D"), HasSubstr("a major fault")));
  EXPECT_LT(std::count(output.out.begin(), output.out.end(), '\n'), 200);
}

TEST_F(ExplainFault, SignalsAreNamed) {
  EXPECT_THAT(explain("--kind segv-maperr").out, HasSubstr("result: SIGSEGV, si_code SEGV_MAPERR"));
  EXPECT_THAT(explain("--kind segv-accerr").out, HasSubstr("result: SIGSEGV, si_code SEGV_ACCERR"));
  EXPECT_THAT(explain("--kind sigbus").out, HasSubstr("result: SIGBUS, si_code BUS_ADRERR"));
}

TEST_F(ExplainFault, AFullMachineReclaimsInTheFault) {
  const Output output = explain("--kind stack --fill 100 --swap zram:64M");
  EXPECT_EQ(output.status, 0) << output.err;
  EXPECT_THAT(output.out, HasSubstr("mm_vmscan_direct_reclaim_begin"));
}

TEST_F(ExplainFault, MistakesGetASentence) {
  expect_sentence(explain("--kind file-shard"), "did you mean 'file-shared'?", 2);
  expect_sentence(explain("--kind 1234567"), "there is no such fault; there are anon-read, anon-write", 2);
  expect_sentence(quire("explain fault --ram 64M --arch i386"), "use quire boot or quire explain alloc, or leave --arch out",
                  2);
  expect_sentence(explain("--kind swap"), "this machine has no swap", 2);
  expect_sentence(explain("--order 3"), "--order belongs to 'explain alloc'", 2);
  expect_sentence(quire("explain alloc --kind cow"), "--kind belongs to 'explain fault'", 2);
  expect_sentence(quire("explain"), "what", 2);
  expect_sentence(quire("explain page"), "'alloc' and 'fault'", 2);
}

}  // namespace
}  // namespace quire
