// A difference as a C program that anybody can run.
#include <fmt/format.h>

#include "op.h"

namespace quire::differential {
namespace {

// What the steps call. @BASE@ and the like are numbers of op.h.
constexpr std::string_view kPreamble = R"(// cc -o program program.c && setarch -R ./program
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
static volatile int *turn;  // the step whose time has come, for all processes; behind it their pids
static int me, disk_file, memfd;
static unsigned long total_pages, data_pages;
static sigjmp_buf back;
static void on_signal(int signal, siginfo_t *info, void *context) {
  (void)context;
  siglongjmp(back, signal * 256 + info->si_code);
}
static long read_page(volatile char *p) {
  int signal = sigsetjmp(back, 1);
  long sum = 0;
  if (signal) return -signal;
  for (int i = 0; i < 4096; ++i) sum += p[i];
  return sum;
}
static long write_byte(volatile char *p, char value) {
  int signal = sigsetjmp(back, 1);
  if (signal) return -signal;
  *p = value;
  return 0;
}
static long fork_as(int child) {
  int pid = fork();
  if (pid == 0) turn[1 + (me = child)] = getpid();
  return 0;
}
static long residency(char *p, unsigned long length) {
  static unsigned char answer[4096];
  long result = mincore(p, length, answer);
  for (int i = 0; result == 0 && i < (length + 4095) / 4096; ++i) putchar(answer[i] & 1 ? '1' : '0');
  return result;
}
static long process_vm(int write, int other, char *local, unsigned long bytes, char *remote, unsigned long more) {
  struct iovec ours[] = {{local, bytes}, {local + 0x3000, 100}}, theirs[] = {{remote, more}, {remote + 0x2000, 200}};
  return (write ? process_vm_writev : process_vm_readv)(turn[1 + other], ours, 2, theirs, 2, 0);
}
static long advise(int other, char *p, unsigned long length, int advice) {
  struct iovec parts[] = {{p, length}, {p + 0x2000, 0x1000}};
  int handle = syscall(SYS_pidfd_open, turn[1 + other], 0);
  long result = syscall(SYS_process_madvise, handle, parts, 2, advice, 0);
  int error = errno;
  close(handle);
  errno = error;
  return result;
}
static long fill(int value, unsigned long offset, unsigned long length) {
  static char bytes[3 * 4096];
  memset(bytes, value, sizeof bytes);
  return pwrite(memfd, bytes, length, offset);
}
static long limit(int resource, unsigned long pages) {
  struct rlimit limits = {0, RLIM_INFINITY};
  getrlimit(resource, &limits);
  pages += resource == RLIMIT_AS ? total_pages : resource == RLIMIT_DATA ? data_pages : 0;
  limits.rlim_cur = pages * 4096;
  return setrlimit(resource, &limits);
}
static long drop_ipc_lock(void) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct caps[2];
  syscall(SYS_capget, &header, caps);
  caps[0].effective &= ~(1u << CAP_IPC_LOCK);
  return syscall(SYS_capset, &header, caps);
}
static long end(void) {
  ++*turn;
  _exit(0);
}
// Nothing is free behind the arena, so that the kernel's choice of addresses ends there; brk lies in it.
static void prepare(void) {
  char line[512];
  unsigned long from = @END@, begin, finish;
  FILE *maps = fopen("/proc/self/maps", "r");
  static struct { unsigned long begin, end; } holes[256];
  int count = 0;
  while (fgets(line, sizeof line, maps) && sscanf(line, "%lx-%lx", &begin, &finish) == 2 && finish < 0x7fffffff0000) {
    if (strstr(line, "[stack]")) begin -= 64ul << 20;
    if (begin > from) holes[count].begin = from, holes[count++].end = begin;
    if (finish > from) from = finish;
  }
  fclose(maps);
  while (count-- > 0) {
    mmap((void *)holes[count].begin, holes[count].end - holes[count].begin, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  }
  struct prctl_mm_map map = {.start_code = @BASE@, .end_code = @BASE@ + 1, .start_data = @BASE@, .end_data = @BASE@,
                             .start_brk = @BRK@, .brk = @BRK@, .start_stack = @BASE@, .arg_start = @BASE@, .arg_end = @BASE@,
                             .env_start = @BASE@, .env_end = @BASE@, .exe_fd = -1};
  prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0);
  limit(RLIMIT_STACK, 2048);
  limit(RLIMIT_MEMLOCK, 2048);
  FILE *status = fopen("/proc/self/status", "r");
  while (fgets(line, sizeof line, status)) {
    if (sscanf(line, "VmSize: %lu", &total_pages) == 1) total_pages /= 4;
    if (sscanf(line, "VmData: %lu", &data_pages) == 1) data_pages /= 4;
  }
  fclose(status);
}
#define STEP(number, process, call)                                             \
  if (me == process) {                                                          \
    while (*turn != number) usleep(100);                                        \
    errno = 0;                                                                  \
    long result = call;                                                         \
    if (me == process) printf("%d: process %d: %s = %#lx %s\n", number, me, #call, result, strerror(errno)), ++*turn; \
  }
int main(void) {
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, NULL);
  sigaction(SIGBUS, &action, NULL);
  signal(SIGCHLD, SIG_IGN);
  setvbuf(stdout, NULL, _IONBF, 0);
  turn = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  turn[1] = getpid();
  char name[] = "/tmp/differentialXXXXXX";
  disk_file = mkstemp(name), memfd = memfd_create("memfd", MFD_ALLOW_SEALING);
  unlink(name);
  if (ftruncate(disk_file, @FILE@) != 0 || ftruncate(memfd, @FILE@) != 0) return 1;
  prepare();
)";

void replace_all(std::string& text, std::string_view what, std::uint64_t number) {
  const std::string by = fmt::format("{:#x}", number);
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what)) text.replace(at, what.size(), by);
}

}  // namespace

std::string to_c_program(const std::vector<Op>& program) {
  std::string text(kPreamble);
  replace_all(text, "@BASE@", kBase);
  replace_all(text, "@END@", kArenaEnd);
  replace_all(text, "@BRK@", kBrkStart);
  replace_all(text, "@FILE@", kFilePages * kPage);
  int step = 0;
  for (const Op& op : program) text += fmt::format("  STEP({}, {}, {})\n", step++, op.process, to_c(op));
  return text + "  return 0;\n}\n";
}

}  // namespace quire::differential
