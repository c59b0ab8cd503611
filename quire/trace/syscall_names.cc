#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "quire/trace/info.h"

namespace quire::trace {
namespace {

struct Name {
  std::uint32_t number;
  const char* name;
};

// The calls a recording holds, by number.
constexpr Name kNames[] = {
    {0, "read"},
    {1, "write"},
    {2, "open"},
    {3, "close"},
    {8, "lseek"},
    {9, "mmap"},
    {10, "mprotect"},
    {11, "munmap"},
    {12, "brk"},
    {17, "pread64"},
    {18, "pwrite64"},
    {19, "readv"},
    {20, "writev"},
    {22, "pipe"},
    {24, "sched_yield"},
    {25, "mremap"},
    {26, "msync"},
    {27, "mincore"},
    {28, "madvise"},
    {29, "shmget"},
    {30, "shmat"},
    {31, "shmctl"},
    {32, "dup"},
    {33, "dup2"},
    {35, "nanosleep"},
    {40, "sendfile"},
    {41, "socket"},
    {43, "accept"},
    {53, "socketpair"},
    {56, "clone"},
    {57, "fork"},
    {58, "vfork"},
    {61, "wait4"},
    {67, "shmdt"},
    {72, "fcntl"},
    {74, "fsync"},
    {75, "fdatasync"},
    {76, "truncate"},
    {77, "ftruncate"},
    {82, "rename"},
    {85, "creat"},
    {86, "link"},
    {87, "unlink"},
    {149, "mlock"},
    {150, "munlock"},
    {151, "mlockall"},
    {152, "munlockall"},
    {160, "setrlimit"},
    {162, "sync"},
    {187, "readahead"},
    {213, "epoll_create"},
    {216, "remap_file_pages"},
    {221, "fadvise64"},
    {230, "clock_nanosleep"},
    {237, "mbind"},
    {238, "set_mempolicy"},
    {247, "waitid"},
    {257, "openat"},
    {263, "unlinkat"},
    {264, "renameat"},
    {265, "linkat"},
    {275, "splice"},
    {277, "sync_file_range"},
    {283, "timerfd_create"},
    {284, "eventfd"},
    {285, "fallocate"},
    {288, "accept4"},
    {290, "eventfd2"},
    {291, "epoll_create1"},
    {292, "dup3"},
    {293, "pipe2"},
    {295, "preadv"},
    {296, "pwritev"},
    {302, "prlimit64"},
    {306, "syncfs"},
    {316, "renameat2"},
    {319, "memfd_create"},
    {324, "membarrier"},
    {325, "mlock2"},
    {326, "copy_file_range"},
    {327, "preadv2"},
    {328, "pwritev2"},
    {329, "pkey_mprotect"},
    {435, "clone3"},
    {436, "close_range"},
    {437, "openat2"},
    {462, "mseal"},
};

}  // namespace

std::string syscall_name(std::uint32_t number) {
  const auto* const found = std::ranges::lower_bound(kNames, number, {}, &Name::number);
  if (found != std::end(kNames) && found->number == number) return found->name;
  return fmt::format("syscall_{}", number);
}

}  // namespace quire::trace
