#include "quire/base/result.h"

namespace quire {

std::string_view errno_name(Errno e) {
  switch (e) {
    case Errno::kPerm: return "EPERM";
    case Errno::kNoEnt: return "ENOENT";
    case Errno::kSrch: return "ESRCH";
    case Errno::kIntr: return "EINTR";
    case Errno::kIo: return "EIO";
    case Errno::kNxio: return "ENXIO";
    case Errno::kTooBig: return "E2BIG";
    case Errno::kNoExec: return "ENOEXEC";
    case Errno::kBadF: return "EBADF";
    case Errno::kChild: return "ECHILD";
    case Errno::kAgain: return "EAGAIN";
    case Errno::kNoMem: return "ENOMEM";
    case Errno::kAcces: return "EACCES";
    case Errno::kFault: return "EFAULT";
    case Errno::kBusy: return "EBUSY";
    case Errno::kExist: return "EEXIST";
    case Errno::kXDev: return "EXDEV";
    case Errno::kNoDev: return "ENODEV";
    case Errno::kNotDir: return "ENOTDIR";
    case Errno::kIsDir: return "EISDIR";
    case Errno::kInval: return "EINVAL";
    case Errno::kNFile: return "ENFILE";
    case Errno::kMFile: return "EMFILE";
    case Errno::kTxtBsy: return "ETXTBSY";
    case Errno::kFBig: return "EFBIG";
    case Errno::kNoSpc: return "ENOSPC";
    case Errno::kSPipe: return "ESPIPE";
    case Errno::kRoFs: return "EROFS";
    case Errno::kPipe: return "EPIPE";
    case Errno::kRange: return "ERANGE";
    case Errno::kDeadLk: return "EDEADLK";
    case Errno::kNameTooLong: return "ENAMETOOLONG";
    case Errno::kNoSys: return "ENOSYS";
    case Errno::kOverflow: return "EOVERFLOW";
    case Errno::kOpNotSupp: return "EOPNOTSUPP";
    case Errno::kIdRm: return "EIDRM";
    case Errno::kLibBad: return "ELIBBAD";
    case Errno::kHwPoison: return "EHWPOISON";
  }
  return "E?";
}

}  // namespace quire
