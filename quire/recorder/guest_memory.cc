// Reading what the guest's pointers point to, which may be nothing.
#include <sys/uio.h>
#include <unistd.h>

#include "quire/recorder/process.h"

namespace quire::recorder {

bool read_guest(std::uint64_t address, void* out, std::size_t bytes) {
  const iovec local{out, bytes};
  const iovec remote{process().host(address), bytes};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(bytes);
}

std::string read_guest_string(std::uint64_t address) {
  std::string text;
  char piece[256];
  while (text.size() < (1u << 17)) {  // MAX_ARG_STRLEN
    const std::size_t to_page_end = 4096 - address % 4096;
    const std::size_t size = to_page_end < sizeof piece ? to_page_end : sizeof piece;
    if (address == 0 || !read_guest(address, piece, size)) return text;
    for (std::size_t i = 0; i < size; ++i) {
      if (piece[i] == '\0') return text.append(piece, i);
    }
    text.append(piece, size);
    address += size;
  }
  return text;
}

}  // namespace quire::recorder
