#include "quire/engine/file_set.h"

#include <fmt/format.h>

namespace quire::engine {

file::FileSystem& FileSet::mount(std::uint64_t dev) {
  const auto number = static_cast<std::uint32_t>(dev);
  if (file::FileSystem* fs = vfs_.find_mount(number); fs != nullptr) return *fs;
  file::FileSystemConfig config;
  config.dev = number;
  config.disk = sim::DiskConfig::from_costs(scheduler_.costs());
  return vfs_.mount(config);
}

Result<InodeHold> FileSet::inode(const FileIdentity& identity) {
  const std::pair key{identity.dev, identity.inode};
  auto it = by_identity_.find(key);
  if (it == by_identity_.end()) {
    Named named;
    named.fs = &mount(identity.dev);
    named.name = fmt::format("#{}", identity.inode);
    auto made = named.fs->create(named.name, std::make_unique<file::ZeroBacking>(identity.size), identity.inode);
    it = by_identity_.find(key);  // another task may have met the same file meanwhile
    if (made) {
      named.inode = *made;
      it = by_identity_.insert_or_assign(key, std::move(named)).first;
    } else if (it == by_identity_.end()) {
      return fail(made.error());
    }
  }
  InodeHold hold(*it->second.inode);
  if (!identity.path.empty()) by_path_[std::string(identity.path)] = key;
  if (hold->i_size_read() < identity.size) {
    if (auto grown = it->second.fs->truncate(*hold, identity.size); !grown) return fail(grown.error());
  }
  return hold;
}

std::optional<InodeHold> FileSet::find(std::string_view path) const {
  const auto it = by_path_.find(path);
  if (it == by_path_.end()) return std::nullopt;
  return InodeHold(*by_identity_.at(it->second).inode);
}

Status FileSet::unlink(std::string_view path) {
  const auto it = by_path_.find(path);
  if (it == by_path_.end()) return {};
  const std::pair key = it->second;
  by_path_.erase(it);
  for (const auto& [other, identity] : by_path_) {
    if (identity == key) return {};  // another name is left
  }
  Named named = std::move(by_identity_.at(key));
  by_identity_.erase(key);
  return named.fs->unlink(named.name);
}

Status FileSet::rename(std::string_view from, std::string_view to) {
  const auto it = by_path_.find(from);
  if (it == by_path_.end() || from == to) return {};
  const std::pair key = it->second;
  by_path_.erase(it);
  const auto target = by_path_.find(to);
  if (target != by_path_.end() && target->second != key) {
    if (auto gone = unlink(to); !gone) return gone;
  }
  by_path_[std::string(to)] = key;
  return {};
}

}  // namespace quire::engine
