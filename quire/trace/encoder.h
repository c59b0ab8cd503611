// Records → bytes of a chunk, as docs/trace-format.md says. Header only and free of every other part, because the
// recorder's plugin, which runs inside QEMU, uses it too.
//
// The caller gives room: at least kMaxAccessBytes, or kMaxRecordBytes, behind `p`. Page numbers are coded as differences
// to the last page of the same kind in the same chunk, so an encoder is reset() at the start of each chunk.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "quire/trace/trace.h"

namespace quire::trace {

inline constexpr std::size_t kMaxAccessBytes = 32;    // a skip and an access, and slack for whole-word stores
inline constexpr std::size_t kMaxStringBytes = 4096;  // longer strings are cut
inline constexpr std::size_t kMaxRecordBytes = 512 + 2 * kMaxStringBytes;
inline constexpr std::uint64_t kPageNumberBits = 52;

// The first byte of what is no access: kRecordMark | RecordKind.
inline constexpr std::uint8_t kRecordMark = 0x80;
inline constexpr std::uint8_t kSkipMark = 0xff;  // then a varint: instructions to add to the next record's

// Bits of a kSyscall record's presence byte; bits 0–5 are arguments that are not zero.
inline constexpr std::uint8_t kHasOffset = 0x40;
inline constexpr std::uint8_t kHasMore = 0x80;

class Encoder {
 public:
  void reset() { last_page_[0] = last_page_[1] = last_page_[2] = 0; }

  // Appends and returns the new end. `page` < 2^52.
  std::uint8_t* access(std::uint8_t* p, std::uint64_t page, AccessKind kind, std::uint64_t instructions) {
    if (instructions > 0xffff'ffffu) [[unlikely]] {
      *p++ = kSkipMark;
      p = varint(p, instructions);
      instructions = 0;
    }
    std::uint64_t& last = last_page_[static_cast<unsigned>(kind)];
    const std::uint64_t delta = zigzag(static_cast<std::int64_t>(page - last));
    last = page;
    const unsigned instruction_code = instructions == 0 ? 0 : instructions < 0x100 ? 1 : instructions < 0x10000 ? 2 : 3;
    const unsigned page_bytes = delta == 0 ? 0 : (71u - static_cast<unsigned>(__builtin_clzll(delta))) / 8;
    *p++ = static_cast<std::uint8_t>(static_cast<unsigned>(kind) | instruction_code << 2 | page_bytes << 4);
    p = store(p, instructions, instruction_code == 3 ? 4 : instruction_code);
    return store(p, delta, page_bytes);
  }

  std::uint8_t* record(std::uint8_t* p, const Record& r, std::string_view path = {}, std::string_view path2 = {}) {
    if (r.kind == RecordKind::kAccess) return access(p, r.page, r.access, r.instructions);
    *p++ = static_cast<std::uint8_t>(kRecordMark | static_cast<std::uint8_t>(r.kind));
    std::uint8_t* const length = p;
    std::uint8_t* const body = p + 2;
    p = varint(body, r.instructions);
    switch (r.kind) {
      case RecordKind::kAccess: break;
      case RecordKind::kSyscall: p = syscall(p, r, path, path2); break;
      case RecordKind::kFork:
        p = varint(p, r.number), p = varint(p, r.child.pid), p = varint(p, r.child.tid), p = varint(p, r.flags);
        break;
      case RecordKind::kExec: p = string(p, path), p = string(p, path2); break;
      case RecordKind::kArea:
        *p++ = static_cast<std::uint8_t>(r.area);
        p = varint(p, r.begin), p = varint(p, r.end - r.begin), p = varint(p, r.prot), p = varint(p, r.flags);
        p = varint(p, r.offset), p = varint(p, r.dev), p = varint(p, r.inode), p = string(p, path);
        break;
      case RecordKind::kFile:
        *p++ = static_cast<std::uint8_t>(r.file);
        p = varint(p, zigzag(r.fd)), p = varint(p, r.flags), p = varint(p, r.dev), p = varint(p, r.inode);
        p = varint(p, r.size), p = varint(p, r.offset), p = string(p, path);
        break;
      case RecordKind::kExit: p = varint(p, zigzag(r.status)), p = varint(p, zigzag(r.signal)), p = varint(p, r.flags); break;
      case RecordKind::kOrder: p = varint(p, r.after), p = varint(p, r.sequence), p = varint(p, r.flags); break;
      case RecordKind::kBehind: p = varint(p, r.child.pid), p = varint(p, r.child.tid), p = varint(p, r.after); break;
    }
    const auto size = static_cast<std::uint16_t>(p - body);
    length[0] = static_cast<std::uint8_t>(size);
    length[1] = static_cast<std::uint8_t>(size >> 8);
    return p;
  }

  static constexpr std::uint64_t zigzag(std::int64_t v) {
    return static_cast<std::uint64_t>(v) << 1 ^ static_cast<std::uint64_t>(v >> 63);
  }

 private:
  // Stores eight bytes, of which `bytes` count.
  static std::uint8_t* store(std::uint8_t* p, std::uint64_t value, unsigned bytes) {
    std::memcpy(p, &value, sizeof value);
    return p + bytes;
  }
  static std::uint8_t* varint(std::uint8_t* p, std::uint64_t value) {
    while (value >= 0x80) {
      *p++ = static_cast<std::uint8_t>(value | 0x80);
      value >>= 7;
    }
    *p++ = static_cast<std::uint8_t>(value);
    return p;
  }
  static std::uint8_t* string(std::uint8_t* p, std::string_view text) {
    if (text.size() > kMaxStringBytes) text = text.substr(0, kMaxStringBytes);
    p = varint(p, text.size());
    if (!text.empty()) std::memcpy(p, text.data(), text.size());
    return p + text.size();
  }
  static std::uint8_t* syscall(std::uint8_t* p, const Record& r, std::string_view path, std::string_view path2) {
    const bool more = r.child != TaskId{} || r.status != 0 || !path.empty() || !path2.empty();
    std::uint8_t present = (r.offset != 0 ? kHasOffset : 0) | (more ? kHasMore : 0);
    for (unsigned i = 0; i < r.args.size(); ++i) present |= static_cast<std::uint8_t>((r.args[i] != 0) << i);
    p = varint(p, r.number);
    p = varint(p, zigzag(r.result));
    *p++ = present;
    for (const std::uint64_t arg : r.args) {
      if (arg != 0) p = varint(p, arg);
    }
    if (r.offset != 0) p = varint(p, r.offset);
    if (more) {
      p = varint(p, r.child.pid), p = varint(p, r.child.tid), p = varint(p, zigzag(r.status));
      p = string(p, path), p = string(p, path2);
    }
    return p;
  }

  std::uint64_t last_page_[3] = {0, 0, 0};
};

}  // namespace quire::trace
