// A machine of two CPUs: the test's task on CPU 0, and another on CPU 1 that does what the test asks of it and is busy, or
// asleep, in between. What the stale-translation checker finds is kept.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "vm_machine.h"

namespace quire::vm {

class TwoCpus {
 public:
  explicit TwoCpus(phys::DataMode data = phys::DataMode::kData)
      : m({.ram = 96 * kMiB, .cpus = 2, .zram = 8 * kMiB, .data = data}) {
    m.vm.tlb_checker().listen([this](const StaleTranslation& s) { found.push_back(s.text()); });
    // The checker's look at each frame that is freed, in builds too that do not look by themselves.
    m.traces.find("mm_page_free")->listen([this](const EventView& event) {
      std::uint64_t pfn = 0;
      std::uint64_t order = 0;
      event.fields([&](std::string_view name, const FieldValue& value) {
        const auto* number = std::get_if<std::uint64_t>(&value);
        if (number == nullptr) return;
        if (name == "pfn") pfn = *number;
        if (name == "order") order = *number;
      });
      m.vm.tlb_checker().before_free(Pfn(pfn), Order(static_cast<unsigned>(order)));
    });
  }

  ~TwoCpus() { m.traces.find("mm_page_free")->silence(); }  // parts that go free pages when the checker is gone
  TwoCpus(const TwoCpus&) = delete;
  TwoCpus& operator=(const TwoCpus&) = delete;

  // `body` on CPU 0, to its end.
  void run(const std::function<void()>& body) {
    m.scheduler.spawn("test",
                      [&] {
                        body();
                        stop_ = true;
                      },
                      {.cpu = 0});
    m.scheduler.spawn("other", [this] { other(); }, {.cpu = 1});
    EXPECT_TRUE(m.scheduler.run().done());
  }
  // From `body`: `job` on CPU 1, to its end.
  void on_other(std::function<void()> job) {
    start_on_other(std::move(job));
    finish_other();
  }
  // The two halves of it: what lies between runs at the same time.
  void start_on_other(std::function<void()> job) { job_ = std::move(job); }
  void finish_other() {
    while (job_) pass_time();
    for (int i = 0; i < 10; ++i) pass_time();  // until it is what it is in between
  }
  void pass_time() {
    m.scheduler.charge(2000);
    m.scheduler.sync_point();
  }
  // What CPU 1 does in between. Asleep: it is idle, so lazy in whatever it has loaded.
  enum class Between : std::uint8_t { kBusy, kAsleep };
  void other_is(Between between) {
    between_ = between;
    on_other([] {});
  }
  void touch_on_other(Mm& mm, VirtAddr at, arch::Access kind = arch::Access::kRead) {
    on_other([&] { ASSERT_TRUE(m.vm.access(mm, at, kind).ok()); });
  }
  void check() { m.vm.tlb_checker().check(); }

  VmMachine m;
  std::vector<std::string> found;

 private:
  void other() {
    while (!stop_) {
      if (job_) {
        job_();
        job_ = nullptr;
      } else if (between_ == Between::kAsleep) {
        m.scheduler.sleep_for(sim::kMillisecond);
      } else {
        pass_time();
      }
    }
  }

  std::function<void()> job_;
  Between between_ = Between::kBusy;
  bool stop_ = false;
};

}  // namespace quire::vm
