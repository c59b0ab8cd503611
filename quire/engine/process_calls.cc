// Records that make, change and end processes: fork, exec with its areas and files, wait.
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "quire/engine/thread_replay.h"

namespace quire::engine {

namespace {

constexpr std::uint64_t kInitialStack = 132 * kKiB;  // what exec gives a stack before it grows
constexpr std::uint64_t kAccessMode = 3;             // O_ACCMODE
constexpr std::uint64_t kWriteOnly = 1;              // O_WRONLY

file::FileMode file_mode(std::uint64_t open_flags) {
  switch (open_flags & kAccessMode) {
    case 0: return file::FileMode::kRead;
    case 1: return file::FileMode::kWrite;
    default: return file::FileMode::kRead | file::FileMode::kWrite;
  }
}

// What the program called it: "x" of "/memfd:x (deleted)".
std::string_view memfd_name(std::string_view path) {
  for (const std::string_view prefix : {"/", "memfd:"}) {
    if (path.starts_with(prefix)) path.remove_prefix(prefix.size());
  }
  constexpr std::string_view kDeleted = " (deleted)";
  if (path.ends_with(kDeleted)) path.remove_suffix(kDeleted.size());
  return path.substr(0, file::kMfdNameMaxLen);
}

}  // namespace

void ThreadReplay::fork(const trace::Record& r) {
  if (r.child.tid == 0) return;
  scheduler_.charge(scheduler_.costs().syscall_entry);
  trace::TaskStream& child = program_.reader->stream(r.child);
  kernel::ProcessTable& table = machine_.processes();
  auto body = replay_.body(program_, child);
  if ((r.flags & CLONE_THREAD) != 0) {
    order_.thread_starts();
    if (const auto thread = table.clone_thread(process(), std::move(body)); !thread) {
      order_.thread_ends(r.child.tid);
      diverged("clone", thread.error());
    }
    return;
  }
  const bool shares_mm = (r.flags & CLONE_VM) != 0 && (r.flags & CLONE_VFORK) != 0;
  const auto made = shares_mm ? table.vfork(process(), std::move(body)) : table.fork(process(), std::move(body));
  if (!made) return diverged(shares_mm ? "vfork" : "fork", made.error());
  program_.processes[r.child.pid] = *made;
}

void ThreadReplay::exec(const trace::Record& r) {
  scheduler_.charge(scheduler_.costs().syscall_entry);
  if (!order_.await_sole_thread([this] { return killed(); })) return diverged("execve", Errno::kAgain);
  const std::string comm = std::filesystem::path(text(r.path)).filename().string();
  {
    const auto name = machine_.vfs().getname(text(r.path));  // lies in the kernel meanwhile
    if (!name) diverged("execve", name.error());
    expect("execve", machine_.processes().exec(process(), comm));
  }
  position_ = 0;
  const std::vector<int> open = process().files->numbers();
  unconfirmed_.insert(open.begin(), open.end());
}

// start_code … end_data as load_elf_binary finds them, to the page, which is what a trace has.
void ThreadReplay::program_segment(const trace::Record& r) {
  vm::Mm& image = mm();
  if (any(static_cast<vm::Prot>(r.prot), vm::Prot::kExec)) {
    if (image.end_code.value() == 0 || r.begin < image.start_code.value()) image.start_code = VirtAddr(r.begin);
    image.end_code = std::max(image.end_code, VirtAddr(r.end));
  }
  image.start_data = std::max(image.start_data, VirtAddr(r.begin));
  image.end_data = std::max(image.end_data, VirtAddr(r.end));
}

// Is a System V segment attached there?
bool ThreadReplay::attached_at(VirtAddr address) const {
  const vm::Vma* vma = mm().mm_vmas.lookup(address);
  return vma != nullptr && vma->vm_file != nullptr && vma->vm_file->area_ops != nullptr;
}

void ThreadReplay::area(const trace::Record& r) {
  using vm::MapFlags;
  const VirtAddr begin(align_down(r.begin, kPageSize));
  const std::uint64_t length = align_up(r.end, kPageSize) - begin.value();
  const auto prot = static_cast<vm::Prot>(r.prot);
  MapFlags flags = MapFlags::kFixed | MapFlags::kPrivate;
  switch (r.area) {
    case trace::AreaKind::kBrk: mm().start_brk = mm().brk = VirtAddr(r.begin); return;
    case trace::AreaKind::kStack: {
      mm().rlimits.stack = r.end - r.begin;
      mm().start_stack = VirtAddr(r.offset);
      const std::uint64_t low = std::max(r.begin, align_down(r.offset, kPageSize) - kInitialStack);
      flags |= MapFlags::kAnonymous | MapFlags::kGrowsDown | MapFlags::kStack;
      expect("exec (stack)", vm_.mmap(mm(), VirtAddr(low), r.end - low, prot, flags, nullptr, 0));
      return;
    }
    case trace::AreaKind::kProgram: program_segment(r); [[fallthrough]];
    case trace::AreaKind::kInterpreter:
      if (r.inode != 0) {
        auto inode = replay_.files_.inode({r.dev, r.inode, r.offset + length, text(r.path)});
        if (!inode) return diverged("exec (file)", inode.error());
        auto opened = machine_.vfs().open(**inode, file::FileMode::kRead);
        if (!opened) return diverged("exec (file)", opened.error());
        expect("exec (segment)", vm_.mmap(mm(), begin, length, prot, flags, *opened, align_down(r.offset, kPageSize)));
        machine_.vfs().fput(**opened);
        return;
      }
      break;
    case trace::AreaKind::kOther:
      if (attached_at(begin)) return;  // the recorder finds what shmat made when it is first touched
      break;
    case trace::AreaKind::kBss:
    case trace::AreaKind::kSpecial: break;
  }
  expect("exec (area)", vm_.mmap(mm(), begin, length, prot, flags | MapFlags::kAnonymous, nullptr, 0));
}

void ThreadReplay::file(const trace::Record& r) {
  const bool inherited = unconfirmed_.erase(r.fd) != 0;
  const Opened when = inherited || next_file_.duplicated == r.fd ? Opened::kBefore : Opened::kNew;
  const auto truncated = next_file_.truncated == r.fd ? Truncated::kYes : Truncated::kNo;
  switch (r.file) {
    case trace::FileKind::kClosed: (void)process().files->close(r.fd); return;
    case trace::FileKind::kRegular: regular_file(r, when, truncated); return;
    case trace::FileKind::kMemfd: memfd(r); return;
    case trace::FileKind::kPipe: pipe_end(r); return;
    case trace::FileKind::kDirectory:
    case trace::FileKind::kSocket:
    case trace::FileKind::kCharacter:
    case trace::FileKind::kBlock:
    case trace::FileKind::kOther: install_other(r.fd); return;
  }
}

// Does the number name that file already? One without a name, too, which only its number in the file system tells.
bool ThreadReplay::names_already(const trace::Record& r) const {
  const file::File* known = process().files->find(r.fd);
  return known != nullptr && known->inode().ino == r.inode &&
         &known->inode().sb == machine_.vfs().find_mount(static_cast<std::uint32_t>(r.dev));
}

void ThreadReplay::regular_file(const trace::Record& r, Opened when, Truncated truncated) {
  if (when == Opened::kBefore && names_already(r)) {
    process().files->find(r.fd)->f_pos = r.offset;
    return;
  }
  with_name("open", r.path, [&](std::string_view path) {
    auto inode = replay_.files_.inode({r.dev, r.inode, r.size, path});
    if (!inode) return diverged("open", inode.error());
    if (truncated == Truncated::kYes && (*inode)->i_size_read() > r.size) {
      expect("open (O_TRUNC)", (*inode)->sb.truncate(**inode, r.size));
    }
    const auto opened = machine_.vfs().open(**inode, file_mode(r.flags));
    if (opened) (*opened)->f_pos = r.offset;
    install(r.fd, opened);
  });
}

// The inode of a memfd as long as it lives: the descriptors and mappings of the program keep it, as they did when recorded.
file::Inode* ThreadReplay::known_memfd(std::uint64_t recorded) const {
  const auto it = program_.memfds.find(recorded);
  return it == program_.memfds.end() ? nullptr : machine_.vfs().shmem().find_memfd(it->second);
}

// What sleeps lets other threads run, which may meet the same file, or close it.
void ThreadReplay::memfd(const trace::Record& r) {
  file::Vfs& vfs = machine_.vfs();
  const auto flags = next_file_.memfd;
  for (;;) {
    if (file::Inode* inode = known_memfd(r.inode)) {
      const file::File* named = process().files->find(r.fd);
      if (named != nullptr && &named->inode() == inode) return;
      const auto opened = vfs.open(*inode, file_mode(r.flags));
      return install(r.fd, opened);
    }
    const auto made = vfs.memfd_create(memfd_name(text(r.path)), flags);
    if (!made) return diverged("memfd_create", made.error());
    expect("memfd_create", vfs.ftruncate(**made, r.size));
    if (known_memfd(r.inode) == nullptr) {
      program_.memfds[r.inode] = (*made)->inode().ino;
      return install(r.fd, made);
    }
    vfs.fput(**made);
  }
}

// A number for what was opened; the reference is the table's from here on, or nobody's.
void ThreadReplay::install(int fd, const Result<file::File*>& opened) {
  if (!opened) return diverged("open", opened.error());
  if (const Status installed = process().files->install(fd, **opened); !installed) {
    machine_.vfs().fput(**opened);
    diverged("open", installed.error());
  }
}

// A trace gives pipes no identity: they are followed from pipe(2) through dup, fork and exec by the machine's own tables. A
// pipe that none of these made came from outside the recording.
void ThreadReplay::pipe_end(const trace::Record& r) {
  const bool writes = (r.flags & kAccessMode) == kWriteOnly;
  if (file::File* end = std::exchange(writes ? next_file_.pipe.write : next_file_.pipe.read, nullptr))
    return install(r.fd, end);
  const file::File* known = process().files->find(r.fd);
  if (known == nullptr || kernel::PseudoFs::pipe_of(*known) == nullptr) install_other(r.fd);
}

void ThreadReplay::forget_next_file() {
  const NextFile last = std::exchange(next_file_, {});
  for (file::File* end : {last.pipe.read, last.pipe.write}) {
    if (end != nullptr) machine_.vfs().fput(*end);
  }
}

void ThreadReplay::close_unconfirmed() {
  for (const int fd : std::exchange(unconfirmed_, {})) (void)process().files->close(fd);
}

// The record names the child when one was found. Which of them waitid only looks at, a later call waits for.
void ThreadReplay::wait(const trace::Record& r) {
  if (r.child.pid == 0 || WIFSTOPPED(r.status) || WIFCONTINUED(r.status)) return;
  const auto it = program_.processes.find(r.child.pid);
  if (it == program_.processes.end()) return;
  kernel::Process& child = *it->second;
  if (r.number == SYS_waitid && (r.args[3] & WNOWAIT) != 0) {
    process().signal->wait_chldexit.wait_until(
        [this, &child] { return child.state != kernel::ProcessState::kRunning || killed(); });
    return;
  }
  expect(r.number == SYS_waitid ? "waitid" : "wait4", machine_.processes().wait(process(), child));
}

}  // namespace quire::engine
