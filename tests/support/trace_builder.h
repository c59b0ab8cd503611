// Traces made by hand, in memory: what tests and benchmarks replay when no program has to be recorded.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "quire/base/types.h"
#include "quire/trace/reader.h"
#include "quire/trace/writer.h"

namespace quire::test {

class TraceBuilder {
 public:
  static constexpr std::uint64_t kFirstPage = 0x10000;

  TraceBuilder() : fd_(memfd_create("trace", MFD_CLOEXEC)), writer_(fd_, "memory", trace::TraceHeader{}) {}
  ~TraceBuilder() { close(fd_); }
  TraceBuilder(const TraceBuilder&) = delete;
  TraceBuilder& operator=(const TraceBuilder&) = delete;

  // The task that the following records belong to; {1, 1} at first.
  TraceBuilder& task(std::uint32_t pid, std::uint32_t tid) {
    task_ = {pid, tid};
    return *this;
  }
  TraceBuilder& record(const trace::Record& r, std::string_view path = {}, std::string_view path2 = {}) {
    check(writer_.task(task_).write(r, path, path2));
    return *this;
  }
  // An anonymous area of `pages` pages from kFirstPage on, there from the start.
  TraceBuilder& area(std::uint64_t pages) {
    trace::Record r;
    r.kind = trace::RecordKind::kArea;
    r.area = trace::AreaKind::kOther;
    r.begin = kFirstPage << kPageShift;
    r.end = (kFirstPage + pages) << kPageShift;
    r.prot = 3;
    return record(r);
  }
  // An access to page kFirstPage + `page`.
  TraceBuilder& touch(std::uint64_t page, trace::AccessKind kind, std::uint32_t instructions = 10) {
    check(writer_.task(task_).write(trace::Access::make(kFirstPage + page, kind, instructions)));
    return *this;
  }
  TraceBuilder& read(std::uint64_t page) { return touch(page, trace::AccessKind::kRead); }
  TraceBuilder& write(std::uint64_t page) { return touch(page, trace::AccessKind::kWrite); }
  TraceBuilder& exit(int status = 0) {
    trace::Record r;
    r.kind = trace::RecordKind::kExit;
    r.flags = trace::kExitGroup;
    r.status = status;
    return record(r);
  }
  TraceBuilder& finish(int status = 0) {
    check(writer_.finish(status));
    return *this;
  }

  // A reader of what was built, from its start. One at a time.
  [[nodiscard]] std::unique_ptr<trace::TraceReader> open() const {
    lseek(fd_, 0, SEEK_SET);
    auto reader = trace::TraceReader::from_fd(dup(fd_), "memory");
    if (!reader) std::abort();
    return std::move(*reader);
  }

 private:
  static void check(const trace::Outcome& outcome) {
    if (!outcome) std::abort();
  }

  int fd_;
  trace::TraceWriter writer_;
  trace::TaskId task_{1, 1};
};

}  // namespace quire::test
