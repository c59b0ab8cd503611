#include "quire/kernel/file_table.h"

#include <utility>

namespace quire::kernel {

FileTable::~FileTable() { close_all(); }

Descriptor* FileTable::find(int fd) {
  const auto it = descriptors_.find(fd);
  return it == descriptors_.end() ? nullptr : &it->second;
}

Result<file::File*> FileTable::file(int fd) {
  const Descriptor* descriptor = find(fd);
  if (descriptor == nullptr || descriptor->file == nullptr) return fail(Errno::kBadF);
  return descriptor->file;
}

void FileTable::install(int fd, Descriptor descriptor) {
  Descriptor old = std::exchange(descriptors_[fd], std::move(descriptor));
  put(old);
}

Status FileTable::close(int fd) {
  const auto it = descriptors_.find(fd);
  if (it == descriptors_.end()) return fail(Errno::kBadF);
  Descriptor old = std::move(it->second);
  descriptors_.erase(it);  // first: closing may sleep, and the number is free from now on
  put(old);
  return {};
}

Status FileTable::dup(int from, int to) {
  const Descriptor* descriptor = find(from);
  if (descriptor == nullptr) return fail(Errno::kBadF);
  if (from != to) install(to, get(*descriptor));
  return {};
}

std::shared_ptr<FileTable> FileTable::clone() const {
  auto copy = std::make_shared<FileTable>(vfs_);
  for (const auto& [fd, descriptor] : descriptors_) copy->descriptors_.emplace(fd, get(descriptor));
  return copy;
}

std::vector<int> FileTable::numbers() const {
  std::vector<int> all;
  for (const auto& [fd, descriptor] : descriptors_) all.push_back(fd);
  return all;
}

void FileTable::close_all() {
  while (!descriptors_.empty()) {
    Descriptor old = std::move(descriptors_.begin()->second);
    descriptors_.erase(descriptors_.begin());
    put(old);
  }
}

Descriptor FileTable::get(const Descriptor& descriptor) const {
  if (descriptor.file != nullptr) vfs_.fget(*descriptor.file);
  if (descriptor.end == PipeEnd::kRead) descriptor.pipe->open_reader();
  if (descriptor.end == PipeEnd::kWrite) descriptor.pipe->open_writer();
  return descriptor;
}

void FileTable::put(Descriptor& descriptor) {
  if (descriptor.file != nullptr) vfs_.fput(*descriptor.file);
  if (descriptor.end == PipeEnd::kRead) descriptor.pipe->close_reader();
  if (descriptor.end == PipeEnd::kWrite) descriptor.pipe->close_writer();
  descriptor = Descriptor{};
}

}  // namespace quire::kernel
