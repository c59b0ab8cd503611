#include "quire/phys/arena.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace quire::phys {

namespace {

constexpr std::uint64_t kPagesPerMemmapBlock = std::uint64_t{1} << 15;

void* reserve_address_space(std::uint64_t bytes) {
  return ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

}  // namespace

BootResult<Arena> Arena::create(PhysAddr end) {
  Arena arena;
  arena.end_ = align_up(end, kPageSize);
  arena.vmemmap_bytes_ = align_up(phys_to_pfn(arena.end_).value(), kPagesPerMemmapBlock) * sizeof(Page);
  arena.fd_ = ::memfd_create("quire-ram", MFD_CLOEXEC);
  if (arena.fd_ < 0 || ::ftruncate(arena.fd_, static_cast<off_t>(arena.end_.value())) != 0) {
    return boot_error(
        fmt::format("the host cannot make a memory file of {} MiB for the machine's RAM: {}; "
                    "give the machine less RAM or raise the host's file size limit (ulimit -f)",
                    arena.end_.value() / kMiB, std::strerror(errno)));
  }
  void* base = reserve_address_space(arena.end_.value());
  void* vmemmap = base == MAP_FAILED ? MAP_FAILED : reserve_address_space(arena.vmemmap_bytes_);
  if (base != MAP_FAILED) arena.base_ = static_cast<std::byte*>(base);
  if (vmemmap == MAP_FAILED) {
    return boot_error(
        fmt::format("the host has no {} MiB of address space for the machine's RAM: {}; "
                    "give the machine less RAM or raise the host's limit (ulimit -v)",
                    arena.end_.value() / kMiB, std::strerror(errno)));
  }
  arena.vmemmap_ = static_cast<Page*>(vmemmap);
  return arena;
}

Arena::~Arena() {
  if (vmemmap_ != nullptr) ::munmap(static_cast<void*>(vmemmap_), vmemmap_bytes_);
  if (base_ != nullptr) ::munmap(base_, end_.value());
  if (fd_ >= 0) ::close(fd_);
}

BootStatus Arena::map_ram(Range<PhysAddr> range) {
  QUIRE_BUG_ON(align_down(range.begin, kPageSize) != range.begin || align_down(range.end, kPageSize) != range.end);
  QUIRE_BUG_ON(range.end > end_);
  if (range.empty()) return {};
  void* at = ::mmap(to_virt(range.begin), range.size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd_,
                    static_cast<off_t>(range.begin.value()));
  if (at == MAP_FAILED) {
    return boot_error(fmt::format("the host cannot map {} MiB of the machine's RAM: {}; give the machine less RAM",
                                  range.size() / kMiB, std::strerror(errno)));
  }
  return {};
}

void Arena::unmap_hole(Range<PhysAddr> range) {
  if (range.empty()) return;
  discard(range);
  void* at =
      ::mmap(to_virt(range.begin), range.size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  QUIRE_BUG_ON(at == MAP_FAILED);
}

bool Arena::map_view(std::byte* at, Range<PhysAddr> range, ViewAccess access) const {
  const int rights = access == ViewAccess::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  const int now = access == ViewAccess::kReadWriteNow ? MAP_POPULATE : 0;
  return ::mmap(at, range.size(), rights, MAP_SHARED | MAP_FIXED | MAP_NORESERVE | now, fd_,
                static_cast<off_t>(range.begin.value())) != MAP_FAILED;
}

BootStatus Arena::map_memmap(Range<Pfn> pfns, PhysAddr memory) {
  Page* first = vmemmap_ + pfns.begin.value();
  const std::uint64_t bytes = pfns.size() * sizeof(Page);
  QUIRE_BUG_ON(pfns.begin.value() * sizeof(Page) % kPageSize != 0 || bytes % kPageSize != 0);
  void* at = ::mmap(static_cast<void*>(first), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd_,
                    static_cast<off_t>(memory.value()));
  if (at == MAP_FAILED) {
    return boot_error(fmt::format("the host cannot map the machine's memory map ({} KiB): {}; give the machine less RAM",
                                  bytes / kKiB, std::strerror(errno)));
  }
  return {};
}

void Arena::unmap_memmap(Range<Pfn> pfns) {
  void* at = ::mmap(static_cast<void*>(vmemmap_ + pfns.begin.value()), pfns.size() * sizeof(Page), PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  QUIRE_BUG_ON(at == MAP_FAILED);
}

void Arena::discard(Range<PhysAddr> range) {
  if (range.empty()) return;
  // A failure leaves the bytes where they are, which costs host memory and nothing else.
  (void)::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.begin.value()),
                    static_cast<off_t>(range.size()));
}

}  // namespace quire::phys
