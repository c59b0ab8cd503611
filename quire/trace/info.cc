#include "quire/trace/info.h"

#include <algorithm>
#include <deque>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace quire::trace {
namespace {

constexpr std::uint32_t kRead = 0, kWrite = 1, kClose = 3, kPread = 17, kPwrite = 18, kReadv = 19, kWritev = 20, kDup2 = 33,
                        kDup3 = 292, kPreadv = 295, kPwritev = 296, kPreadv2 = 327, kPwritev2 = 328;
constexpr std::uint64_t kCloneVm = 0x100, kCloneVfork = 0x4000;

bool reads(std::uint32_t n) { return n == kRead || n == kPread || n == kReadv || n == kPreadv || n == kPreadv2; }
bool writes(std::uint32_t n) { return n == kWrite || n == kPwrite || n == kWritev || n == kPwritev || n == kPwritev2; }

// The pages of one address space. Threads share it.
struct Space {
  std::unordered_map<std::uint64_t, bool> pages;  // page → was written
};

// What is followed of one task while its records go by.
struct Follower {
  TaskStream* stream = nullptr;
  TaskId parent;
  std::shared_ptr<Space> space;
  std::shared_ptr<std::map<std::int64_t, std::string>> fds;  // of regular files
};

class Summary {
 public:
  Summary(TraceReader& reader, TraceInfo& info) : reader_(reader), info_(info) {}

  void run() {
    if (TaskStream* first = reader_.first_task()) start({first, {}, make<Space>(), make<Fds>()});
    while (!queue_.empty()) drain();
    while (reader_.pull()) {}
    // Tasks nobody forked: the trace lost their parents' records.
    const std::vector<TaskStream*> met(reader_.tasks().begin(), reader_.tasks().end());
    for (TaskStream* stream : met) {
      if (started_.insert(stream).second) queue_.push_back({stream, {}, make<Space>(), make<Fds>()});
      while (!queue_.empty()) drain();
    }
    for (auto& [path, file] : files_) info_.files.push_back(std::move(file));
  }

 private:
  using Fds = std::map<std::int64_t, std::string>;
  template <class T>
  static std::shared_ptr<T> make() {
    return std::make_shared<T>();
  }

  void start(Follower follower) {
    if (started_.insert(follower.stream).second) queue_.push_back(std::move(follower));
  }

  void drain() {
    Follower f = std::move(queue_.front());
    queue_.pop_front();
    TaskInfo task;
    task.id = f.stream->id();
    task.parent = f.parent;
    Record r;
    for (;;) {
      for (const Access& a : f.stream->accesses()) access(task, f, a.page(), a.kind(), a.instructions);
      if (!f.stream->next(r)) break;
      if (r.kind == RecordKind::kAccess) {
        access(task, f, r.page, r.access, r.instructions);
      } else {
        task.instructions += r.instructions;
        other(task, f, r);
      }
    }
    info_.instructions += task.instructions;
    info_.tasks.push_back(std::move(task));
    count_pages(f);
  }

  void access(TaskInfo& task, Follower& f, std::uint64_t page, AccessKind kind, std::uint64_t instructions) {
    task.instructions += instructions;
    ++task.accesses;
    switch (kind) {
      case AccessKind::kRead: ++info_.reads; break;
      case AccessKind::kWrite: ++info_.writes; break;
      case AccessKind::kExec: ++info_.executes; break;
    }
    bool& written = f.space->pages.try_emplace(page, false).first->second;
    written |= kind == AccessKind::kWrite;
  }

  void count_pages(Follower& f) {
    if (f.space.use_count() != 1) return;  // another thread goes on in it
    for (const auto& [page, written] : f.space->pages) {
      ++info_.pages;
      info_.pages_written += written ? 1 : 0;
    }
    f.space->pages.clear();
  }

  void other(TaskInfo& task, Follower& f, const Record& r) {
    switch (r.kind) {
      case RecordKind::kAccess:
      case RecordKind::kOrder:
      case RecordKind::kBehind: break;
      case RecordKind::kArea: ++info_.areas; break;
      case RecordKind::kSyscall: syscall(task, f, r); break;
      case RecordKind::kFile: file(f, r); break;
      case RecordKind::kFork: fork(f, r); break;
      case RecordKind::kExec:
        ++info_.execs;
        task.programs.emplace_back(reader_.string(r.path));
        count_pages(f);
        f.space = make<Space>();
        break;
      case RecordKind::kExit:
        task.status = r.status;
        task.signal = r.signal;
        task.end = (r.flags & kExitLost) != 0 ? TaskInfo::End::kKilled : TaskInfo::End::kExited;
        break;
    }
  }

  void fork(const Follower& f, const Record& r) {
    ++info_.forks;
    const bool shares = (r.flags & kCloneVm) != 0 && (r.flags & kCloneVfork) == 0;
    Follower child{&reader_.stream(r.child), f.stream->id(), shares ? f.space : make<Space>(),
                   shares ? f.fds : std::make_shared<Fds>(*f.fds)};
    start(std::move(child));
  }

  void file(Follower& f, const Record& r) {
    if (r.file != FileKind::kRegular) {
      f.fds->erase(r.fd);
      return;
    }
    const std::string path(reader_.string(r.path));
    (*f.fds)[r.fd] = path;
    FileInfo& info = files_[path];
    info.path = path;
    info.size = std::max(info.size, r.size);
  }

  void syscall(TaskInfo& task, Follower& f, const Record& r) {
    ++task.syscalls;
    ++info_.syscalls[syscall_name(r.number)];
    if (r.result < 0) return;
    const auto fd = static_cast<std::int64_t>(r.args[0]);
    if (r.number == kClose) f.fds->erase(fd);
    if (r.number == kDup2 || r.number == kDup3) f.fds->erase(r.result);
    const auto found = f.fds->find(fd);
    if (found == f.fds->end()) return;
    FileInfo& info = files_[found->second];
    if (reads(r.number)) info.bytes_read += static_cast<std::uint64_t>(r.result);
    if (writes(r.number)) info.bytes_written += static_cast<std::uint64_t>(r.result);
  }

  TraceReader& reader_;
  TraceInfo& info_;
  std::deque<Follower> queue_;
  std::unordered_set<TaskStream*> started_;
  std::map<std::string, FileInfo> files_;
};

}  // namespace

TraceInfo summarize(TraceReader& reader) {
  TraceInfo info;
  info.name = reader.name();
  info.header = reader.header();
  Summary(reader, info).run();
  info.complete = reader.complete();
  info.exit_status = reader.exit_status();
  info.warnings = reader.warnings();
  info.bytes = reader.statistics().bytes;
  info.raw_bytes = reader.statistics().raw_bytes;
  info.chunks = reader.statistics().chunks;
  std::ranges::sort(info.tasks, {}, &TaskInfo::id);
  return info;
}

std::expected<TraceInfo, std::string> summarize(const std::string& path) {
  auto reader = TraceReader::open(path);
  if (!reader) return std::unexpected(reader.error());
  return summarize(**reader);
}

}  // namespace quire::trace
