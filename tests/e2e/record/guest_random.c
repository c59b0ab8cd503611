// Reads a random device, closes it, and reads the file it is given, in the ways in which a descriptor can change hands.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char** argv) {
  char buffer[64];
  int random = open("/dev/urandom", O_RDONLY);
  if (read(random, buffer, 16) != 16) return 1;
  int fd;
  if (strcmp(argv[1], "dup2") == 0) {
    fd = dup2(open(argv[2], O_RDONLY), random);
  } else {
    if (strcmp(argv[1], "range") == 0)
      close_range(random, random, 0);
    else
      close(random);
    fd = open(argv[2], O_RDONLY);
  }
  if (fd != random) return 2;
  long n = read(fd, buffer, sizeof buffer);
  return write(1, buffer, n) == n ? 0 : 3;
}
