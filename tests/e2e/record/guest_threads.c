// Four threads, each writing its own megabyte; the main thread adds up.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static void* work(void* argument) {
  char* block = malloc(1 << 20);
  long sum = 0;
  for (int i = 0; i < 1 << 20; ++i) block[i] = (char)(i + (long)argument);
  for (int i = 0; i < 1 << 20; ++i) sum += block[i];
  free(block);
  return (void*)(sum & 0xff);
}

int main(void) {
  pthread_t threads[4];
  long sum = 0;
  for (long i = 0; i < 4; ++i) pthread_create(&threads[i], NULL, work, (void*)i);
  for (int i = 0; i < 4; ++i) {
    void* part;
    pthread_join(threads[i], &part);
    sum += (long)part;
  }
  printf("%ld\n", sum);
  return 0;
}
