// What programs do with the names and places of files, each named by an argument.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
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

// With pages that are to be written.
static void make(const char* path) {
  const int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  check(file >= 0, path);
  for (int i = 0; i < 100; ++i) check(write(file, page, kPage) == kPage, path);
  check(close(file) == 0, path);
}

// Each file goes by another name than the kernel's own.
static void roundabout(void) {
  check(mkdir("folder", 0700) == 0 && symlink("folder", "other") == 0, "mkdir");
  make("one");
  check(unlink("./folder//../one") == 0, "unlink");
  make("folder/two");
  check(unlink("other/two") == 0, "unlink through a link");
  make("three");
  check(symlink("three", "link") == 0 && truncate("link", 0) == 0, "truncate a link");
  make("folder/four");
  check(mkdir("folder/below", 0700) == 0, "mkdir");
  make("folder/below/five");
  check(rename("./folder", "folder2/") == 0, "rename");
  check(unlink("folder2/four") == 0 && unlink("folder2/below/five") == 0, "unlink in what was renamed");
  check(symlink("three", "link2") == 0 && rename("link2", "link") == 0, "rename a link");
  check(unlink("link") == 0, "unlink a link");
  make("three");
  check(unlink("three") == 0, "unlink");
  sync();
}

// Files with two names, of which one goes.
static void links(void) {
  make("one");
  check(link("one", "two") == 0 && unlink("one") == 0, "link");
  make("three");
  check(symlink("three", "link") == 0, "symlink");
  check(linkat(AT_FDCWD, "link", AT_FDCWD, "./four", AT_SYMLINK_FOLLOW) == 0 && unlink("three") == 0, "linkat");
  const int file = open(".", O_TMPFILE | O_RDWR, 0600);
  check(file >= 0, "O_TMPFILE");
  for (int i = 0; i < 100; ++i) check(write(file, page, kPage) == kPage, "write");
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  check(linkat(AT_FDCWD, path, AT_FDCWD, "five", AT_SYMLINK_FOLLOW) == 0, "linkat of a descriptor");
  check(close(file) == 0 && unlink("five") == 0, "unlink");
  sync();  // writes what is called two and four
}

// Two files, and a folder and a file, change names; two links of one file do not, whatever rename says.
static void exchanged(void) {
  make("one");
  check(mkdir("folder", 0700) == 0, "mkdir");
  make("folder/two");
  check(renameat2(AT_FDCWD, "one", AT_FDCWD, "folder/two", RENAME_EXCHANGE) == 0, "renameat2");
  check(truncate("one", 0) == 0, "truncate");  // was two
  check(renameat2(AT_FDCWD, "one", AT_FDCWD, "folder", RENAME_EXCHANGE) == 0, "renameat2");
  check(truncate("one/two", 50 * kPage) == 0, "truncate");  // was one
  make("three");
  check(link("three", "four") == 0 && rename("three", "four") == 0, "rename of links");
  check(unlink("four") == 0 && truncate("three", 10 * kPage) == 0, "truncate");
  check(renameat2(AT_FDCWD, "three", AT_FDCWD, "five", RENAME_NOREPLACE) == 0, "renameat2");
  check(truncate("five", 5 * kPage) == 0, "truncate");
  sync();
}

// O_APPEND, by which pwrite, too, writes at the end; and the file's position stays.
static void appending(void) {
  make("file");
  const int file = open("file", O_RDWR | O_APPEND);
  check(file >= 0, "open");
  const struct iovec piece = {page, kPage};
  check(fsync(file) == 0, "fsync");
  check(pwrite(file, page, kPage, 0) == kPage && pwritev(file, &piece, 1, kPage) == kPage, "pwrite");
  check(lseek(file, 0, SEEK_CUR) == 0, "lseek");
}

// copy_file_range and sendfile, with and without a place of their own.
static void copying(void) {
  make("from");
  const int from = open("from", O_RDONLY);
  const int to = open("to", O_RDWR | O_CREAT, 0600);
  check(from >= 0 && to >= 0, "open");
  off_t source = 0, target = 0;
  check(copy_file_range(from, &source, to, &target, 10 * kPage, 0) == 10 * kPage, "copy_file_range");
  check(copy_file_range(from, NULL, to, NULL, 20 * kPage, 0) == 20 * kPage, "copy_file_range");
  check(lseek(from, 0, SEEK_SET) == 0, "lseek");
  source = 0;
  check(sendfile(to, from, &source, kPage) == kPage && sendfile(to, from, NULL, kPage) == kPage, "sendfile");
  check(sendfile(to, from, NULL, kPage) == kPage, "sendfile");  // 23 pages
}

// Where a name is too long for the kernel to say it.
static void deep(void) {
  enum { kName = 200, kDepth = 20 };
  char name[kName + 1];
  memset(name, 'n', kName);
  name[kName] = 0;
  for (int i = 0; i < kDepth; ++i) check(mkdir(name, 0700) == 0 && chdir(name) == 0, "mkdir");
  make(name);
  check(rename(name, "shorter") == 0 && rename("shorter", name) == 0, "rename");
  check(unlink(name) == 0, "unlink");
  for (int i = 0; i < kDepth; ++i) check(chdir("..") == 0 && rmdir(name) == 0, "rmdir");
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*act)(void);
  } acts[] = {{"nameless", nameless},   {"roundabout", roundabout}, {"deep", deep},      {"links", links},
              {"exchanged", exchanged}, {"appending", appending},   {"copying", copying}};
  char folder[] = "files-XXXXXX";  // each run has its own
  check(mkdtemp(folder) != NULL && chdir(folder) == 0, "mkdtemp");
  for (unsigned i = 0; i < sizeof acts / sizeof *acts; ++i) {
    if (argc > 1 && !strcmp(argv[1], acts[i].name)) return acts[i].act(), 0;
  }
  return 2;
}
