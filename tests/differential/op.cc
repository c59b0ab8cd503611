#include "op.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <array>

namespace quire::differential {
namespace {

constexpr std::array kProts{PROT_READ | PROT_WRITE,
                            PROT_READ | PROT_WRITE,
                            PROT_READ | PROT_WRITE,
                            PROT_READ,
                            PROT_NONE,
                            PROT_READ | PROT_EXEC,
                            PROT_WRITE};
constexpr std::array kAdvice{
    MADV_NORMAL, MADV_RANDOM,   MADV_SEQUENTIAL,    MADV_WILLNEED,       MADV_DONTNEED,   MADV_DONTNEED,
    MADV_FREE,   MADV_DONTFORK, MADV_DOFORK,        MADV_WIPEONFORK,     MADV_KEEPONFORK, MADV_DONTDUMP,
    MADV_DODUMP, MADV_COLD,     MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_REMOVE,     24 /* MADV_DONTNEED_LOCKED */,
    99 /* none */};

// A run of pages in the arena, at times with an odd start or length.
void draw_range(Rng& rng, Op& op, std::uint64_t most) {
  const std::uint64_t first = rng.below(kPages);
  const std::uint64_t count = 1 + rng.below(std::min(most, kPages - first));
  op.address = kBase + first * kPage;
  op.length = count * kPage;
  if (rng.chance(1, 25)) op.length -= rng.below(kPage);
  if (rng.chance(1, 40)) op.address += 1 + rng.below(kPage - 1);
  if (rng.chance(1, 60)) op.length = 0;
  if (rng.chance(1, 80)) op.length = ~std::uint64_t{0} - rng.below(3 * kPage);
}

void draw_mmap(Rng& rng, Op& op) {
  draw_range(rng, op, 16);
  op.prot = kProts[rng.below(kProts.size())];
  op.backing = static_cast<Backing>(rng.below(3));
  op.flags = rng.chance(1, 2) ? MAP_PRIVATE : MAP_SHARED;
  if (op.backing == Backing::kAnonymous) op.flags |= MAP_ANONYMOUS;
  if (op.backing != Backing::kAnonymous) op.offset = rng.below(kFilePages) * kPage;
  op.flags |= rng.chance(1, 6) ? MAP_FIXED_NOREPLACE : MAP_FIXED;
  if (rng.chance(1, 8)) op.flags |= MAP_POPULATE;
  if (rng.chance(1, 12)) op.flags |= MAP_NORESERVE;
  if (rng.chance(1, 20)) op.flags |= MAP_LOCKED;
  if (rng.chance(1, 50)) op.offset += 100;
}

void draw_mremap(Rng& rng, Op& op) {
  draw_range(rng, op, 8);
  op.new_length = (1 + rng.below(10)) * kPage;
  if (rng.chance(1, 3)) op.new_length = op.length;
  switch (rng.below(4)) {
    case 0: op.flags = 0; break;
    case 1: op.flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP; break;
    default: op.flags = MREMAP_MAYMOVE | MREMAP_FIXED;
  }
  op.new_address = kBase + rng.below(kPages - 10) * kPage;
  if (rng.chance(1, 40)) op.new_address += 7;
}

Op draw(Rng& rng) {
  Op op;
  const std::uint64_t what = rng.below(100);
  if (what < 38) {
    op.call = rng.chance(3, 5) ? Call::kWrite : Call::kRead;
    op.address = kBase + rng.below(kPages) * kPage + (op.call == Call::kWrite ? rng.below(kPage) : 0);
    op.value = static_cast<std::uint8_t>(1 + rng.below(255));
  } else if (what < 54) {
    op.call = Call::kMmap;
    draw_mmap(rng, op);
  } else if (what < 59) {
    op.call = Call::kMunmap;
    draw_range(rng, op, 8);
  } else if (what < 68) {
    op.call = Call::kMprotect;
    draw_range(rng, op, 12);
    op.prot = kProts[rng.below(kProts.size())];
  } else if (what < 75) {
    op.call = Call::kMremap;
    draw_mremap(rng, op);
  } else if (what < 85) {
    op.call = Call::kMadvise;
    draw_range(rng, op, 12);
    op.flags = kAdvice[rng.below(kAdvice.size())];
  } else if (what < 89) {
    op.call = rng.chance(1, 2) ? Call::kMlock : rng.chance(1, 3) ? Call::kMlock2 : Call::kMunlock;
    draw_range(rng, op, 8);
    op.flags = op.call == Call::kMlock2 ? static_cast<int>(rng.below(3)) : 0;
  } else if (what < 91) {
    op.call = Call::kMsync;
    draw_range(rng, op, 16);
    op.flags = static_cast<int>(rng.below(8));
  } else if (what < 96) {
    op.call = Call::kFork;
  } else {
    op.call = Call::kExit;
  }
  return op;
}

std::string pointer(std::uint64_t address) { return fmt::format("(char *){:#x}", address); }

}  // namespace

std::vector<Op> random_program(Rng& rng, std::size_t count) {
  std::vector<Op> program;
  std::array<bool, kProcesses> alive{true};
  const auto pick = [&](bool living) -> int {
    const std::uint64_t from = rng.below(kProcesses);
    for (std::uint64_t i = 0; i < kProcesses; ++i) {
      if (alive[(from + i) % kProcesses] == living) return static_cast<int>((from + i) % kProcesses);
    }
    return -1;
  };
  while (program.size() < count) {
    Op op = draw(rng);
    op.process = static_cast<std::uint8_t>(pick(true));
    if (op.call == Call::kFork) {
      const int child = pick(false);
      if (child < 0) continue;
      op.child = static_cast<std::uint8_t>(child);
      alive[op.child] = true;
    }
    if (op.call == Call::kExit) {
      if (op.process == 0) continue;  // the first one stays, so that somebody is always there
      alive[op.process] = false;
    }
    program.push_back(op);
  }
  return program;
}

std::string to_c(const Op& op) {
  const std::string at = pointer(op.address);
  switch (op.call) {
    case Call::kRead: return fmt::format("read_page({})", at);
    case Call::kWrite: return fmt::format("write_byte({}, {})", at, op.value);
    case Call::kMmap: {
      constexpr std::array kFds{"-1", "disk_file", "memfd"};
      return fmt::format("(long)mmap({}, {:#x}, {}, {:#x}, {}, {:#x})", at, op.length, op.prot, op.flags,
                         kFds[static_cast<std::size_t>(op.backing)], op.offset);
    }
    case Call::kMunmap: return fmt::format("munmap({}, {:#x})", at, op.length);
    case Call::kMprotect: return fmt::format("mprotect({}, {:#x}, {})", at, op.length, op.prot);
    case Call::kMremap:
      return fmt::format("(long)mremap({}, {:#x}, {:#x}, {}, {})", at, op.length, op.new_length, op.flags,
                         pointer(op.new_address));
    case Call::kMadvise: return fmt::format("madvise({}, {:#x}, {})", at, op.length, op.flags);
    case Call::kMlock: return fmt::format("mlock({}, {:#x})", at, op.length);
    case Call::kMlock2: return fmt::format("mlock2({}, {:#x}, {})", at, op.length, op.flags);
    case Call::kMunlock: return fmt::format("munlock({}, {:#x})", at, op.length);
    case Call::kMsync: return fmt::format("msync({}, {:#x}, {})", at, op.length, op.flags);
    case Call::kFork: return fmt::format("fork_as({})", op.child);
    case Call::kExit: return "end()";
  }
  return {};
}

std::string to_c_program(const std::vector<Op>& program) {
  std::string text = fmt::format(R"(// cc -o program program.c && ./program
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static volatile int *turn;  // the step whose time has come, for all processes
static int me;
static sigjmp_buf back;
static void on_signal(int signal, siginfo_t *info, void *context) {{
  (void)context;
  siglongjmp(back, signal * 256 + info->si_code);
}}
static long read_page(volatile char *p) {{
  int signal = sigsetjmp(back, 1);
  long sum = 0;
  if (signal) return -signal;
  for (int i = 0; i < 4096; ++i) sum += p[i];
  return sum;
}}
static long write_byte(volatile char *p, char value) {{
  int signal = sigsetjmp(back, 1);
  if (signal) return -signal;
  *p = value;
  return 0;
}}
static long fork_as(int child) {{
  if (fork() == 0) me = child;
  return 0;
}}
static long end(void) {{
  ++*turn;
  _exit(0);
}}
#define STEP(number, process, call)                                             \
  if (me == process) {{                                                          \
    while (*turn != number) usleep(100);                                        \
    errno = 0;                                                                  \
    long result = call;                                                         \
    if (me == process) printf("%d: process %d: %s = %#lx %s\n", number, me, #call, result, strerror(errno)), ++*turn; \
  }}
int main(void) {{
  struct sigaction action = {{.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER}};
  sigaction(SIGSEGV, &action, NULL);
  sigaction(SIGBUS, &action, NULL);
  signal(SIGCHLD, SIG_IGN);
  setvbuf(stdout, NULL, _IONBF, 0);
  turn = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  char name[] = "/tmp/differentialXXXXXX";
  int disk_file = mkstemp(name), memfd = memfd_create("memfd", 0);
  unlink(name);
  if (ftruncate(disk_file, {0}) != 0 || ftruncate(memfd, {0}) != 0) return 1;
)",
                                 kFilePages * kPage);
  int step = 0;
  for (const Op& op : program) text += fmt::format("  STEP({}, {}, {})\n", step++, op.process, to_c(op));
  return text + "  return 0;\n}\n";
}

}  // namespace quire::differential
