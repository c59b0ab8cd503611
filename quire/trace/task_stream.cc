#include <fmt/format.h>
#include <zstd.h>

#include "quire/trace/reader.h"

namespace quire::trace {
namespace {

constexpr std::size_t kBlockAccesses = 512;

}  // namespace

bool TaskStream::broken(std::string_view what) {
  pending_.clear();
  decoder_ = Decoder();
  arrival_ = Arrival::kLastSeen;
  return reader_.broken(what, place_);
}

bool TaskStream::load_chunk() {
  while (pending_.empty()) {
    if (arrival_ == Arrival::kLastSeen || !reader_.pull()) {
      if (pending_.empty()) return false;
    }
  }
  const PendingChunk chunk = std::move(pending_.front());
  pending_.pop_front();
  place_ = chunk.place;
  raw_.resize(chunk.raw_size + kDecoderPadding);
  const std::size_t size =
      ZSTD_decompressDCtx(reader_.decompressor_, raw_.data(), chunk.raw_size, chunk.compressed.data(), chunk.compressed.size());
  if (size != chunk.raw_size) return broken("a chunk does not unpack");
  decoder_.reset(raw_);
  return true;
}

void TaskStream::decode_block() {
  if (decoder_.at_end() && !load_chunk()) return;
  if (block_.empty()) block_.resize(kBlockAccesses);
  block_next_ = 0;
  block_size_ = decoder_.accesses(block_);
}

bool TaskStream::next(Record& record) {
  if (block_next_ < block_size_) {
    const Access& access = block_[block_next_++];
    record = Record{};
    record.page = access.page();
    record.access = access.kind();
    record.instructions = access.instructions;
    return true;
  }
  std::string_view path, path2;
  for (;;) {
    if (decoder_.at_end() && !load_chunk()) return false;
    const DecodeOutcome outcome = decoder_.next(record, path, path2);
    if (outcome == DecodeOutcome::kMalformed) return broken("a record makes no sense");
    if (outcome == DecodeOutcome::kEnd) continue;
    record.path = reader_.intern(path);
    record.path2 = reader_.intern(path2);
    return true;
  }
}

bool TaskStream::ended() {
  if (block_next_ < block_size_ || !decoder_.at_end()) return false;
  while (pending_.empty() && arrival_ == Arrival::kOpen && reader_.pull()) {}
  return pending_.empty();
}

}  // namespace quire::trace
