// What programs do with the names and places of files, each named by an argument.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { kPage = 4096 };

static char page[kPage];

static void check(int good, const char* what) {
  if (good) return;
  perror(what);
  exit(1);
}

// A file without a name that is named again by its descriptor, as a shell does with a here-document.
static void nameless(void) {
  const int file = open("nameless", O_RDWR | O_CREAT | O_EXCL, 0600);
  check(file >= 0, "open");
  check(unlink("nameless") == 0, "unlink");
  check(write(file, page, kPage) == kPage, "write");
  check(dup2(file, 9) == 9, "dup2");
  const int again = open("/proc/self/fd/9", O_RDWR);
  check(again >= 0, "open again");
  check(close(file) == 0 && close(9) == 0, "close");
  for (int i = 1; i < 8; ++i) check(pwrite(again, page, kPage, i * kPage) == kPage, "pwrite");
  check(fsync(again) == 0, "fsync");
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*act)(void);
  } acts[] = {{"nameless", nameless}};
  for (unsigned i = 0; i < sizeof acts / sizeof *acts; ++i) {
    if (argc > 1 && !strcmp(argv[1], acts[i].name)) return acts[i].act(), 0;
  }
  return 2;
}
