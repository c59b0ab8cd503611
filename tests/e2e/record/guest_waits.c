// Waits for children in the ways there are, with and without asking what became of them.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(int good, const char* what) {
  if (good) return;
  perror(what);
  exit(1);
}

static pid_t child_that_exits(int status) {
  const pid_t child = fork();
  if (child == 0) _exit(status);
  return child;
}

int main(void) {
  siginfo_t info;
  int status;
  pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  kill(child, SIGSTOP);
  check(wait4(child, NULL, WUNTRACED, NULL) == child, "stopped");
  kill(child, SIGCONT);
  check(waitid(P_PID, child, NULL, WCONTINUED) == 0, "goes on");
  kill(child, SIGSTOP);
  check(waitid(P_PID, child, &info, WSTOPPED) == 0, "stopped, and told");
  check(waitid(P_PID, child, NULL, WEXITED | WNOHANG) == 0, "nothing");
  kill(child, SIGCONT);
  check(wait4(child, &status, WCONTINUED, NULL) == child, "goes on, and told");
  kill(child, SIGKILL);
  check(waitid(P_PID, child, NULL, WEXITED | WSTOPPED | WNOWAIT) == 0, "killed, and looked at");
  check(waitid(P_PID, child, NULL, WEXITED | WNOHANG) == 0, "killed");
  check(waitid(P_PID, child_that_exits(3), NULL, WEXITED) == 0, "exited");
  child = child_that_exits(4);
  check(wait4(child, NULL, WUNTRACED, NULL) == child, "exited");
  check(waitid(P_PID, child_that_exits(5), &info, WEXITED) == 0 && info.si_status == 5, "exited, and told");
  child = fork();
  if (child == 0) kill(getpid(), SIGKILL);
  check(waitid(P_PID, child, &info, WEXITED) == 0 && info.si_status == SIGKILL, "killed, and told");
  return 0;
}
