// struct Pages for memory that comes after boot (Linux's sparse_add_section, section_activate and vmemmap_populate): each
// 128 MiB section takes 2 MiB of the machine's own memory for them, as one huge page where there is one, else as 512 single
// pages, and 64 bytes for its pageblock flags.
//
//   add_pages      absent → kOffline, struct Pages all zero
//   remove_pages   back to absent, what they took is free again
//
// A stretch inside a section of boot finds its struct Pages there (those of a hole) and takes nothing.
// Locking: the caller's mem_hotplug_lock.
// Differs from Linux: memory for the flags comes in whole pages, 64 sections to each, not from kmalloc.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "quire/base/result.h"
#include "quire/base/types.h"

namespace quire::phys {

class PhysMem;
struct Page;

class HotMemmap {
 public:
  explicit HotMemmap(PhysMem& mem) : mem_(mem) {}

  // struct Pages for [pfns), multiples of 2 MiB, on `nid` if it can give them. kExist: some have them already. kNoMem: no
  // memory for them. kTooBig: beyond what the machine was built for. On failure nothing has changed.
  [[nodiscard]] Status add_pages(Nid nid, Range<Pfn> pfns);
  // Precondition: add_pages made them, and nobody uses them.
  void remove_pages(Range<Pfn> pfns);
  // Some of [pfns) lies in a section that boot made.
  [[nodiscard]] bool in_early_section(Range<Pfn> pfns) const;

 private:
  // A block that holds struct Pages: those of `serves`.
  struct Frames {
    Range<Pfn> serves;
    Page* first;
    Order order;
  };
  struct HotSection {
    std::vector<Frames> frames;
    Pfn usage_page{};
    unsigned usage_slot = 0;
  };
  Status add_section(Nid nid, std::uint64_t section);
  void remove_section(std::uint64_t section);
  Status populate(Nid nid, Range<Pfn> pfns, HotSection& hot);
  void depopulate(HotSection& hot, Range<Pfn> pfns);
  Status take_usage(Nid nid, std::uint64_t section, HotSection& hot);
  void give_usage(const HotSection& hot);
  [[nodiscard]] static std::uint64_t subsections(std::uint64_t section, Range<Pfn> pfns);

  PhysMem& mem_;
  std::map<std::uint64_t, HotSection> sections_;
  std::map<Pfn, std::uint64_t> usage_;  // page → which of its slots are taken
};

}  // namespace quire::phys
