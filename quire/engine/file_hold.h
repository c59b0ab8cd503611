// A reference to an open file while a call works on it (Linux's fdget and fdput): what another thread closes meanwhile stays
// until the call is done with it.
#pragma once

#include <exception>
#include <utility>

#include "quire/file/vfs.h"

namespace quire::engine {

class FileHold {
 public:
  // `file` may be nullptr: nothing is held.
  FileHold(file::Vfs& vfs, file::File* file) : vfs_(vfs), file_(file) {
    if (file_ != nullptr) vfs_.fget(*file_);
  }
  // May sleep. Does not while a task is unwound with its machine, with which the file goes; but that may begin here.
  ~FileHold() noexcept(false) {
    if (file_ != nullptr && std::uncaught_exceptions() == 0) vfs_.fput(*file_);
  }
  FileHold(FileHold&& other) noexcept : vfs_(other.vfs_), file_(std::exchange(other.file_, nullptr)) {}
  FileHold& operator=(FileHold&&) = delete;

  [[nodiscard]] explicit operator bool() const { return file_ != nullptr; }
  [[nodiscard]] file::File* get() const { return file_; }
  file::File& operator*() const { return *file_; }
  file::File* operator->() const { return file_; }

 private:
  file::Vfs& vfs_;
  file::File* file_;
};

}  // namespace quire::engine
