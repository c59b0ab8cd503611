// Strong types for addresses, frame numbers, nodes and orders.
//
// A physical address, a virtual address, a page frame number and a page offset in a file are all 64-bit numbers; mixing
// them is the classic memory-management bug. Here each is its own type: arithmetic with a plain count is allowed, two
// values of one type can be subtracted (the result is a plain count), and nothing converts by itself.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace quire {

inline constexpr unsigned kPageShift = 12;
inline constexpr std::uint64_t kPageSize = std::uint64_t{1} << kPageShift;
inline constexpr std::uint64_t kPageMask = ~(kPageSize - 1);

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;
inline constexpr std::uint64_t kGiB = 1024 * kMiB;
inline constexpr std::uint64_t kTiB = 1024 * kGiB;

// A point on a 64-bit axis that belongs to `Tag`. Units are those of the alias below.
template <class Tag>
class Point {
 public:
  constexpr Point() = default;
  constexpr explicit Point(std::uint64_t value) : value_(value) {}

  [[nodiscard]] constexpr std::uint64_t value() const { return value_; }

  constexpr auto operator<=>(const Point&) const = default;

  constexpr Point& operator+=(std::uint64_t n) {
    value_ += n;
    return *this;
  }
  constexpr Point& operator-=(std::uint64_t n) {
    value_ -= n;
    return *this;
  }
  constexpr Point& operator++() {
    ++value_;
    return *this;
  }
  constexpr Point operator++(int) {
    Point old = *this;
    ++value_;
    return old;
  }
  constexpr Point& operator--() {
    --value_;
    return *this;
  }
  friend constexpr Point operator+(Point p, std::uint64_t n) { return Point(p.value_ + n); }
  friend constexpr Point operator-(Point p, std::uint64_t n) { return Point(p.value_ - n); }
  friend constexpr std::uint64_t operator-(Point a, Point b) { return a.value_ - b.value_; }

 private:
  std::uint64_t value_ = 0;
};

using PhysAddr = Point<struct PhysAddrTag>;  // bytes from physical address zero
using VirtAddr = Point<struct VirtAddrTag>;  // bytes in an address space
using Pfn = Point<struct PfnTag>;            // page frames from physical address zero
using Pgoff = Point<struct PgoffTag>;        // pages from the start of a file or mapping

// A NUMA node's number. kNoNode is Linux's NUMA_NO_NODE.
class Nid {
 public:
  constexpr Nid() = default;
  constexpr explicit Nid(int value) : value_(static_cast<std::int16_t>(value)) {}
  [[nodiscard]] constexpr int value() const { return value_; }
  constexpr auto operator<=>(const Nid&) const = default;

 private:
  std::int16_t value_ = 0;
};
inline constexpr Nid kNoNode{-1};

// A block of 2^order contiguous pages.
class Order {
 public:
  constexpr Order() = default;
  constexpr explicit Order(unsigned value) : value_(static_cast<std::uint8_t>(value)) {}
  [[nodiscard]] constexpr unsigned value() const { return value_; }
  [[nodiscard]] constexpr std::uint64_t pages() const { return std::uint64_t{1} << value_; }
  [[nodiscard]] constexpr std::uint64_t bytes() const { return kPageSize << value_; }
  constexpr auto operator<=>(const Order&) const = default;

 private:
  std::uint8_t value_ = 0;
};

// Half-open interval [begin, end).
template <class T>
struct Range {
  T begin{};
  T end{};

  [[nodiscard]] constexpr bool empty() const { return !(begin < end); }
  [[nodiscard]] constexpr std::uint64_t size() const { return empty() ? 0 : end - begin; }
  [[nodiscard]] constexpr bool contains(T p) const { return begin <= p && p < end; }
  [[nodiscard]] constexpr bool contains(const Range& r) const { return begin <= r.begin && r.end <= end; }
  [[nodiscard]] constexpr bool overlaps(const Range& r) const { return begin < r.end && r.begin < end; }
  [[nodiscard]] constexpr Range intersect(const Range& r) const {
    return Range{begin < r.begin ? r.begin : begin, end < r.end ? end : r.end};
  }
  constexpr bool operator==(const Range&) const = default;
};

[[nodiscard]] constexpr std::uint64_t align_down(std::uint64_t v, std::uint64_t alignment) { return v & ~(alignment - 1); }
[[nodiscard]] constexpr std::uint64_t align_up(std::uint64_t v, std::uint64_t alignment) {
  return (v + alignment - 1) & ~(alignment - 1);
}
template <class Tag>
[[nodiscard]] constexpr Point<Tag> align_down(Point<Tag> p, std::uint64_t alignment) {
  return Point<Tag>(align_down(p.value(), alignment));
}
template <class Tag>
[[nodiscard]] constexpr Point<Tag> align_up(Point<Tag> p, std::uint64_t alignment) {
  return Point<Tag>(align_up(p.value(), alignment));
}

[[nodiscard]] constexpr Pfn phys_to_pfn(PhysAddr pa) { return Pfn(pa.value() >> kPageShift); }
[[nodiscard]] constexpr PhysAddr pfn_to_phys(Pfn pfn) { return PhysAddr(pfn.value() << kPageShift); }
[[nodiscard]] constexpr std::uint64_t bytes_to_pages_up(std::uint64_t bytes) {
  return (bytes >> kPageShift) + ((bytes & (kPageSize - 1)) != 0 ? 1 : 0);
}
[[nodiscard]] constexpr std::uint64_t pages_to_bytes(std::uint64_t pages) { return pages << kPageShift; }
[[nodiscard]] constexpr std::uint64_t page_offset(VirtAddr va) { return va.value() & (kPageSize - 1); }

}  // namespace quire

template <class Tag>
struct std::hash<quire::Point<Tag>> {
  std::size_t operator()(quire::Point<Tag> p) const noexcept { return std::hash<std::uint64_t>{}(p.value()); }
};
