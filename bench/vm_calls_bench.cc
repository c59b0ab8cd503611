// Calls of the mmap family, faults on what is there already, fork and exit. Peer of each is the host kernel in the same run; of
// a call the host's figure contains entering the kernel, which syscall/empty shows by itself.
#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "quire/file/backing.h"
#include "quire/file/iov_iter.h"
#include "vm_bench_machine.h"

namespace {

using namespace quire;  // NOLINT: a benchmark's own file
using bench::Machine;

constexpr std::uint64_t kFaults = 4096;  // pages of one round
constexpr std::uint64_t kFaultBytes = kFaults * kPageSize;
constexpr int kHostRw = PROT_READ | PROT_WRITE;

char* host_map(std::uint64_t bytes, int fd = -1) {
  void* at = ::mmap(nullptr, bytes, kHostRw, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE, fd, 0);
  if (at == MAP_FAILED) std::abort();
  ::madvise(at, bytes, MADV_NOHUGEPAGE);
  return static_cast<char*>(at);
}

void per_page(benchmark::State& state) {
  state.counters["a_page"] = benchmark::Counter(static_cast<double>(state.iterations()) * static_cast<double>(kFaults),
                                                benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void syscall_empty(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(::syscall(SYS_getppid));
}
BENCHMARK(syscall_empty)->Name("syscall/empty/host");

// The middle page of three loses its right to write and gets it back: one area becomes three and one again.
void mprotect_split_merge(benchmark::State& state) {
  Machine m(phys::DataMode::kDataless);
  vm::Mm& mm = **m.vm.mm_alloc();
  const VirtAddr at = m.map(mm, 3 * kPageSize);
  for (auto _ : state) {
    benchmark::DoNotOptimize(m.vm.mprotect(mm, at + kPageSize, kPageSize, vm::Prot::kRead));
    benchmark::DoNotOptimize(m.vm.mprotect(mm, at + kPageSize, kPageSize, vm::Prot::kRead | vm::Prot::kWrite));
  }
  m.vm.mmput(mm);
}
BENCHMARK(mprotect_split_merge)->Name("mprotect/split_merge/quire");

void mprotect_split_merge_host(benchmark::State& state) {
  char* at = host_map(3 * kPageSize);
  for (auto _ : state) {
    ::mprotect(at + kPageSize, kPageSize, PROT_READ);
    ::mprotect(at + kPageSize, kPageSize, kHostRw);
  }
  ::munmap(at, 3 * kPageSize);
}
BENCHMARK(mprotect_split_merge_host)->Name("mprotect/split_merge/host");

// One page more and one less.
void brk_grow(benchmark::State& state) {
  Machine m(phys::DataMode::kDataless);
  vm::Mm& mm = **m.vm.mm_alloc();
  mm.start_brk = mm.brk = VirtAddr(0x555555556000);
  benchmark::DoNotOptimize(m.vm.brk(mm, mm.start_brk + kPageSize));
  const VirtAddr low = mm.brk;
  for (auto _ : state) {
    benchmark::DoNotOptimize(m.vm.brk(mm, low + kPageSize));
    benchmark::DoNotOptimize(m.vm.brk(mm, low));
  }
  m.vm.mmput(mm);
}
BENCHMARK(brk_grow)->Name("brk/grow/quire");

void brk_grow_host(benchmark::State& state) {
  const long low = ::syscall(SYS_brk, 0L);
  for (auto _ : state) {
    ::syscall(SYS_brk, low + 4096L);
    ::syscall(SYS_brk, low);
  }
}
BENCHMARK(brk_grow_host)->Name("brk/grow/host");

void mremap_in_place(benchmark::State& state) {
  Machine m(phys::DataMode::kDataless);
  vm::Mm& mm = **m.vm.mm_alloc();
  const VirtAddr at = m.map(mm, 64 * kPageSize);
  static_cast<void>(m.vm.munmap(mm, at + 32 * kPageSize, 32 * kPageSize));
  for (auto _ : state) {
    benchmark::DoNotOptimize(m.vm.mremap(mm, at, 32 * kPageSize, 48 * kPageSize, vm::MremapFlags::kNone));
    benchmark::DoNotOptimize(m.vm.mremap(mm, at, 48 * kPageSize, 32 * kPageSize, vm::MremapFlags::kNone));
  }
  m.vm.mmput(mm);
}
BENCHMARK(mremap_in_place)->Name("mremap/in_place/quire");

void mremap_in_place_host(benchmark::State& state) {
  char* at = host_map(64 * kPageSize);
  ::munmap(at + 32 * kPageSize, 32 * kPageSize);
  for (auto _ : state) {
    benchmark::DoNotOptimize(::mremap(at, 32 * kPageSize, 48 * kPageSize, 0));
    benchmark::DoNotOptimize(::mremap(at, 48 * kPageSize, 32 * kPageSize, 0));
  }
  ::munmap(at, 32 * kPageSize);
}
BENCHMARK(mremap_in_place_host)->Name("mremap/in_place/host");

// Writes to pages that a child has, too: each is copied (the child lives), or turns out to be the writer's own (it has ended).
enum class Child : bool { kLives, kEnded };

void write_after_fork(benchmark::State& state, Child child) {
  Machine m(phys::DataMode::kData);
  vm::Mm& mm = **m.vm.mm_alloc();
  const VirtAddr at = m.map(mm, kFaultBytes);
  for (auto _ : state) {
    state.PauseTiming();
    static_cast<void>(m.vm.touch_user(mm, at, kFaultBytes, arch::Access::kWrite));
    vm::Mm* copy = *m.vm.dup_mm(mm);
    if (child == Child::kEnded) m.vm.mmput(*copy);
    state.ResumeTiming();
    for (std::uint64_t done = 0; done < kFaultBytes; done += kPageSize) {
      benchmark::DoNotOptimize(m.vm.access(mm, at + done, arch::Access::kWrite));
    }
    state.PauseTiming();
    if (child == Child::kLives) m.vm.mmput(*copy);
    state.ResumeTiming();
  }
  per_page(state);
  m.vm.mmput(mm);
}
void cow_fault(benchmark::State& state) { write_after_fork(state, Child::kLives); }
void cow_reuse(benchmark::State& state) { write_after_fork(state, Child::kEnded); }
BENCHMARK(cow_fault)->Name("fault/cow/quire")->Unit(benchmark::kMillisecond);
BENCHMARK(cow_reuse)->Name("fault/reuse/quire")->Unit(benchmark::kMillisecond);

// A child that waits until it is told, through a pipe, to end.
class HostChild {
 public:
  HostChild() {
    if (::pipe(pipe_) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ != 0) return;
    char byte;
    ::close(pipe_[1]);
    static_cast<void>(!::read(pipe_[0], &byte, 1));
    ::_exit(0);
  }
  ~HostChild() {
    if (pid_ > 0) end();
  }
  HostChild(const HostChild&) = delete;
  HostChild& operator=(const HostChild&) = delete;
  void end() {
    ::close(pipe_[1]);
    ::close(pipe_[0]);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  int pipe_[2] = {};
  pid_t pid_ = 0;
};

void write_after_fork_host(benchmark::State& state, Child child) {
  char* at = host_map(kFaultBytes);
  for (auto _ : state) {
    state.PauseTiming();
    for (std::uint64_t done = 0; done < kFaultBytes; done += kPageSize) at[done] = 1;
    HostChild copy;
    if (child == Child::kEnded) copy.end();
    state.ResumeTiming();
    for (std::uint64_t done = 0; done < kFaultBytes; done += kPageSize) static_cast<volatile char*>(at)[done] = 2;
    state.PauseTiming();
    if (child == Child::kLives) copy.end();
    state.ResumeTiming();
  }
  per_page(state);
  ::munmap(at, kFaultBytes);
}
void cow_fault_host(benchmark::State& state) { write_after_fork_host(state, Child::kLives); }
void cow_reuse_host(benchmark::State& state) { write_after_fork_host(state, Child::kEnded); }
BENCHMARK(cow_fault_host)->Name("fault/cow/host")->Unit(benchmark::kMillisecond);
BENCHMARK(cow_reuse_host)->Name("fault/reuse/host")->Unit(benchmark::kMillisecond);

// Reads of a cached file: a fault maps sixteen pages.
void file_read(benchmark::State& state) {
  Machine m(phys::DataMode::kData);
  vm::Mm& mm = **m.vm.mm_alloc();
  m.scheduler.spawn("bench", [&] {
    file::DiskInode* inode = *m.vfs.mount({}).create("f", std::make_unique<file::ZeroBacking>(kFaultBytes));
    file::File* file = *m.vfs.open(*inode, file::FileMode::kRead);
    file::NullIter nowhere;
    static_cast<void>(m.vfs.pread(*file, 0, kFaultBytes, nowhere));
    for (auto _ : state) {
      const VirtAddr at = m.map(mm, kFaultBytes, file);
      for (std::uint64_t done = 0; done < kFaultBytes; done += kPageSize) {
        benchmark::DoNotOptimize(m.vm.access(mm, at + done, arch::Access::kRead));
      }
      state.PauseTiming();
      static_cast<void>(m.vm.munmap(mm, at, kFaultBytes));
      state.ResumeTiming();
    }
    m.vm.mmput(mm);
    m.vfs.fput(*file);
  });
  static_cast<void>(m.scheduler.run());
  per_page(state);
}
BENCHMARK(file_read)->Name("fault/file_around/quire")->Unit(benchmark::kMillisecond);

void file_read_host(benchmark::State& state) {
  char name[] = "/tmp/quire-bench-XXXXXX";
  const int fd = ::mkstemp(name);
  if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(kFaultBytes)) != 0) std::abort();
  ::unlink(name);
  std::vector<char> buffer(1 << 20);
  for (std::uint64_t done = 0; done < kFaultBytes; done += buffer.size()) {
    if (::pwrite(fd, buffer.data(), buffer.size(), static_cast<off_t>(done)) < 0) std::abort();
  }
  for (auto _ : state) {
    char* at = host_map(kFaultBytes, fd);
    for (std::uint64_t done = 0; done < kFaultBytes; done += kPageSize)
      benchmark::DoNotOptimize(static_cast<volatile char*>(at)[done]);
    state.PauseTiming();
    ::munmap(at, kFaultBytes);
    state.ResumeTiming();
  }
  per_page(state);
  ::close(fd);
}
BENCHMARK(file_read_host)->Name("fault/file_around/host")->Unit(benchmark::kMillisecond);

// A copy of an address space of so many MiB, all of them written to, and its end.
void fork_exit(benchmark::State& state) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(state.range(0)) * kMiB;
  Machine m(phys::DataMode::kDataless, 2 * bytes + 128 * kMiB);
  vm::Mm& mm = **m.vm.mm_alloc();
  const VirtAddr at = m.map(mm, bytes);
  static_cast<void>(m.vm.touch_user(mm, at, bytes, arch::Access::kWrite));
  for (auto _ : state) m.vm.mmput(**m.vm.dup_mm(mm));
  m.vm.mmput(mm);
}
BENCHMARK(fork_exit)->Name("fork_exit/quire")->Arg(64)->Arg(256)->Unit(benchmark::kMillisecond);

void fork_exit_host(benchmark::State& state) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(state.range(0)) * kMiB;
  char* at = host_map(bytes);
  for (std::uint64_t done = 0; done < bytes; done += kPageSize) at[done] = 1;
  for (auto _ : state) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    ::waitpid(child, nullptr, 0);
  }
  ::munmap(at, bytes);
}
BENCHMARK(fork_exit_host)->Name("fork_exit/host")->Arg(64)->Arg(256)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
