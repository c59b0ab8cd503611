// Four threads map, touch and unmap memory while the main thread forks children one after the other.
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int done;

static void* work(void* argument) {
  while (!atomic_load(&done)) {
    char* block = mmap(NULL, 1 << 21, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    block[0] = 1;
    munmap(block, 1 << 21);
  }
  return argument;
}

int main(void) {
  pthread_t threads[4];
  int ended = 0;
  alarm(60);
  for (int i = 0; i < 4; ++i) pthread_create(&threads[i], NULL, work, NULL);
  for (int i = 0; i < 8; ++i) {
    int status = 0;
    const pid_t child = fork();
    if (child == 0) _exit(7);
    if (waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7) ++ended;
  }
  atomic_store(&done, 1);
  for (int i = 0; i < 4; ++i) pthread_join(threads[i], NULL);
  printf("%d children\n", ended);
  return 0;
}
