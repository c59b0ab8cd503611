// Linux 2.4's boot allocator: a bitmap with one bit for each frame of a node, 1 where the frame is taken. Nothing is free
// until free_bootmem says so.
//
//   init_bootmem   all taken            1111111111111111111111
//   free_bootmem   what is RAM          11..............111...
//   reserve        kernel, bitmap, 0    111..111........111...
//   __alloc        from a goal up       111..111###.....111...
//   free_all       0 bits → the buddy, then the bitmap's own frames
//
// The bitmap lies in frames of the machine. Small allocations are packed: one that begins where the last one ended shares
// its page.
// Locking: boot is single-threaded.
// Differs from Linux: an allocation is aligned in physical memory, not counted from its node's first frame.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "quire/base/result.h"
#include "quire/base/types.h"

namespace quire::phys {

class Bootmem {
 public:
  // `base`: physical address pa lies at base + pa.
  explicit Bootmem(std::byte* base) : base_(base) {}

  // A node's frames [start, end), all taken; the bitmap goes to the frames from `mapstart` on. Gives the bitmap's bytes.
  // (init_bootmem_node). kInval: no frames.
  Result<std::uint64_t> init_bootmem(Nid nid, Pfn mapstart, Pfn start, Pfn end);

  // Bytes [range) of a node (kNoNode: of the first whose frames hold them) are free (rounded inwards to whole frames) or
  // taken (outwards). kInval: not within one node's frames. Reserving what is taken already is no error, as in Linux.
  Status free_bootmem(Range<PhysAddr> range, Nid nid = kNoNode);
  Status reserve_bootmem(Range<PhysAddr> range, Nid nid = kNoNode);

  // `size` zeroed bytes at a multiple of `align` (a power of two), at or above `goal` if there is room, else below: on the
  // first node that has them. nullopt: nowhere. (__alloc_bootmem)
  std::optional<PhysAddr> alloc_bootmem(std::uint64_t size, std::uint64_t align, PhysAddr goal);
  // The same on one node (__alloc_bootmem_node).
  std::optional<PhysAddr> alloc_bootmem_node(Nid nid, std::uint64_t size, std::uint64_t align, PhysAddr goal);

  enum class Frames : std::uint8_t { kUnused, kBitmap };
  // Calls f(Nid, Range<Pfn>, Frames) for each run of free frames, ascending, then for those of each bitmap; nothing is left to
  // allocate from afterwards. Gives how many frames that were (free_all_bootmem).
  template <class F>
  std::uint64_t free_all_bootmem(F&& f) {
    std::uint64_t pages = 0;
    for (const Node& node : nodes_) {
      for (Pfn at = node.range.begin; at < node.range.end;) {
        const Range<Pfn> run = free_run(node, at);
        at = run.end;
        if (run.empty()) continue;
        pages += run.size();
        f(node.nid, run, Frames::kUnused);
      }
    }
    for (const Node& node : nodes_) {
      pages += node.bitmap.size();
      f(node.nid, node.bitmap, Frames::kBitmap);
    }
    nodes_.clear();
    return pages;
  }

  // Frames of the node's bitmap.
  [[nodiscard]] Range<Pfn> bitmap(Nid nid) const;
  [[nodiscard]] bool is_free(Pfn pfn) const;

 private:
  struct Node {  // bootmem_data_t
    Nid nid;
    Range<Pfn> range;
    Range<Pfn> bitmap;
    std::uint64_t* bits;
    // Where the last allocation ended: its last frame, and how many bytes of that are used (0: all of it).
    std::optional<Pfn> last_page = {};
    std::uint64_t last_offset = 0;
  };

  static bool taken(const Node& node, Pfn pfn);
  static void set(Node& node, Range<Pfn> pfns, bool taken);
  // The next free frames at or above `at`; empty at the end.
  static Range<Pfn> free_run(const Node& node, Pfn at);
  // The first frame at or above `at` that is taken, or is free; the node's end if none.
  static Pfn next(const Node& node, Pfn at, bool taken);
  [[nodiscard]] Node* node_of(Range<Pfn> pfns, Nid nid);
  std::optional<PhysAddr> alloc_core(Node& node, std::uint64_t size, std::uint64_t align, PhysAddr goal);
  static std::optional<Pfn> find_run(const Node& node, std::uint64_t pages, std::uint64_t align_pages, Pfn from);
  static PhysAddr take(Node& node, Pfn start, std::uint64_t pages, std::uint64_t size, std::uint64_t align);

  std::byte* base_;
  std::vector<Node> nodes_;
};

}  // namespace quire::phys
