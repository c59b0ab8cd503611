// A program that shares a System V segment with its child: it makes one, attaches it twice, lets the child write, and removes it.
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kBytes = 64 * 4096 };

int main(void) {
  const int id = shmget(IPC_PRIVATE, kBytes, IPC_CREAT | 0600);
  if (id < 0) return perror("shmget"), 1;
  char* mine = shmat(id, NULL, 0);
  if (mine == (char*)-1) return perror("shmat"), 1;
  for (int i = 0; i < kBytes; i += 4096) mine[i] = 1;
  const pid_t child = fork();
  if (child == 0) {
    char* again = shmat(id, NULL, 0);
    if (again == (char*)-1) _exit(1);
    for (int i = 0; i < kBytes; i += 4096) again[i] += mine[i];
    _exit(shmdt(again));
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 0) return 1;
  int sum = 0;
  for (int i = 0; i < kBytes; i += 4096) sum += mine[i];
  if (shmctl(id, IPC_RMID, NULL) != 0 || shmdt(mine) != 0) return 1;
  printf("%d\n", sum);
  return sum == 2 * (kBytes / 4096) ? 0 : 1;
}
