// Three threads take blocks that the main thread maps and fills, check them and unmap them: what one maps another uses and a
// third gives back. With an argument, main leaves by exit(3) while they wait.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { kBlocks = 300, kBytes = 8 * 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned char* slot;
static long taken, sum;
static int over;

static void* work(void* unused) {
  pthread_mutex_lock(&lock);
  for (;;) {
    while (slot == NULL && !over) pthread_cond_wait(&changed, &lock);
    if (slot == NULL) break;
    unsigned char* block = slot;
    slot = NULL;
    ++taken;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    long part = 0;
    for (int i = 0; i < kBytes; i += 512) part += block[i];
    munmap(block, kBytes);
    pthread_mutex_lock(&lock);
    sum += part;
  }
  pthread_mutex_unlock(&lock);
  return unused;
}

int main(int argc, char** argv) {
  pthread_t threads[3];
  for (int i = 0; i < 3; ++i) pthread_create(&threads[i], NULL, work, NULL);
  for (int i = 0; i < kBlocks; ++i) {
    unsigned char* block = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(block, i, kBytes);
    pthread_mutex_lock(&lock);
    while (slot != NULL) pthread_cond_wait(&changed, &lock);
    slot = block;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
  }
  pthread_mutex_lock(&lock);
  while (slot != NULL) pthread_cond_wait(&changed, &lock);
  if (argc > 1) exit(3);
  over = 1;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  for (int i = 0; i < 3; ++i) pthread_join(threads[i], NULL);
  printf("%ld %ld\n", taken, sum);
  return 0;
}
