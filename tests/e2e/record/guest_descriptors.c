// Closes every descriptor but the first three, one by one or with close_range; takes every number with dup2; then counts
// what it can open, forks, and the child runs a program.
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char** argv) {
  const char* how = argc > 1 ? argv[1] : "loop";
  int closed = 0;
  if (!strcmp(how, "loop")) {
    for (int fd = 3; fd < 1100; ++fd) closed += close(fd) == 0;
  } else if (!strcmp(how, "range")) {
    closed = syscall(SYS_close_range, 3u, ~0u, 0u) != 0 ? -1 : 0;
    if (closed == -1) closed = 0;
  } else if (!strcmp(how, "dup")) {
    for (int fd = 900; fd < 1024; ++fd) {
      if (dup2(1, fd) != fd) return 3;
    }
    for (int fd = 900; fd < 1024; ++fd) close(fd);
  }
  volatile char* memory = malloc(1 << 20);
  for (int i = 0; i < 1 << 20; i += 4096) memory[i] = 1;
  printf("closed %d\n", closed);
  fflush(stdout);
  int status = 0;
  if (fork() == 0) {
    execlp("echo", "echo", "child", (char*)0);
    _exit(1);
  }
  wait(&status);
  return WEXITSTATUS(status);
}
