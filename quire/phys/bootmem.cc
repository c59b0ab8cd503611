#include "quire/phys/bootmem.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "quire/base/bug.h"

namespace quire::phys {

namespace {

constexpr std::uint64_t kBitsPerWord = 64;

Range<Pfn> whole_frames_inside(Range<PhysAddr> range) {
  const Range<Pfn> pfns{phys_to_pfn(align_up(range.begin, kPageSize)), phys_to_pfn(range.end)};
  return pfns.end < pfns.begin ? Range<Pfn>{pfns.begin, pfns.begin} : pfns;
}
Range<Pfn> frames_touched(Range<PhysAddr> range) {
  return {phys_to_pfn(range.begin), phys_to_pfn(align_up(range.end, kPageSize))};
}

}  // namespace

bool Bootmem::taken(const Node& node, Pfn pfn) {
  const std::uint64_t bit = pfn - node.range.begin;
  return (node.bits[bit / kBitsPerWord] >> bit % kBitsPerWord & 1) != 0;
}

void Bootmem::set(Node& node, Range<Pfn> pfns, bool taken) {
  for (Pfn pfn = pfns.begin; pfn < pfns.end; ++pfn) {
    const std::uint64_t bit = pfn - node.range.begin;
    const std::uint64_t mask = std::uint64_t{1} << bit % kBitsPerWord;
    std::uint64_t& word = node.bits[bit / kBitsPerWord];
    word = taken ? word | mask : word & ~mask;
  }
}

Pfn Bootmem::next(const Node& node, Pfn at, bool wanted) {
  const std::uint64_t other = wanted ? 0 : ~std::uint64_t{0};  // a word with nothing of what is wanted
  while (at < node.range.end) {
    const std::uint64_t bit = at - node.range.begin;
    if (bit % kBitsPerWord == 0 && node.bits[bit / kBitsPerWord] == other) {
      at += kBitsPerWord;
    } else if (taken(node, at) == wanted) {
      return at;
    } else {
      ++at;
    }
  }
  return node.range.end;
}

Range<Pfn> Bootmem::free_run(const Node& node, Pfn at) {
  const Pfn begin = next(node, at, false);
  return {begin, next(node, begin, true)};
}

Bootmem::Node* Bootmem::node_of(Range<Pfn> pfns, Nid nid) {
  const auto it = std::ranges::find_if(
      nodes_, [&](const Node& node) { return (nid == kNoNode || nid == node.nid) && node.range.contains(pfns); });
  return it == nodes_.end() ? nullptr : &*it;
}

Result<std::uint64_t> Bootmem::init_bootmem(Nid nid, Pfn mapstart, Pfn start, Pfn end) {
  if (start >= end) return std::unexpected(Errno::kInval);
  const std::uint64_t bytes = align_up((end - start + 7) / 8, std::uint64_t{8});
  Node node{.nid = nid,
            .range = {start, end},
            .bitmap = {mapstart, mapstart + bytes_to_pages_up(bytes)},
            .bits = reinterpret_cast<std::uint64_t*>(base_ + pfn_to_phys(mapstart).value())};
  std::memset(node.bits, 0xff, bytes);
  nodes_.push_back(node);
  return bytes;
}

Status Bootmem::free_bootmem(Range<PhysAddr> range, Nid nid) {
  const Range<Pfn> pfns = whole_frames_inside(range);
  if (pfns.empty()) return {};
  Node* node = node_of(pfns, nid);
  if (node == nullptr) return std::unexpected(Errno::kInval);
  set(*node, pfns, false);
  return {};
}

Status Bootmem::reserve_bootmem(Range<PhysAddr> range, Nid nid) {
  const Range<Pfn> pfns = frames_touched(range);
  Node* node = range.empty() ? nullptr : node_of(pfns, nid);
  if (node == nullptr) return std::unexpected(Errno::kInval);
  set(*node, pfns, true);
  return {};
}

std::optional<PhysAddr> Bootmem::alloc_bootmem(std::uint64_t size, std::uint64_t align, PhysAddr goal) {
  for (Node& node : nodes_) {
    if (const auto at = alloc_core(node, size, align, goal)) return at;
  }
  return std::nullopt;
}

std::optional<PhysAddr> Bootmem::alloc_bootmem_node(Nid nid, std::uint64_t size, std::uint64_t align, PhysAddr goal) {
  const auto node = std::ranges::find(nodes_, nid, &Node::nid);
  return node == nodes_.end() ? std::nullopt : alloc_core(*node, size, align, goal);
}

std::optional<Pfn> Bootmem::find_run(const Node& node, std::uint64_t pages, std::uint64_t align_pages, Pfn from) {
  for (Pfn at = align_up(from, align_pages); at < node.range.end;) {
    const Range<Pfn> run = free_run(node, at);
    const Pfn start = align_up(run.begin, align_pages);
    if (start < run.end && run.end - start >= pages) return start;
    at = run.end;
  }
  return std::nullopt;
}

std::optional<PhysAddr> Bootmem::alloc_core(Node& node, std::uint64_t size, std::uint64_t align, PhysAddr goal) {
  QUIRE_BUG_ON(!std::has_single_bit(align));
  const std::uint64_t pages = bytes_to_pages_up(size);
  if (size == 0 || pages > node.range.size()) return std::nullopt;
  const std::uint64_t align_pages = std::max<std::uint64_t>(align / kPageSize, 1);
  std::optional<Pfn> start;
  const Pfn wanted = phys_to_pfn(align_up(goal, align));
  if (node.range.contains(wanted)) start = find_run(node, pages, align_pages, wanted);
  if (!start) start = find_run(node, pages, align_pages, node.range.begin);  // wrap
  if (!start) return std::nullopt;
  const PhysAddr at = take(node, *start, pages, size, align);
  std::memset(base_ + at.value(), 0, size);
  return at;
}

// Takes the run found at `start`. Does the last allocation end in the page before, then this one begins there.
PhysAddr Bootmem::take(Node& node, Pfn start, std::uint64_t pages, std::uint64_t size, std::uint64_t align) {
  const bool follows = node.last_page && node.last_offset != 0 && *node.last_page + 1 == start && align <= kPageSize &&
                       taken(node, *node.last_page);
  const std::uint64_t offset = follows ? align_up(node.last_offset, align) : 0;
  if (!follows || offset >= kPageSize) {
    set(node, {start, start + pages}, true);
    node.last_page = start + (pages - 1);
    node.last_offset = size % kPageSize;
    return pfn_to_phys(start);
  }
  const PhysAddr at = pfn_to_phys(*node.last_page) + offset;
  const std::uint64_t room = kPageSize - offset;
  if (size > room) {
    const std::uint64_t more = bytes_to_pages_up(size - room);
    set(node, {start, start + more}, true);
    node.last_page = start + (more - 1);
  }
  node.last_offset = (offset + size) % kPageSize;
  return at;
}

Range<Pfn> Bootmem::bitmap(Nid nid) const {
  for (const Node& node : nodes_) {
    if (node.nid == nid) return node.bitmap;
  }
  return {};
}

bool Bootmem::is_free(Pfn pfn) const {
  for (const Node& node : nodes_) {
    if (node.range.contains(pfn)) return !taken(node, pfn);
  }
  return false;
}

}  // namespace quire::phys
