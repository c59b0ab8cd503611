// What lies behind a file of a FileSystem: the bytes of the simulated disk. Host memory, outside the machine.
//
//   BackingSource   the file as it was before the machine started: a host file (read only, never written), generated
//                   bytes, or nothing (all zero)
//   Backing         a source with an overlay: pages that the machine wrote lie in the overlay, everything else comes from
//                   the source, up to where a truncate has once cut it off
//
// In a dataless machine a Backing keeps no page; only sizes count. Reads and writes are instantaneous here; time is
// sim::Disk's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "quire/base/bitmap.h"
#include "quire/base/rbtree.h"
#include "quire/base/result.h"
#include "quire/base/types.h"

namespace quire::file {

class BackingSource {
 public:
  virtual ~BackingSource() = default;
  [[nodiscard]] virtual std::uint64_t size() const = 0;  // bytes
  // Fills `to` with the bytes at `offset`; all of them lie below size().
  virtual Status read(std::uint64_t offset, std::span<std::byte> to) = 0;
};

// All zeroes: new files, and every file of a dataless machine.
class ZeroBacking final : public BackingSource {
 public:
  explicit ZeroBacking(std::uint64_t size = 0) : size_(size) {}
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  Status read(std::uint64_t offset, std::span<std::byte> to) override;

 private:
  std::uint64_t size_;
};

// Bytes that a seed and the offset determine.
class GeneratedBacking final : public BackingSource {
 public:
  GeneratedBacking(std::uint64_t size, std::uint64_t seed) : size_(size), seed_(seed) {}
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  Status read(std::uint64_t offset, std::span<std::byte> to) override;
  [[nodiscard]] std::byte byte_at(std::uint64_t offset) const;

 private:
  std::uint64_t size_;
  std::uint64_t seed_;
};

// A file of the host, opened read-only. Its size is taken when it is opened; what the host cuts off later reads as zeroes.
class HostFileBacking final : public BackingSource {
 public:
  [[nodiscard]] static Result<std::unique_ptr<HostFileBacking>> open(const std::string& path);
  ~HostFileBacking() override;
  HostFileBacking(const HostFileBacking&) = delete;
  HostFileBacking& operator=(const HostFileBacking&) = delete;

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  Status read(std::uint64_t offset, std::span<std::byte> to) override;

 private:
  HostFileBacking(int fd, std::uint64_t size) : fd_(fd), size_(size) {}
  int fd_;
  std::uint64_t size_;
};

class Backing {
 public:
  explicit Backing(std::unique_ptr<BackingSource> source);
  ~Backing();
  Backing(const Backing&) = delete;
  Backing& operator=(const Backing&) = delete;

  // One page; what lies beyond the source and was never written is zero. `to` has kPageSize bytes.
  Status read_page(Pgoff index, std::span<std::byte> to);
  void write_page(Pgoff index, std::span<const std::byte> from);
  // Nothing at or beyond `size` is kept: what the file grows over later reads as zeroes.
  void truncate(std::uint64_t size);
  // The pages wholly inside [first, last) read as zeroes from now on (FALLOC_FL_PUNCH_HOLE).
  void punch_hole(Pgoff first, Pgoff last);

  [[nodiscard]] std::uint64_t overlay_pages() const { return overlay_pages_; }
  // Stretches of the source that are punched out.
  [[nodiscard]] std::size_t holes() const { return holes_.size(); }

 private:
  struct Chunk;
  struct ByIndex {
    bool operator()(const Chunk& a, const Chunk& b) const;
  };
  // Mapped from the host with its own head in its first page, so that a write takes nothing from the host's heap.
  struct Chunk {
    static constexpr std::uint64_t kPages = 512;
    static constexpr std::size_t kBytes = (kPages + 1) * kPageSize;
    RbNode node;
    std::uint64_t index = 0;  // of the file's stretches of kPages
    std::uint64_t count = 0;  // pages written
    std::array<Bitmap::Word, kPages / Bitmap::kWordBits> words{};

    [[nodiscard]] Bitmap written() { return Bitmap(words, kPages); }
    [[nodiscard]] std::byte* page(std::uint64_t i) { return reinterpret_cast<std::byte*>(this) + (i + 1) * kPageSize; }
  };
  static_assert(sizeof(Chunk) <= kPageSize);

  // The first chunk that ends behind page `index`.
  [[nodiscard]] Chunk* chunk_from(std::uint64_t index);
  // The page's bytes if it was written.
  [[nodiscard]] std::byte* overlay_page(std::uint64_t index);
  Chunk& make_chunk(std::uint64_t index);
  void drop_pages(std::uint64_t first, std::uint64_t end);
  [[nodiscard]] bool in_hole(std::uint64_t index) const;

  std::unique_ptr<BackingSource> source_;
  std::uint64_t source_valid_;  // bytes of the source that still show
  RbTree<Chunk, &Chunk::node, ByIndex> overlay_;
  std::uint64_t overlay_pages_ = 0;
  std::map<std::uint64_t, std::uint64_t> holes_;  // first page → end; apart from each other; hides the source
};

inline bool Backing::ByIndex::operator()(const Chunk& a, const Chunk& b) const { return a.index < b.index; }

}  // namespace quire::file
