// The recorded process as the plugin knows it: its options, its connection to the collector, its threads, the areas and
// children it has told of. One a process (QEMU's interface hands its callbacks no pointer of ours), made new in a fork
// child. `lock` guards everything here that is not fixed at start; taken after no other lock but before none:
// flush_lock of a Vcpu → lock.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "quire/recorder/vcpu.h"

namespace quire::recorder {

class Lock {
 public:
  explicit Lock(pthread_mutex_t& mutex) : mutex_(mutex) { pthread_mutex_lock(&mutex_); }
  ~Lock() { pthread_mutex_unlock(&mutex_); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  pthread_mutex_t& mutex_;
};

// A system call under way in this thread. Not in the Vcpu, which a fork child shares with its parent at first.
struct PendingSyscall {
  std::int64_t number = -1;
  std::array<std::uint64_t, 6> args{};
  std::uint64_t completed_before = 0;  // calls of the process when this one began
  std::uint64_t sequence = 0;          // taken already when it began; 0 = not
};

// Areas of the guest that the trace accounts for; [begin, end) in bytes, disjoint, merged.
class KnownAreas {
 public:
  void add(std::uint64_t begin, std::uint64_t end);
  void remove(std::uint64_t begin, std::uint64_t end);
  // Finds the area that holds `address`.
  [[nodiscard]] bool find(std::uint64_t address, std::uint64_t& begin, std::uint64_t& end) const;

 private:
  std::map<std::uint64_t, std::uint64_t> areas_;
};

enum class Announced : std::uint8_t { kNo, kYes };

struct Process {
  // Fixed at start.
  std::uint64_t window = 0;     // 0 = unfiltered
  std::string socket_name;      // abstract, without the leading zero byte
  std::string plugin_argument;  // what -plugin was given
  std::string qemu;             // the QEMU binary
  bool randomized = false;
  std::uint64_t guest_base = 0;

  pthread_mutex_t lock;
  int fd = -1;          // connection to the collector
  bool silent = false;  // the collector is gone
  // Once there is a second thread, calls are numbered as they complete, so that replay keeps their order. Atomic, not locked.
  bool threaded = false;
  std::uint64_t completed_calls = 0;
  pid_t host_pid = 0;
  std::uint32_t number = 0;
  Announced announced = Announced::kNo;  // the program and its areas are in the trace
  std::uint64_t entry = 0;               // where the first block began
  Vcpu* vcpus = nullptr;
  std::map<pid_t, std::uint32_t> numbers;  // of children, by host number
  KnownAreas areas;
  std::string program;  // the file this process runs, resolved
  std::uint64_t brk_start = 0;
  enum class Stack : std::uint8_t { kUnseen, kSeen } stack = Stack::kUnseen;
  std::map<std::uint64_t, std::uint64_t> shm_sizes;  // attached at → bytes
  std::vector<int> inherited_fds;
  std::set<int> random_fds;  // opened on /dev/random or /dev/urandom

  [[nodiscard]] void* host(std::uint64_t guest) const { return reinterpret_cast<void*>(guest + guest_base); }
};

Process& process();

// The calling thread's Vcpu; makes it at a thread's first call.
Vcpu& current();

// --- channel.cc
void connect_collector();
void move_connection_away_from(int fd);  // the guest is about to use this number
void send_chunk(Vcpu& vcpu, const std::uint8_t* data, std::uint32_t bytes, std::uint32_t sequence, std::uint32_t flags);
void send_task(const Vcpu& vcpu, int memfd);
void send_note(trace::protocol::MessageType type, std::uint32_t host, std::uint32_t flags = 0);
std::uint32_t ask_number(trace::protocol::MessageType type, std::uint32_t host, std::uint32_t flags = 0);

// --- task.cc
Vcpu& make_vcpu();
void flush(Vcpu& vcpu);
void write_record(Vcpu& vcpu, Record record, std::string_view path = {}, std::string_view path2 = {});
void write_access(Vcpu& vcpu, std::uint64_t page, AccessKind kind, std::uint64_t at);
// The access [address, address + bytes) of `kind` at the thread's present instruction, through the filter.
void touch(Vcpu& vcpu, std::uint64_t address, std::uint64_t bytes, AccessKind kind);
void filtered_access(Vcpu& vcpu, std::uint64_t page, AccessKind kind, std::uint64_t at);
void start_new_epochs();  // in every thread: mappings have changed
enum class Reach : std::uint8_t { kThread, kProcess };
void end_task(Vcpu& vcpu, int status, Reach reach);
void end_other_threads(Vcpu& survivor);  // an execve
void forget_parent();                    // in a fork child
void thread_exits(Vcpu& vcpu, int status);
void process_exits(int status);

// --- order.cc: what the threads of a process must not overtake; nothing is written while there is one thread
[[nodiscard]] std::uint64_t completed_calls();
// The record that follows is the process's next call to complete, and came after the first `after` of them.
void order_call_after(Vcpu& vcpu, std::uint64_t after);
// The same for a call that nothing kept waiting once it completed: it came after all before it.
void order_call(Vcpu& vcpu);
// For a call that gives memory back: its number is taken when it begins, since another thread may be given that memory, and
// say so, before this one returns (the record is order_call's); and the other threads' last accesses to it came before.
[[nodiscard]] std::uint64_t order_entry(Vcpu& vcpu);
void order_call(Vcpu& vcpu, const PendingSyscall& call);
// The thread is about to wake others, by a call that is not recorded: completed now, or they would be seen first.
void order_wake_up(Vcpu& vcpu);
// What follows came after all that has completed: a call that is not recorded has returned, or a page is touched that another
// thread may just have mapped and told of through memory.
void order_here(Vcpu& vcpu);

// --- image.cc
void announce_image(Vcpu& vcpu);
// The areas do not hold this address: finds out what is there and tells.
void discover_area(Vcpu& vcpu, std::uint64_t address);
void note_inherited_files();

// --- files.cc
void describe_fd(Vcpu& vcpu, int fd);
[[nodiscard]] std::string name_of_fd(int fd);  // what /proc/self/fd says
// Both are empty when the kernel would not say: the path is longer than it gives out.
[[nodiscard]] std::string absolute_path(int dirfd, const std::string& path);
// The path as the kernel says it, so that it compares with name_of_fd: no link, "." or ".." leads to it. The file may be gone,
// its folder not.
enum class LastLink : std::uint8_t { kFollowed, kItself };
[[nodiscard]] std::string kernel_path(int dirfd, const std::string& path, LastLink last);

// --- exec.cc
// Does not return when the program could be started under QEMU.
void on_execve(Vcpu& vcpu, int dirfd, const std::array<std::uint64_t, 3>& path_argv_envp, std::uint64_t flags);

// --- guest_memory.cc
bool read_guest(std::uint64_t address, void* out, std::size_t bytes);
std::string read_guest_string(std::uint64_t address);

// --- fork.cc
// From now on no child is born while another thread is at our tables. Within libc's fork, not around the guest's call: there
// QEMU waits for the other threads to leave the guest's code, and they may be waiting for the lock.
void guard_forks();
[[nodiscard]] bool is_fork(std::int64_t number);
void before_fork(Vcpu& vcpu, const PendingSyscall& call);
void after_fork(Vcpu& vcpu, const PendingSyscall& call, std::int64_t result);

// --- random.cc
// Unless randomness is wanted, what the kernel's random numbers gave is replaced by a repeatable sequence.
void pin_random(Vcpu& vcpu, std::uint64_t address, std::int64_t bytes);

// --- syscall.cc
void on_syscall(Vcpu& vcpu, std::int64_t number, const std::array<std::uint64_t, 6>& args);
void on_syscall_return(Vcpu& vcpu, std::int64_t number, std::int64_t result);

// --- wait.cc
void add_child(Record& r);  // of wait4 and waitid

// --- syscall_buffers.cc
void touch_syscall_buffers(Vcpu& vcpu, const PendingSyscall& call, std::int64_t result);

}  // namespace quire::recorder
