// segv: dies of a bad pointer. kill: of its own SIGKILL. child: forks a child that dies of SIGABRT, and says so.
// handler: survives a SIGSEGV it handles. sleep: waits to be stopped.
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf back;
static void jump(int number) { siglongjmp(back, number); }

int main(int argc, char** argv) {
  const char* how = argc > 1 ? argv[1] : "";
  volatile char* memory = malloc(1 << 16);
  for (int i = 0; i < 1 << 16; ++i) memory[i] = 1;
  if (!strcmp(how, "segv")) *(volatile int*)16 = 1;
  if (!strcmp(how, "kill")) kill(getpid(), SIGKILL);
  if (!strcmp(how, "handler")) {
    signal(SIGSEGV, jump);
    if (sigsetjmp(back, 1) == 0) *(volatile int*)16 = 1;
    puts("handled");
  }
  if (!strcmp(how, "child")) {
    int status = 0;
    if (fork() == 0) abort();
    wait(&status);
    printf("child died of %d\n", WTERMSIG(status));
  }
  if (!strcmp(how, "sleep")) {
    puts("sleeping");
    fflush(stdout);
    for (;;) sleep(1);
  }
  return 0;
}
