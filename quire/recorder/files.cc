// What the guest's file descriptors name. QEMU user mode keeps the guest's numbers, so the host can be asked.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "quire/recorder/process.h"

namespace quire::recorder {
namespace {

using trace::FileKind;

FileKind kind_of(const struct stat& file, const std::string& name) {
  switch (file.st_mode & S_IFMT) {
    case S_IFREG: return name.starts_with("/memfd:") ? FileKind::kMemfd : FileKind::kRegular;
    case S_IFDIR: return FileKind::kDirectory;
    case S_IFIFO: return FileKind::kPipe;
    case S_IFSOCK: return FileKind::kSocket;
    case S_IFCHR: return FileKind::kCharacter;
    case S_IFBLK: return FileKind::kBlock;
    default: return FileKind::kOther;
  }
}

std::string read_link(const std::string& path) {
  char text[4096];
  const ssize_t size = readlink(path.c_str(), text, sizeof text);
  return size > 0 ? std::string(text, static_cast<std::size_t>(size)) : std::string();
}

// Pipes and sockets are named by numbers the kernel deals out afresh in each run; their inode is left out for that reason.
bool repeatable(FileKind kind) { return kind != FileKind::kPipe && kind != FileKind::kSocket && kind != FileKind::kOther; }

}  // namespace

std::string name_of_fd(int fd) { return read_link("/proc/self/fd/" + std::to_string(fd)); }

std::string absolute_path(int dirfd, const std::string& path) {
  if (path.starts_with('/')) return path;
  const std::string folder = dirfd == AT_FDCWD ? read_link("/proc/self/cwd") : name_of_fd(dirfd);
  return path.empty() || folder.empty() ? folder : folder + "/" + path;
}

std::string kernel_path(int dirfd, const std::string& path, LastLink last) {
  std::string full = absolute_path(dirfd, path);
  char resolved[PATH_MAX];
  if (last == LastLink::kFollowed) {
    if (realpath(full.c_str(), resolved) != nullptr) return resolved;
    if (std::string target = read_link(full); target.starts_with('/'))
      full = std::move(target);  // /proc/self/fd of what is gone
  }
  while (full.size() > 1 && full.ends_with('/')) full.pop_back();
  const std::size_t slash = full.rfind('/');
  if (slash == std::string::npos) return {};
  const std::string name = full.substr(slash);
  if (name == "/." || name == "/..") return realpath(full.c_str(), resolved) != nullptr ? resolved : full;
  if (realpath(full.substr(0, slash + 1).c_str(), resolved) != nullptr) {
    full = std::string(resolved) == "/" ? name : resolved + name;
  }
  return full.size() < PATH_MAX ? full : std::string();
}

void describe_fd(Vcpu& vcpu, int fd) {
  struct stat file{};
  if (fstat(fd, &file) != 0) return;
  std::string name = name_of_fd(fd);
  Record record;
  record.kind = RecordKind::kFile;
  record.fd = fd;
  record.file = kind_of(file, name);
  const int flags = fcntl(fd, F_GETFL);
  record.flags = flags >= 0 ? static_cast<std::uint64_t>(flags) : 0;
  record.size = static_cast<std::uint64_t>(file.st_size);
  if (repeatable(record.file)) {
    record.dev = file.st_dev;
    record.inode = file.st_ino;
    const off_t at = lseek(fd, 0, SEEK_CUR);
    if (at > 0) record.offset = static_cast<std::uint64_t>(at);
  } else {
    name = name.substr(0, name.find(':'));
    record.size = 0;
  }
  {
    Lock hold(process().lock);
    if (record.file == FileKind::kCharacter && (name == "/dev/random" || name == "/dev/urandom")) {
      process().random_fds.insert(fd);
    } else {
      process().random_fds.erase(fd);  // dup2 over one
    }
  }
  write_record(vcpu, record, name);
}

void note_inherited_files() {
  DIR* const folder = opendir("/proc/self/fd");
  if (folder == nullptr) return;
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] == '.') continue;
    const int fd = std::atoi(entry->d_name);
    if (fd != dirfd(folder)) process().inherited_fds.push_back(fd);
  }
  closedir(folder);
}

}  // namespace quire::recorder
