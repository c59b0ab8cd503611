// A process's open file descriptors (Linux's files_struct): what each number refers to. Shared between tasks made with
// CLONE_FILES, copied by fork. Host-side; the files themselves live in the arena.
//
// A descriptor refers to a File of the machine, to a Pipe, or to something without memory of interest (a socket, a
// terminal, a directory), which is known to be open and nothing more.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "quire/base/result.h"
#include "quire/file/vfs.h"
#include "quire/kernel/pipe.h"

namespace quire::kernel {

enum class PipeEnd : std::uint8_t { kNone, kRead, kWrite };

struct Descriptor {
  file::File* file = nullptr;
  std::shared_ptr<Pipe> pipe;
  PipeEnd end = PipeEnd::kNone;
};

class FileTable {
 public:
  explicit FileTable(file::Vfs& vfs) : vfs_(vfs) {}
  ~FileTable();
  FileTable(const FileTable&) = delete;
  FileTable& operator=(const FileTable&) = delete;

  // The descriptor, or nullptr when `fd` is not open.
  [[nodiscard]] Descriptor* find(int fd);
  // The file behind `fd`; kBadF when it is not open or no file.
  [[nodiscard]] Result<file::File*> file(int fd);
  // Makes `fd` refer to `descriptor`, whose reference is taken over; what it referred to is closed.
  void install(int fd, Descriptor descriptor);
  Status close(int fd);
  // dup2: `to` refers to what `from` refers to. kBadF.
  Status dup(int from, int to);
  // A copy as fork makes it: every descriptor with a reference of its own.
  [[nodiscard]] std::shared_ptr<FileTable> clone() const;
  void close_all();
  // Every open number, ascending.
  [[nodiscard]] std::vector<int> numbers() const;
  [[nodiscard]] std::size_t size() const { return descriptors_.size(); }

 private:
  void put(Descriptor& descriptor);
  [[nodiscard]] Descriptor get(const Descriptor& descriptor) const;

  file::Vfs& vfs_;
  std::map<int, Descriptor> descriptors_;
};

}  // namespace quire::kernel
