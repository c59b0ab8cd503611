#include "quire/kernel/pseudo_fs.h"

#include <fmt/format.h>

#include "quire/base/bug.h"

namespace quire::kernel {

using file::File;
using file::FileMode;
using file::InodeType;

namespace {

constexpr std::uint32_t kDev = 0xd;  // an anonymous device number, as stat of a pipe shows one

}  // namespace

PseudoFs::PseudoFs(phys::PhysMem& phys, slab::SlabSystem& slab, file::Vfs& vfs)
    : SuperBlock(kDev, "pipefs"),
      phys_(phys),
      slab_(slab),
      vfs_(vfs),
      inode_cache_(slab, "inode_cache", slab::SlabFlags::kReclaimAccount) {}

PseudoFs::~PseudoFs() {
  if (other_ != nullptr) free_inode(*other_);
}

PseudoFs::PipeInode* PseudoFs::new_inode(InodeType type) {
  const file::AddressSpaceInit mapping = vfs_.filemap().mapping_init(*this);
  const file::InodeInit init{.sb = *this, .ino = next_ino_++, .mapping = mapping, .i_rwsem = vfs_.filemap().i_rwsem_class()};
  PipeInode* inode = inode_cache_.alloc(phys::Gfp::kKernel, init);
  if (inode == nullptr) return nullptr;
  inode->i_type = type;
  inode->i_nlink = 0;  // it lives while it is open
  return inode;
}

void PseudoFs::free_inode(PipeInode& inode) {
  if (inode.i_dentry != nullptr) vfs_.dentries().d_free(*inode.i_dentry);
  if (inode.i_pipe != nullptr) Pipe::free_pipe_info(*inode.i_pipe);
  inode_cache_.free(&inode);
}

PseudoFs::PipeInode* PseudoFs::get_pipe_inode() {
  PipeInode* inode = new_inode(InodeType::kFifo);
  if (inode == nullptr) return nullptr;
  inode->i_pipe = Pipe::alloc_pipe_info(phys_, slab_);
  if (inode->i_pipe != nullptr) inode->i_dentry = vfs_.dentries().d_alloc("");
  if (inode->i_dentry == nullptr) {
    free_inode(*inode);
    return nullptr;
  }
  inode->i_dentry->d_inode = inode;
  return inode;
}

Result<PseudoFs::PipeFiles> PseudoFs::create_pipe_files() {
  PipeInode* inode = get_pipe_inode();
  if (inode == nullptr) return fail(Errno::kNoMem);
  PipeFiles files;
  Status status;
  if (auto write = vfs_.open(*inode, FileMode::kWrite)) {
    files.write = *write;
    inode->i_pipe->open_writer();
    if (auto read = vfs_.open(*inode, FileMode::kRead)) {
      files.read = *read;
      inode->i_pipe->open_reader();
    } else {
      status = fail(read.error());
      vfs_.fput(*files.write);
    }
  } else {
    status = fail(write.error());
  }
  vfs_.iput(*inode);  // the files hold it, or nobody
  if (!status) return fail(status.error());
  return files;
}

Result<File*> PseudoFs::open_other() {
  if (other_ == nullptr) {
    PipeInode* inode = new_inode(InodeType::kOther);
    if (inode == nullptr) return fail(Errno::kNoMem);
    inode->i_nlink = 1;  // stays
    // Others ran while memory was found.
    other_ == nullptr ? static_cast<void>(other_ = inode) : free_inode(*inode);
  }
  return vfs_.open(*other_, FileMode::kRead | FileMode::kWrite);
}

Pipe* PseudoFs::pipe_of(const File& file) {
  const file::Inode& inode = file.inode();
  return inode.i_type == InodeType::kFifo ? static_cast<const PipeInode&>(inode).i_pipe : nullptr;
}

Result<std::uint64_t> PseudoFs::read_iter(File& file, std::uint64_t /*pos*/, std::uint64_t len, file::IovIter& /*to*/) {
  Pipe* pipe = pipe_of(file);
  return pipe == nullptr ? Result<std::uint64_t>(0) : pipe->read(len);
}

Result<std::uint64_t> PseudoFs::write_iter(File& file, std::uint64_t& /*pos*/, std::uint64_t len, file::IovIter& /*from*/) {
  Pipe* pipe = pipe_of(file);
  return pipe == nullptr ? Result<std::uint64_t>(len) : pipe->write(len);
}

void PseudoFs::release(File& file) {
  Pipe* pipe = pipe_of(file);
  if (pipe == nullptr) return;
  any(file.f_mode, FileMode::kWrite) ? pipe->close_writer() : pipe->close_reader();
}

void PseudoFs::evict_inode(file::Inode& inode) { free_inode(static_cast<PipeInode&>(inode)); }

std::string PseudoFs::path_of(const file::Inode& inode) const {
  const bool pipe = static_cast<const PipeInode&>(inode).i_pipe != nullptr;
  return fmt::format("{}:[{}]", pipe ? "pipe" : "socket", inode.ino);
}

}  // namespace quire::kernel
