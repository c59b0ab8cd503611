// One recorded task on one thread of the machine. Runs on the thread's fiber; see replay.h.
#pragma once

#include <cstdint>
#include <set>
#include <string_view>

#include "quire/engine/file_hold.h"
#include "quire/engine/replay.h"
#include "quire/kernel/process_table.h"
#include "quire/trace/reader.h"

namespace quire::engine {

class ThreadReplay {
 public:
  ThreadReplay(Replay& replay, Replay::Program& program, trace::TaskStream& stream, kernel::Thread& thread);
  ~ThreadReplay() { forget_next_file(); }
  ThreadReplay(const ThreadReplay&) = delete;
  ThreadReplay& operator=(const ThreadReplay&) = delete;

  // From the first record to the exit of the thread.
  void run();

 private:
  enum class Next : std::uint8_t { kGoOn, kEnded };

  // --- thread_replay.cc
  Next touch(std::span<const trace::Access> accesses);
  Next touch_one(std::uint64_t page, trace::AccessKind kind);
  Next touch_failed(const vm::AccessOutcome& outcome);
  Next record(const trace::Record& r);
  Next exit(const trace::Record& r);
  void end(kernel::ExitStatus status);
  void replay_records();
  [[nodiscard]] bool killed() const { return process().killed(); }

  // --- process_calls.cc
  void fork(const trace::Record& r);
  void exec(const trace::Record& r);
  void area(const trace::Record& r);
  void program_segment(const trace::Record& r);
  [[nodiscard]] bool attached_at(VirtAddr address) const;
  void file(const trace::Record& r);
  enum class Truncated : std::uint8_t { kNo, kYes };
  enum class Opened : std::uint8_t { kNew, kBefore };  // kBefore: unless the number names another file than it is said to
  [[nodiscard]] bool names_already(const trace::Record& r) const;
  void regular_file(const trace::Record& r, Opened when, Truncated truncated);
  void memfd(const trace::Record& r);
  [[nodiscard]] file::Inode* known_memfd(std::uint64_t recorded) const;
  void pipe_end(const trace::Record& r);
  void install(int fd, const Result<file::File*>& opened);
  void install_other(int fd) { install(fd, machine_.processes().pseudo_fs().open_other()); }
  void forget_next_file();
  void close_unconfirmed();
  void wait(const trace::Record& r);

  // --- syscalls.cc: dispatch; memory_calls.cc, file_calls.cc, transfer_calls.cc: each returns whether it was one of its own
  enum class Handled : std::uint8_t { kNo, kYes };
  void syscall(const trace::Record& r);
  Handled memory_call(const trace::Record& r);
  Handled file_call(const trace::Record& r);
  Handled descriptor_call(const trace::Record& r);
  Handled name_call(const trace::Record& r);
  Handled open_file_call(const trace::Record& r);
  Handled transfer_call(const trace::Record& r);
  Handled fcntl_call(const trace::Record& r);
  void dup(int from, int to);
  void close_range(const trace::Record& r);
  void fallocate(file::File& file, const trace::Record& r);
  void mmap(const trace::Record& r);
  void mremap(const trace::Record& r);
  void place(std::string_view call, std::uint64_t mode);
  void shmget(const trace::Record& r);
  void shmat(const trace::Record& r);
  void shmctl(const trace::Record& r);
  // kStays: of calls that say where; kMoves: of calls at the file's position; kMovesFrom: when it stands there, since older
  // records do not say which.
  enum class Position : std::uint8_t { kStays, kMoves, kMovesFrom };
  static Position position_said(const trace::Record& r);
  static Position position_unless(const trace::Record& r, std::uint64_t says_where);
  void transfer_in(int fd, std::uint64_t offset, std::uint64_t bytes, Position position);
  void transfer_out(int fd, std::uint64_t offset, std::uint64_t bytes, Position position);
  static void move_position(file::File& file, std::uint64_t offset, std::uint64_t bytes, Position position);

  // What the last call said of the files that the records behind it name. There are none when another thread has closed them
  // before they could be looked at.
  struct NextFile {
    kernel::PseudoFs::PipeFiles pipe;  // of pipe(2); each end until its record has come
    int duplicated = -1;               // the number that dup(2) and the like gave to an open file; -1: none
    int truncated = -1;                // the number of the file that open(2) emptied; -1: none
    // What a memfd is made with. One that was there before the recording began may be sealed: the seals that it got are recorded.
    file::MemfdFlags memfd = file::MemfdFlags::kAllowSealing;
  };

  // Counts a call whose end differs from the recorded one.
  void diverged(std::string_view call, Errno error);
  template <class T>
  void expect(std::string_view call, const std::expected<T, Errno>& result) {
    if (!result) diverged(call, result.error());
  }
  // work(path), whose copy lies in the kernel as long as that lasts.
  template <class F>
  void with_name(std::string_view call, trace::StringId path, F&& work) {
    const auto name = machine_.vfs().getname(text(path));
    if (!name) return diverged(call, name.error());
    work(name->name());
  }
  // The same of both paths of a call: work(path, path2), a Status.
  template <class F>
  void with_names(std::string_view call, const trace::Record& r, F&& work) {
    with_name(call, r.path, [&](std::string_view one) {
      with_name(call, r.path2, [&](std::string_view other) { expect(call, work(one, other)); });
    });
  }
  // What the number refers to; of file_of(), only a file with pages.
  [[nodiscard]] FileHold hold(int fd) const { return {machine_.vfs(), process().files->find(fd)}; }
  [[nodiscard]] FileHold file_of(int fd) const;

  // The machine is about to look.
  void set_ip(std::uint64_t ip) { scheduler_.current()->ip = ip; }
  // The thread has done all up to here; `instructions` since it last said so.
  void reach(std::uint64_t instructions) {
    position_ += instructions;
    order_.reached(progress_, position_);
  }
  [[nodiscard]] kernel::Process& process() const { return *thread_.process; }
  [[nodiscard]] vm::Mm& mm() const { return *thread_.process->mm; }
  [[nodiscard]] std::string_view text(trace::StringId id) const { return program_.reader->string(id); }

  Replay& replay_;
  Replay::Program& program_;
  trace::TaskStream& stream_;
  kernel::Thread& thread_;
  CallOrder& order_;
  std::uint64_t& progress_;     // what order_ knows of this thread
  std::uint64_t position_ = 0;  // instructions of this image
  std::uint64_t sequence_ = 0;  // the next call's number, when it has one
  kernel::Machine& machine_;
  sim::Scheduler& scheduler_;
  vm::Vm& vm_;
  std::uint64_t instruction_ps_;
  std::uint64_t pending_ps_ = 0;  // of a nanosecond not charged yet
  // Descriptors that an exec has not said to be inherited: closed on exec, once its file records have ended.
  std::set<int> unconfirmed_;
  NextFile next_file_;
};

}  // namespace quire::engine
