// The address space a program starts with: the segments of its file and of its dynamic linker, its stack and its brk, found
// from the ELF files and from where QEMU put them; anything else (the vdso, say) when it is first touched.
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "quire/recorder/process.h"
#include "quire/recorder/qemu_api.h"

namespace quire::recorder {
namespace {

using trace::AreaKind;

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t page_down(std::uint64_t v) { return v & ~(kPage - 1); }
constexpr std::uint64_t page_up(std::uint64_t v) { return page_down(v + kPage - 1); }

struct ElfImage {
  std::string path;
  struct stat file{};
  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> loads;
  std::string linker;
};

ElfImage read_elf(const std::string& path) {
  ElfImage image;
  image.path = path;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return image;
  fstat(fd, &image.file);
  if (pread(fd, &image.header, sizeof image.header, 0) == sizeof image.header) {
    for (unsigned i = 0; i < image.header.e_phnum && i < 64; ++i) {
      Elf64_Phdr segment;
      const auto at = static_cast<off_t>(image.header.e_phoff + i * sizeof segment);
      if (pread(fd, &segment, sizeof segment, at) != sizeof segment) break;
      if (segment.p_type == PT_LOAD) image.loads.push_back(segment);
      if (segment.p_type == PT_INTERP && segment.p_filesz < 4096) {
        char name[4096] = {};
        if (pread(fd, name, segment.p_filesz, static_cast<off_t>(segment.p_offset)) > 0) image.linker = name;
      }
    }
  }
  close(fd);
  return image;
}

std::uint32_t prot_of(const Elf64_Phdr& segment) {
  return ((segment.p_flags & PF_R) != 0 ? PROT_READ : 0u) | ((segment.p_flags & PF_W) != 0 ? PROT_WRITE : 0u) |
         ((segment.p_flags & PF_X) != 0 ? PROT_EXEC : 0u);
}

void tell_area(Vcpu& v, Record area, std::string_view path = {}) {
  area.kind = RecordKind::kArea;
  if (area.area != AreaKind::kBrk) {
    Lock hold(process().lock);
    process().areas.add(area.begin, area.end);
  }
  write_record(v, area, path);
}

// Returns where the image ends.
std::uint64_t tell_segments(Vcpu& v, const ElfImage& image, std::uint64_t bias, AreaKind kind) {
  std::uint64_t top = 0;
  for (const Elf64_Phdr& segment : image.loads) {
    const std::uint64_t start = segment.p_vaddr + bias;
    const std::uint64_t file_end = segment.p_filesz != 0 ? page_up(start + segment.p_filesz) : page_down(start);
    const std::uint64_t end = page_up(start + segment.p_memsz);
    Record area;
    area.prot = prot_of(segment);
    area.flags = MAP_PRIVATE;
    if (segment.p_filesz != 0) {
      area.area = kind;
      area.begin = page_down(start);
      area.end = file_end;
      area.offset = page_down(segment.p_offset);
      area.dev = image.file.st_dev;
      area.inode = image.file.st_ino;
      tell_area(v, area, image.path);
    }
    if (end > file_end) {
      Record bss;
      bss.area = AreaKind::kBss;
      bss.prot = area.prot;
      bss.flags = MAP_PRIVATE | MAP_ANONYMOUS;
      bss.begin = file_end;
      bss.end = end;
      tell_area(v, bss);
    }
    if (end > top) top = end;
  }
  // The kernel clears what is left of the last page of a segment whose memory goes on behind its file part.
  for (const Elf64_Phdr& segment : image.loads) {
    const std::uint64_t edge = segment.p_vaddr + bias + segment.p_filesz;
    if (segment.p_memsz > segment.p_filesz && (segment.p_flags & PF_W) != 0 && edge % kPage != 0)
      touch(v, edge, 1, AccessKind::kWrite);
  }
  return top;
}

std::string argv0_of_command_line() {
  char text[1 << 16];
  const int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  const ssize_t size = read(fd, text, sizeof text - 1);
  close(fd);
  if (size <= 0) return {};
  text[size] = '\0';
  for (const char* at = text; at < text + size; at += std::strlen(at) + 1) {
    if (std::strcmp(at, "-0") == 0) return at + 3;
  }
  return {};
}

struct HostMapping {
  std::uint64_t begin = 0, end = 0, offset = 0, inode = 0;
  unsigned major = 0, minor = 0;
  char prot[5] = {};
  char path[4096] = {};
};

// The mapping of this process that holds the host address.
bool find_mapping(std::uint64_t address, HostMapping& found) {
  FILE* const maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) return false;
  char line[4400];
  bool hit = false;
  while (!hit && std::fgets(line, sizeof line, maps) != nullptr) {
    HostMapping m;
    if (std::sscanf(line, "%lx-%lx %4s %lx %x:%x %lu %4095[^\n]", &m.begin, &m.end, m.prot, &m.offset, &m.major, &m.minor,
                    &m.inode, m.path) < 7) {
      continue;
    }
    if (m.begin <= address && address < m.end) {
      found = m;
      hit = true;
    }
  }
  std::fclose(maps);
  return hit;
}

}  // namespace

void announce_image(Vcpu& v) {
  Process& p = process();
  const char* const given = qemu_plugin_path_to_binary();
  char resolved[4096];
  p.program = given == nullptr ? "" : realpath(given, resolved) != nullptr ? resolved : given;

  Record exec;
  exec.kind = RecordKind::kExec;
  write_record(v, exec, p.program, argv0_of_command_line());

  const ElfImage image = read_elf(p.program);
  std::uint64_t lowest_code = ~std::uint64_t{0};
  for (const Elf64_Phdr& segment : image.loads) {
    if ((segment.p_flags & PF_X) != 0 && segment.p_vaddr < lowest_code) lowest_code = segment.p_vaddr;
  }
  const std::uint64_t bias = image.header.e_type == ET_DYN ? qemu_plugin_start_code() - lowest_code : 0;
  const std::uint64_t top = tell_segments(v, image, bias, AreaKind::kProgram);
  if (!image.linker.empty()) {
    const ElfImage linker = read_elf(image.linker);
    tell_segments(v, linker, p.entry - linker.header.e_entry, AreaKind::kInterpreter);
  }
  Record brk;
  brk.area = AreaKind::kBrk;
  brk.begin = brk.end = p.brk_start = top;
  tell_area(v, brk);
  for (const int fd : p.inherited_fds) describe_fd(v, fd);
}

void discover_area(Vcpu& v, std::uint64_t address) {
  Process& p = process();
  {
    Lock hold(p.lock);
    if (p.areas.find(address, v.known_begin, v.known_end)) return;
  }
  v.known_begin = page_down(address);
  v.known_end = v.known_begin + kPage;
  HostMapping m;
  if (!find_mapping(address + p.guest_base, m)) return;
  Record area;
  area.begin = m.begin - p.guest_base;
  area.end = m.end - p.guest_base;
  area.prot = (m.prot[0] == 'r' ? PROT_READ : 0u) | (m.prot[1] == 'w' ? PROT_WRITE : 0u) | (m.prot[2] == 'x' ? PROT_EXEC : 0u);
  area.flags = (m.prot[3] == 's' ? MAP_SHARED : MAP_PRIVATE) | (m.inode == 0 ? MAP_ANONYMOUS : 0);
  area.offset = m.offset;
  area.inode = m.inode;
  area.dev = m.inode != 0 ? makedev(m.major, m.minor) : 0;
  area.area = m.path[0] == '[' ? AreaKind::kSpecial : AreaKind::kOther;
  const bool stack = p.stack == Process::Stack::kUnseen && m.inode == 0 && m.prot[1] == 'w';
  if (stack) {
    p.stack = Process::Stack::kSeen;
    area.area = AreaKind::kStack;
    area.flags |= MAP_GROWSDOWN;
    area.offset = address;
  }
  v.known_begin = area.begin;
  v.known_end = area.end;
  tell_area(v, area, m.inode != 0 ? m.path : "");
  // The kernel wrote the arguments and the environment above the stack pointer.
  if (stack) touch(v, address, area.end - address, AccessKind::kWrite);
}

}  // namespace quire::recorder
