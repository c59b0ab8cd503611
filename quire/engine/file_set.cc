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
  file::FileSystem& fs = mount(identity.dev);
  while (!by_identity_.contains(key)) {
    if (file::DiskInode* nameless = fs.lookup_ino(identity.inode)) return grown(InodeHold(*nameless), identity.size);
    // Another task may have met the same file meanwhile.
    if (Status made = create(key, fs, identity); !made && made.error() != Errno::kExist) return fail(made.error());
  }
  InodeHold hold(*by_identity_.at(key).inode);
  if (!identity.path.empty()) {
    by_path_[std::string(identity.path)] = key;
    const Named file = by_identity_.at(key);
    const Status named = file.name().starts_with('#') ? name_after(file, identity.path) : Status();
    if (!named) return fail(named.error());
  }
  return grown(std::move(hold), identity.size);
}

Result<InodeHold> FileSet::grown(InodeHold hold, std::uint64_t size) {
  if (hold->i_size_read() < size) {
    if (auto done = hold->sb.truncate(*hold, size); !done) return fail(done.error());
  }
  return hold;
}

// Under its number.
Status FileSet::create(const Key& key, file::FileSystem& fs, const FileIdentity& identity) {
  const std::string number = fmt::format("#{}", identity.inode);
  auto made = fs.create(number, std::make_unique<file::ZeroBacking>(identity.size), identity.inode);
  if (!made) return fail(made.error());
  by_identity_.insert_or_assign(key, Named{.fs = &fs, .inode = *made});
  return {};
}

// Its path takes the place of the name that it has, unless another file has that still. Others run meanwhile: the file may be
// gone in the end.
Status FileSet::name_after(const Named& named, std::string_view path) {
  const Status renamed = named.fs->rename(named.name(), path, file::FileSystem::Replace::kNo);
  const bool passed_over = !renamed && (renamed.error() == Errno::kExist || renamed.error() == Errno::kNoEnt);
  return passed_over ? Status() : renamed;
}

std::optional<InodeHold> FileSet::find(std::string_view path) const {
  const auto it = by_path_.find(path);
  if (it == by_path_.end()) return std::nullopt;
  return InodeHold(*by_identity_.at(it->second).inode);
}

Status FileSet::link(std::string_view existing, std::string_view path) {
  const auto it = by_path_.find(existing);
  if (it == by_path_.end() || path.empty()) return {};
  by_path_[std::string(path)] = it->second;
  const bool was_a_name = !existing.ends_with(" (deleted)");  // not O_TMPFILE's
  return was_a_name ? Status() : unlink(existing);
}

Status FileSet::unlink(std::string_view path) {
  const auto it = by_path_.find(path);
  if (it == by_path_.end()) return {};
  const Key key = it->second;
  by_path_.erase(it);
  for (const auto& [other, identity] : by_path_) {
    if (identity != key) continue;
    const Named left = by_identity_.at(key);
    return left.name() == path ? name_after(left, std::string(other)) : Status();
  }
  const Named gone = by_identity_.at(key);
  by_identity_.erase(key);
  return gone.fs->unlink(gone.name());
}

// What stands there itself, or else the first below it.
FileSet::PathMap::iterator FileSet::at_or_below(std::string_view path) {
  if (const auto it = by_path_.find(path); it != by_path_.end()) return it;
  const std::string below = std::string(path) + "/";
  const auto it = by_path_.lower_bound(below);
  return it != by_path_.end() && it->first.starts_with(below) ? it : by_path_.end();
}

Status FileSet::rename(std::string_view from, std::string_view to) {
  if (from.empty() || to.empty() || from == to || to.starts_with(std::string(from) + "/")) return {};
  const auto one = by_path_.find(from), other = by_path_.find(to);
  if (one != by_path_.end() && other != by_path_.end() && one->second == other->second) return {};  // links of one file
  for (;;) {
    const auto source = at_or_below(from);
    if (source == by_path_.end()) return {};
    const std::string path = source->first;
    if (Status moved = rename_path(path, std::string(to) + path.substr(from.size())); !moved) return moved;
  }
}

// While the target goes, other tasks run: the file may go, too, or another may get the target's name.
Status FileSet::rename_path(std::string_view from, std::string_view to) {
  for (;;) {
    const auto source = by_path_.find(from);
    if (source == by_path_.end()) return {};
    const Key key = source->second;
    const auto target = by_path_.find(to);
    if (target != by_path_.end() && target->second != key) {
      if (auto gone = unlink(to); !gone) return gone;
      continue;
    }
    by_path_.erase(source);
    by_path_[std::string(to)] = key;
    const Named file = by_identity_.at(key);
    return file.name() == from ? name_after(file, to) : Status();
  }
}

// What stands at `from` and below it is to stand there under `to`.
void FileSet::add_moves(std::string_view from, std::string_view to, std::vector<Move>& moves) const {
  const std::string below = std::string(from) + "/";
  for (const auto& [path, key] : by_path_) {
    if (path == from || path.starts_with(below)) moves.push_back({path, std::string(to) + path.substr(from.size()), key});
  }
}

Status FileSet::exchange(std::string_view one, std::string_view other) {
  if (one.empty() || other.empty()) return {};
  std::vector<Move> moves;
  add_moves(one, other, moves);
  add_moves(other, one, moves);
  for (const Move& move : moves) by_path_.erase(move.from);
  for (const Move& move : moves) by_path_[move.to] = move.key;
  // In the file system each makes room before another takes its name. Others run meanwhile: a file may go, or be named anew.
  const auto rename = [this](const Move& move, std::string_view from, const std::string& to) -> Status {
    const auto path = by_path_.find(move.to);
    if (path == by_path_.end() || path->second != move.key) return {};
    const Named file = by_identity_.at(move.key);
    return file.name() == from ? name_after(file, to) : Status();
  };
  const auto number = [](const Move& move) { return fmt::format("#{}", move.key.second); };
  for (const Move& move : moves) {
    if (Status done = rename(move, move.from, number(move)); !done) return done;
  }
  for (const Move& move : moves) {
    if (Status done = rename(move, number(move), move.to); !done) return done;
  }
  return {};
}

}  // namespace quire::engine
