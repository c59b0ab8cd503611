#include "op.h"

#include <fmt/format.h>
#include <linux/fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

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
constexpr std::array kAdvice{MADV_NORMAL,
                             MADV_RANDOM,
                             MADV_SEQUENTIAL,
                             MADV_WILLNEED,
                             MADV_DONTNEED,
                             MADV_DONTNEED,
                             MADV_FREE,
                             MADV_DONTFORK,
                             MADV_DOFORK,
                             MADV_WIPEONFORK,
                             MADV_KEEPONFORK,
                             MADV_DONTDUMP,
                             MADV_DODUMP,
                             MADV_COLD,
                             MADV_POPULATE_READ,
                             MADV_POPULATE_WRITE,
                             MADV_REMOVE,
                             24 /* MADV_DONTNEED_LOCKED */,
                             MADV_MERGEABLE,
                             MADV_UNMERGEABLE,
                             MADV_HUGEPAGE,
                             MADV_NOHUGEPAGE,
                             25 /* MADV_COLLAPSE */,
                             102 /* MADV_GUARD_INSTALL */,
                             102,
                             103 /* MADV_GUARD_REMOVE */,
                             99 /* none */};
constexpr int kDroppable = 8;  // MAP_DROPPABLE

// A part of the arena.
struct Zone {
  std::uint64_t base = kBase;
  std::uint64_t pages = kPages;
};

Zone draw_zone(Rng& rng) {
  const std::uint64_t where = rng.below(100);
  if (where < 82) return {};
  if (where < 90) return {kBase + kStackFirst * kPage, kArenaPages - kStackFirst};
  if (where < 96) return {kArenaEnd - 24 * kPage, 24};
  return {kLow, kLowPages};
}

// A run of pages in the arena, at times with an odd start or length.
void draw_range(Rng& rng, Op& op, std::uint64_t most) {
  const Zone zone = draw_zone(rng);
  const std::uint64_t first = rng.below(zone.pages);
  if (zone.pages > kPages) most *= 8;
  const std::uint64_t count = 1 + rng.below(std::min(most, zone.pages - first));
  op.address = zone.base + first * kPage;
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
  if (rng.chance(1, 40)) op.flags |= MAP_SYNC;
  if (rng.chance(1, 30)) op.flags = (op.flags & ~MAP_TYPE) | (rng.chance(1, 2) ? MAP_SHARED_VALIDATE : kDroppable);
  if (rng.chance(1, 8)) {  // where the kernel likes, or near
    op.flags &= ~(MAP_FIXED | MAP_FIXED_NOREPLACE);
    if (rng.chance(1, 2)) op.address = rng.below(3) * kPage;
    if (rng.chance(1, 3)) op.flags |= MAP_32BIT;
  }
  const bool in_stack_zone = op.address >= kBase + kStackFirst * kPage && op.address < kArenaEnd;
  if (op.address >= kLow && rng.chance(1, in_stack_zone ? 2 : 30)) {
    op.flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED;
    op.backing = Backing::kAnonymous;
    op.offset = 0;
  }
}

void draw_mremap(Rng& rng, Op& op) {
  draw_range(rng, op, 8);
  op.new_length = (1 + rng.below(10)) * kPage;
  if (rng.chance(1, 3)) op.new_length = op.length;
  switch (rng.below(4)) {
    case 0: op.flags = 0; break;
    case 1: op.flags = MREMAP_MAYMOVE | (rng.chance(1, 3) ? 0 : MREMAP_FIXED | MREMAP_DONTUNMAP); break;
    default: op.flags = MREMAP_MAYMOVE | MREMAP_FIXED;
  }
  op.new_address = kBase + rng.below(kPages - 10) * kPage;
  if (rng.chance(1, 40)) op.new_address += 7;
}

constexpr std::array kSeals{F_SEAL_SHRINK,   F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE, F_SEAL_SEAL,
                            0x20 /* EXEC */, 0,           0x40 /* none */};
constexpr std::array kLimits{RLIMIT_AS, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_MEMLOCK};

// Calls that are drawn rarely: many of them say no to everything after.
void draw_rare(Rng& rng, Op& op) {
  switch (rng.below(11)) {
    case 0:
      op.call = Call::kMlockall;
      op.flags = static_cast<int>(rng.below(9));
      break;
    case 1: op.call = Call::kMunlockall; break;
    case 2:
      op.call = Call::kMseal;
      draw_range(rng, op, 2);
      op.flags = rng.chance(1, 8) ? 1 : 0;
      break;
    case 3:
      op.call = Call::kMembarrier;
      op.flags = rng.chance(1, 8) ? 3 : 1 << (1 + rng.below(9));  // not the global one: it takes long
      op.value = rng.chance(1, 6) ? 1 : 0;
      break;
    case 4:
      op.call = Call::kAddSeals;
      op.flags = rng.chance(1, 3) ? kSeals[rng.below(kSeals.size())] : 0;
      break;
    case 5: op.call = Call::kGetSeals; break;
    case 6:
      op.call = Call::kFtruncate;
      op.length = rng.chance(1, 2) ? kFilePages * kPage : rng.below((kFilePages + 4) * kPage);
      break;
    case 7:
      op.call = Call::kFallocate;
      op.flags = static_cast<int>(rng.below(4));
      op.offset = rng.below(kFilePages * kPage);
      op.length = rng.below(6 * kPage);
      break;
    case 8:
      op.call = Call::kPwrite;
      op.offset = rng.below(kFilePages * kPage);
      op.length = rng.below(kMostPwrite);
      op.value = static_cast<std::uint8_t>(1 + rng.below(255));
      break;
    case 9:
      op.call = Call::kSetRlimit;
      op.flags = kLimits[rng.below(kLimits.size())];
      op.length = rng.chance(1, 2) ? 2048 : rng.below(200);
      break;
    default:
      if (rng.chance(1, 3))
        op.call = Call::kDropIpcLock;
      else
        op.call = Call::kGetSeals;
  }
}

// Calls between two processes; `child` is the other one.
void draw_remote(Rng& rng, Op& op) {
  op.call = rng.chance(2, 3) ? Call::kProcessVm : Call::kProcessMadvise;
  op.child = static_cast<std::uint8_t>(rng.below(kProcesses));
  op.address = kBase + rng.below(kPages) * kPage + rng.below(kPage);
  op.length = rng.below(4 * kPage);
  op.new_address = kBase + rng.below(kPages) * kPage + rng.below(kPage);
  op.new_length = rng.below(4 * kPage);
  op.value = static_cast<std::uint8_t>(rng.below(2));
  if (op.call == Call::kProcessMadvise) {
    op.address -= op.address % kPage;
    op.flags = rng.chance(1, 4) ? kAdvice[rng.below(kAdvice.size())] : rng.chance(1, 2) ? MADV_COLD : MADV_WILLNEED;
  }
}

Op draw(Rng& rng) {
  Op op;
  const std::uint64_t what = rng.below(115);
  if (what < 38) {
    const Zone zone = draw_zone(rng);
    op.call = rng.chance(3, 5) ? Call::kWrite : Call::kRead;
    op.address = zone.base + rng.below(zone.pages) * kPage + (op.call == Call::kWrite ? rng.below(kPage) : 0);
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
    if (rng.chance(1, 10)) op.prot |= rng.chance(1, 4) ? PROT_GROWSUP : PROT_GROWSDOWN;
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
  } else if (what < 100) {
    op.call = Call::kExit;
  } else if (what < 102) {
    op.call = Call::kMincore;
    draw_range(rng, op, 16);
  } else if (what < 105) {
    op.call = Call::kBrk;
    op.address = rng.chance(1, 10) ? 0 : kBrkStart - kPage + rng.below(14 * kPage);
  } else if (what < 107) {
    op.call = Call::kRemapFilePages;
    draw_range(rng, op, 4);
    op.offset = rng.below(kFilePages);
    op.prot = rng.chance(1, 10) ? PROT_READ : 0;
    op.flags = rng.chance(1, 3) ? MAP_NONBLOCK : 0;
  } else if (what < 109) {
    draw_remote(rng, op);
  } else {
    draw_rare(rng, op);
  }
  return op;
}

std::string pointer(std::uint64_t address) { return fmt::format("(char *){:#x}", address); }

}  // namespace

std::uint64_t limit_of(const Op& op, const Beginning& beginning) {
  switch (op.flags) {
    case RLIMIT_AS: return (beginning.total_pages + op.length) * kPage;
    case RLIMIT_DATA: return (beginning.data_pages + op.length) * kPage;
    default: return op.length * kPage;
  }
}

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
    case Call::kMlockall: return fmt::format("mlockall({})", op.flags);
    case Call::kMunlockall: return "munlockall()";
    case Call::kMincore: return fmt::format("residency({}, {:#x})", at, op.length);
    case Call::kBrk: return fmt::format("syscall(SYS_brk, {:#x})", op.address);
    case Call::kMseal: return fmt::format("syscall(462, {}, {:#x}, {})", at, op.length, op.flags);
    case Call::kRemapFilePages:
      return fmt::format("syscall(SYS_remap_file_pages, {}, {:#x}, {}, {}, {:#x})", at, op.length, op.prot, op.offset,
                         op.flags);
    case Call::kMembarrier: return fmt::format("syscall(SYS_membarrier, {}, {}, 0)", op.flags, op.value);
    case Call::kProcessVm:
      return fmt::format("process_vm({}, {}, {:#x}, {:#x}, {:#x}, {:#x})", op.value, op.child, op.address, op.length,
                         op.new_address, op.new_length);
    case Call::kProcessMadvise: return fmt::format("advise({}, {:#x}, {:#x}, {})", op.child, op.address, op.length, op.flags);
    case Call::kAddSeals: return fmt::format("fcntl(memfd, F_ADD_SEALS, {:#x})", op.flags);
    case Call::kGetSeals: return "fcntl(memfd, F_GET_SEALS)";
    case Call::kFtruncate: return fmt::format("ftruncate(memfd, {:#x})", op.length);
    case Call::kFallocate: return fmt::format("fallocate(memfd, {}, {:#x}, {:#x})", op.flags, op.offset, op.length);
    case Call::kPwrite: return fmt::format("fill({}, {:#x}, {:#x})", op.value, op.offset, op.length);
    case Call::kSetRlimit: return fmt::format("limit({}, {})", op.flags, op.length);
    case Call::kDropIpcLock: return "drop_ipc_lock()";
    case Call::kFork: return fmt::format("fork_as({})", op.child);
    case Call::kExit: return "end()";
  }
  return {};
}

}  // namespace quire::differential
