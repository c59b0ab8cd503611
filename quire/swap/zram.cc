#include "quire/swap/zram.h"

#include <lz4.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <span>

#include "quire/base/bug.h"

namespace quire::swap {

using phys::Gfp;

namespace {

constexpr Gfp kStoreGfp = Gfp::kKswapdReclaim | Gfp::kNoWarn | Gfp::kHighmem | Gfp::kMovable;
constexpr Gfp kStoreGfpSlow = Gfp::kNoIo | Gfp::kHighmem | Gfp::kMovable;
constexpr int kLz4Acceleration = 1;

std::span<std::byte> page_bytes(phys::PhysMem& phys, const phys::Folio& folio) { return {phys.page_address(folio), kPageSize}; }

}  // namespace

// Work memory for one page being compressed (zcomp_strm).
struct Zram::Stream {
  std::array<std::byte, LZ4_COMPRESSBOUND(kPageSize)> buffer;
  std::vector<std::byte> state = std::vector<std::byte>(static_cast<std::size_t>(LZ4_sizeofState()));
  enum class Use : std::uint8_t { kFree, kTaken } use = Use::kFree;
};

// A stream for the time of one store; waits for one when all are taken (a writer may sleep for memory while it holds one).
class Zram::StreamHold {
 public:
  explicit StreamHold(Zram& zram) : zram_(zram) {
    while (!take()) zram_.stream_wait_.wait();
  }
  ~StreamHold() {
    stream_->use = Stream::Use::kFree;
    zram_.stream_wait_.wake_one();
  }
  StreamHold(const StreamHold&) = delete;
  StreamHold& operator=(const StreamHold&) = delete;
  Stream& operator*() { return *stream_; }

 private:
  bool take() {
    for (auto& stream : zram_.streams_) {
      if (stream->use == Stream::Use::kTaken) continue;
      stream->use = Stream::Use::kTaken;
      stream_ = stream.get();
      return true;
    }
    return false;
  }

  Zram& zram_;
  Stream* stream_ = nullptr;
};

Result<std::unique_ptr<Zram>> Zram::create(const ZramConfig& config, phys::PhysMem& phys, slab::SlabSystem& slab,
                                           sim::Scheduler& scheduler) {
  if (config.disksize < 2 * kPageSize || config.disksize % kPageSize != 0) return fail(Errno::kInval);
  if (config.ratio_permille < 1000 || config.same_filled_permille > 1000) return fail(Errno::kInval);
  auto table = PagedArray<Slot>::create(phys, config.disksize >> kPageShift);
  if (!table) return fail(table.error());
  auto pool = ZsPool::create(phys, slab, scheduler, scheduler.locks().lock_class("size_class->lock"));
  if (!pool) return fail(pool.error());
  return std::unique_ptr<Zram>(new Zram(config, phys, scheduler, std::move(*table), std::move(*pool)));
}

Zram::Zram(const ZramConfig& config, phys::PhysMem& phys, sim::Scheduler& scheduler, PagedArray<Slot> table,
           std::unique_ptr<ZsPool> pool)
    : config_(config),
      phys_(phys),
      scheduler_(scheduler),
      table_(std::move(table)),
      pool_(std::move(pool)),
      stream_wait_(scheduler, "zram stream") {
  for (unsigned i = 0; i < scheduler.cpus() + 1; ++i) streams_.push_back(std::make_unique<Stream>());
}

Zram::~Zram() {
  for (std::uint64_t i = 0; i < table_.size(); ++i) release(table_[i]);
}

Status Zram::write_page(std::uint64_t offset, phys::Folio& folio, SwapIo&) {
  Slot& slot = table_[offset];
  ++stats_.num_writes;
  release(slot);
  const Status stored = store(slot, folio);
  if (!stored) ++stats_.failed_writes;
  return stored;
}

Status Zram::store(Slot& slot, const phys::Folio& folio) {
  std::uint64_t element = 0;
  if (same_filled(folio, element)) {
    slot = Slot{element, kSame, 0};
    ++stats_.same_pages;
    return {};
  }
  scheduler_.charge(scheduler_.costs().zram_compress_page);
  std::optional<StreamHold> stream;  // held until the bytes are in the store
  std::span<const std::byte> bytes = page_bytes(phys_, folio);
  std::size_t size = kPageSize * 1000 / config_.ratio_permille;
  if (phys_.data_mode() == phys::DataMode::kData) {
    Stream& work = *stream.emplace(*this);
    auto& buffer = work.buffer;
    const int packed = LZ4_compress_fast_extState(work.state.data(), reinterpret_cast<const char*>(bytes.data()),
                                                  reinterpret_cast<char*>(buffer.data()), static_cast<int>(kPageSize),
                                                  static_cast<int>(buffer.size()), kLz4Acceleration);
    QUIRE_BUG_ON(packed <= 0);
    size = static_cast<std::size_t>(packed);
    if (size < pool_->huge_class_size()) bytes = std::span<const std::byte>(buffer).first(size);
  }
  if (size >= pool_->huge_class_size()) size = kPageSize;
  ZsHandle* handle = alloc_object(size);
  if (handle == nullptr) return fail(Errno::kNoMem);
  if (phys_.data_mode() == phys::DataMode::kData) pool_->write(*handle, bytes);
  slot = Slot{reinterpret_cast<std::uint64_t>(handle), size == kPageSize ? kStored | kHuge : std::uint32_t{kStored},
              static_cast<std::uint32_t>(size)};
  stats_.compr_data_size += size;
  ++pages_stored_;
  if ((slot.flags & kHuge) != 0) ++stats_.huge_pages;
  return {};
}

// page_same_filled. A dataless machine has no bytes to look at and throws dice.
bool Zram::same_filled(const phys::Folio& folio, std::uint64_t& element) {
  if (phys_.data_mode() == phys::DataMode::kDataless) {
    return config_.same_filled_permille != 0 && scheduler_.rng().chance(config_.same_filled_permille, 1000);
  }
  const std::span<const std::byte> bytes = page_bytes(phys_, folio);
  std::memcpy(&element, bytes.data(), sizeof(element));
  // Every byte equals the one a word before it.
  return std::memcmp(bytes.data(), bytes.data() + sizeof(element), kPageSize - sizeof(element)) == 0;
}

ZsHandle* Zram::alloc_object(std::size_t size) {
  ZsHandle* handle = pool_->zs_malloc(size, kStoreGfp);
  if (handle == nullptr) {
    ++stats_.writestall;
    handle = pool_->zs_malloc(size, kStoreGfpSlow);
  }
  if (handle == nullptr) return nullptr;
  const std::uint64_t used = pool_->total_pages() << kPageShift;
  stats_.mem_used_max = std::max(stats_.mem_used_max, used);
  if (config_.mem_limit != 0 && used > config_.mem_limit) {
    pool_->zs_free(*handle);
    return nullptr;
  }
  return handle;
}

Status Zram::read_page(std::uint64_t offset, phys::Folio& folio, SwapIo&) {
  const Slot& slot = table_[offset];
  ++stats_.num_reads;
  if (phys_.data_mode() == phys::DataMode::kDataless) {
    scheduler_.charge((slot.flags & kStored) != 0 ? scheduler_.costs().zram_decompress_page : scheduler_.costs().clear_page);
    return {};
  }
  const std::span<std::byte> to = page_bytes(phys_, folio);
  if ((slot.flags & kStored) == 0) {  // never written reads as zeros
    scheduler_.charge(scheduler_.costs().clear_page);
    for (std::size_t i = 0; i < kPageSize; i += sizeof(slot.handle_or_element)) {
      std::memcpy(to.data() + i, &slot.handle_or_element, sizeof(slot.handle_or_element));
    }
    return {};
  }
  const ZsHandle& handle = *reinterpret_cast<const ZsHandle*>(slot.handle_or_element);
  if ((slot.flags & kHuge) != 0) {
    scheduler_.charge(scheduler_.costs().copy_page);
    pool_->read(handle, to);
    return {};
  }
  scheduler_.charge(scheduler_.costs().zram_decompress_page);
  // No sync point between here and the end: one buffer serves all.
  pool_->read(handle, std::span(unpack_buffer_).first(slot.size));
  const int got = LZ4_decompress_safe(reinterpret_cast<const char*>(unpack_buffer_.data()), reinterpret_cast<char*>(to.data()),
                                      static_cast<int>(slot.size), static_cast<int>(kPageSize));
  if (got != static_cast<int>(kPageSize)) {
    ++stats_.failed_reads;
    return fail(Errno::kIo);
  }
  return {};
}

void Zram::free_slot(std::uint64_t offset) {
  Slot& slot = table_[offset];
  if (slot.flags == kFree) return;
  ++stats_.notify_free;
  release(slot);
}

void Zram::release(Slot& slot) {
  if ((slot.flags & kSame) != 0) --stats_.same_pages;
  if ((slot.flags & kStored) != 0) {
    if ((slot.flags & kHuge) != 0) --stats_.huge_pages;
    stats_.compr_data_size -= slot.size;
    --pages_stored_;
    pool_->zs_free(*reinterpret_cast<ZsHandle*>(slot.handle_or_element));
  }
  slot = Slot{};
}

ZramStats Zram::mm_stat() const {
  ZramStats stats = stats_;
  stats.orig_data_size = (pages_stored_ + stats_.same_pages) << kPageShift;
  stats.mem_used_total = pool_->total_pages() << kPageShift;
  stats.mem_limit = config_.mem_limit;
  return stats;
}

void Zram::validate() const {
  pool_->validate();
  std::uint64_t stored = 0;
  std::uint64_t same = 0;
  std::uint64_t huge = 0;
  std::uint64_t bytes = 0;
  for (std::uint64_t i = 0; i < table_.size(); ++i) {
    const Slot& slot = table_[i];
    QUIRE_BUG_ON((slot.flags & kStored) != 0 && (slot.flags & kSame) != 0);
    if ((slot.flags & kSame) != 0) ++same;
    if ((slot.flags & kStored) == 0) continue;
    ++stored;
    bytes += slot.size;
    if ((slot.flags & kHuge) != 0) ++huge;
    const ZsHandle& handle = *reinterpret_cast<const ZsHandle*>(slot.handle_or_element);
    QUIRE_BUG_ON(!handle.zspage().used().test(handle.index()));
  }
  QUIRE_BUG_ON(stored != pages_stored_ || stored != pool_->objects());
  QUIRE_BUG_ON(same != stats_.same_pages || huge != stats_.huge_pages || bytes != stats_.compr_data_size);
}

}  // namespace quire::swap
