// A known sequence of memory calls, for comparison with what the trace says.
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(void) {
  const size_t size = 64 * 4096;
  char* a = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (size_t i = 0; i < size; i += 4096) a[i] = 1;
  madvise(a, size, MADV_DONTNEED);
  for (size_t i = 0; i < size; i += 4096) a[i] = 2;
  mprotect(a, 4096, PROT_READ);
  mprotect(a, 4096, PROT_READ | PROT_WRITE);
  a = mremap(a, size, 2 * size, MREMAP_MAYMOVE);
  memset(a + size, 3, size);
  munmap(a, 2 * size);
  return 0;
}
