#include "quire/trace/decoder.h"

#include <array>
#include <cstring>

#include "quire/trace/encoder.h"

namespace quire::trace {
namespace {

constexpr unsigned kInstructionBytes[4] = {0, 1, 2, 4};
constexpr std::uint32_t kInstructionMask[4] = {0, 0xff, 0xffff, 0xffff'ffff};
constexpr std::uint64_t kPageMask[8] = {0,           0xff,           0xffff,           0xff'ffff,
                                        0xffff'ffff, 0xff'ffff'ffff, 0xffff'ffff'ffff, 0xff'ffff'ffff'ffff};

// The length of an access by its control byte: the one thing the next access waits for. 0 where it is none.
constexpr std::array<std::uint8_t, 256> kAccessBytes = [] {
  std::array<std::uint8_t, 256> bytes{};
  for (unsigned control = 0; control < kRecordMark; ++control) {
    const unsigned size = 1 + kInstructionBytes[control >> 2 & 3] + (control >> 4);
    bytes[control] = (control & 3) == 3 ? std::uint8_t{0} : static_cast<std::uint8_t>(size);
  }
  return bytes;
}();

constexpr std::uint64_t unzigzag(std::uint64_t v) { return (v >> 1) ^ (0 - (v & 1)); }

// Takes fields off a record's body; any overrun or oversize makes it bad for good.
class Fields {
 public:
  explicit Fields(std::span<const std::uint8_t> body) : at_(body.data()), end_(body.data() + body.size()) {}

  std::uint8_t byte() {
    if (at_ == end_) return bad();
    return *at_++;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ == end_) return bad();
      const std::uint8_t b = *at_++;
      value |= static_cast<std::uint64_t>(b & 0x7f) << shift;
      if (b < 0x80) return value;
    }
    return bad();
  }
  std::uint32_t narrow() {
    const std::uint64_t value = varint();
    if (value > 0xffff'ffffu) return bad();
    return static_cast<std::uint32_t>(value);
  }
  std::int64_t signed_varint() { return static_cast<std::int64_t>(unzigzag(varint())); }
  std::int32_t signed_narrow() {
    const std::int64_t value = signed_varint();
    if (value < INT32_MIN || value > INT32_MAX) return bad();
    return static_cast<std::int32_t>(value);
  }
  std::string_view string() {
    const std::uint64_t size = varint();
    if (size > kMaxStringBytes || size > static_cast<std::uint64_t>(end_ - at_)) {
      bad();
      return {};
    }
    const std::string_view text(reinterpret_cast<const char*>(at_), size);
    at_ += size;
    return text;
  }
  template <class Enum>
  Enum enumeration(Enum last) {
    const std::uint8_t value = byte();
    if (value > static_cast<std::uint8_t>(last)) bad();
    return static_cast<Enum>(value);
  }
  [[nodiscard]] bool good() const { return good_; }

 private:
  std::uint8_t bad() {
    good_ = false;
    at_ = end_;
    return 0;
  }
  const std::uint8_t* at_;
  const std::uint8_t* end_;
  bool good_ = true;
};

void decode_syscall(Fields& f, Record& r, std::string_view& path, std::string_view& path2) {
  r.number = f.narrow();
  r.result = f.signed_varint();
  const std::uint8_t present = f.byte();
  for (unsigned i = 0; i < r.args.size(); ++i) {
    if (present >> i & 1) r.args[i] = f.varint();
  }
  if (present & kHasOffset) r.offset = f.varint();
  if (present & kHasMore) {
    r.child.pid = f.narrow();
    r.child.tid = f.narrow();
    r.status = f.signed_narrow();
    path = f.string();
    path2 = f.string();
  }
}

void decode_fields(Fields& f, Record& r, std::string_view& path, std::string_view& path2) {
  switch (r.kind) {
    case RecordKind::kAccess: break;
    case RecordKind::kSyscall: decode_syscall(f, r, path, path2); break;
    case RecordKind::kFork:
      r.number = f.narrow(), r.child.pid = f.narrow(), r.child.tid = f.narrow(), r.flags = f.varint();
      break;
    case RecordKind::kExec: path = f.string(), path2 = f.string(); break;
    case RecordKind::kArea:
      r.area = f.enumeration(AreaKind::kOther);
      r.begin = f.varint(), r.end = r.begin + f.varint(), r.prot = f.narrow(), r.flags = f.varint();
      r.offset = f.varint(), r.dev = f.varint(), r.inode = f.varint(), path = f.string();
      break;
    case RecordKind::kFile:
      r.file = f.enumeration(FileKind::kClosed);
      r.fd = f.signed_narrow(), r.flags = f.varint(), r.dev = f.varint(), r.inode = f.varint();
      r.size = f.varint(), r.offset = f.varint(), path = f.string();
      break;
    case RecordKind::kExit: r.status = f.signed_narrow(), r.signal = f.signed_narrow(), r.flags = f.varint(); break;
    case RecordKind::kOrder: r.after = f.varint(), r.sequence = f.varint(), r.flags = f.varint(); break;
    case RecordKind::kBehind: r.child.pid = f.narrow(), r.child.tid = f.narrow(), r.after = f.varint(); break;
  }
}

}  // namespace

void Decoder::reset(std::span<const std::byte> padded) {
  begin_ = at_ = reinterpret_cast<const std::uint8_t*>(padded.data());
  end_ = begin_ + (padded.size() - kDecoderPadding);
  last_page_[0] = last_page_[1] = last_page_[2] = 0;  // but skipped_ stays: the task's time goes on
}

std::size_t Decoder::accesses(std::span<Access> out) {
  if (skipped_ != 0) return 0;  // the sum may not fit an Access: next() gives it out
  std::uint64_t last[4] = {last_page_[0], last_page_[1], last_page_[2], 0};
  std::size_t n = 0;
  const std::uint8_t* at = at_;
  const std::uint8_t* const end = end_;
  while (n < out.size() && at < end) {
    const unsigned control = *at;
    const unsigned bytes = kAccessBytes[control];
    if (bytes == 0) break;
    const std::uint8_t* const next = at + bytes;
    const unsigned kind = control & 3;
    const unsigned code = control >> 2 & 3;
    std::uint32_t instructions;
    std::uint64_t delta;
    std::memcpy(&instructions, at + 1, sizeof instructions);
    std::memcpy(&delta, at + 1 + kInstructionBytes[code], sizeof delta);
    const std::uint64_t page = last[kind] + unzigzag(delta & kPageMask[control >> 4]);
    if (next > end || page >> kPageNumberBits != 0) [[unlikely]]
      break;
    last[kind] = page;
    at = next;
    out[n++] = Access{page << 2 | kind, instructions & kInstructionMask[code], 0};
  }
  std::memcpy(last_page_, last, sizeof last_page_);
  at_ = at;
  return n;
}

bool Decoder::access(Record& record) {
  Access one;
  const std::uint64_t skipped = skipped_;
  skipped_ = 0;
  if (accesses({&one, 1}) != 1) return false;
  record = Record{};
  record.page = one.page();
  record.access = one.kind();
  record.instructions = skipped + one.instructions;
  return true;
}

DecodeOutcome Decoder::next(Record& record, std::string_view& path, std::string_view& path2) {
  path = path2 = {};
  while (at_ < end_) {
    const std::uint8_t mark = *at_;
    if (mark < kRecordMark) return access(record) ? DecodeOutcome::kRecord : DecodeOutcome::kMalformed;
    if (mark == kSkipMark) {
      std::size_t size = 1;
      while (at_ + size < end_ && at_[size] >= 0x80) ++size;
      Fields fields({at_ + 1, static_cast<std::size_t>(end_ - at_) - 1});
      skipped_ += fields.varint();
      if (!fields.good()) return DecodeOutcome::kMalformed;
      at_ += size + 1;
      continue;
    }
    if (end_ - at_ < 3) return DecodeOutcome::kMalformed;
    const std::size_t size = at_[1] | static_cast<std::size_t>(at_[2]) << 8;
    if (static_cast<std::size_t>(end_ - at_) - 3 < size) return DecodeOutcome::kMalformed;
    Fields fields({at_ + 3, size});
    at_ += 3 + size;
    record = Record{};
    record.instructions = fields.varint() + skipped_;
    skipped_ = 0;
    const std::uint8_t kind = mark & 0x7f;
    if (kind > static_cast<std::uint8_t>(RecordKind::kBehind)) {  // of a later minor version: its time counts
      if (!fields.good()) return DecodeOutcome::kMalformed;
      skipped_ = record.instructions;
      continue;
    }
    record.kind = static_cast<RecordKind>(kind);
    if (record.kind == RecordKind::kAccess) return DecodeOutcome::kMalformed;
    decode_fields(fields, record, path, path2);
    return fields.good() ? DecodeOutcome::kRecord : DecodeOutcome::kMalformed;
  }
  return DecodeOutcome::kEnd;
}

}  // namespace quire::trace
