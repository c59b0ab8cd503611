// Sparse memory: physical memory in sections of 128 MiB, each of which has struct Pages or has none, and the pageblock
// flags of each section (four bits for each 2 MiB: migrate type, compaction's skip bit).
//
//   pfn ─ >>15 ─→ section ─→ pageblock words (in the arena, 32 bytes a section, taken from memblock with the memmap)
//
// A section of boot has struct Pages for all of its 32768 frames, holes inside it included (those are reserved); one that
// was plugged in later has them for the subsections (2 MiB) that were plugged in.
// Locking: pageblock types under Zone::lock.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "quire/base/types.h"
#include "quire/phys/gfp.h"

namespace quire::phys {

inline constexpr unsigned kSectionSizeBits = 27;
inline constexpr unsigned kPfnSectionShift = kSectionSizeBits - kPageShift;
inline constexpr std::uint64_t kPagesPerSection = std::uint64_t{1} << kPfnSectionShift;
inline constexpr std::uint64_t kSectionUsageBytes = 56;  // sizeof(struct mem_section_usage)

enum class SectionState : std::uint8_t {
  kAbsent,    // no struct Pages
  kDeferred,  // struct Pages exist and are all zero
  kInitialised,
  kOffline,  // struct Pages exist, but none of the frames is online RAM (a memory block that is offline, device memory)
};

struct MemSection {
  std::uint64_t* pageblock_flags = nullptr;
  SectionState state = SectionState::kAbsent;
  Nid nid{};
  bool early = true;                              // made at boot
  std::uint64_t subsections = ~std::uint64_t{0};  // which 2 MiB have struct Pages
  std::array<std::uint64_t, 4> own_types{};       // of isolated pageblocks: what they were before, packed like the flags
};

class SparseMemory {
 public:
  static constexpr std::uint64_t section_of(Pfn pfn) { return pfn.value() >> kPfnSectionShift; }
  static constexpr Pfn section_start(std::uint64_t section) { return Pfn(section << kPfnSectionShift); }

  void resize(std::uint64_t sections) {
    sections_.resize(sections);
    count_ = sections;
  }
  [[nodiscard]] std::uint64_t size() const { return sections_.size(); }
  [[nodiscard]] MemSection& section(std::uint64_t i) { return sections_[i]; }
  [[nodiscard]] const MemSection& section(std::uint64_t i) const { return sections_[i]; }

  [[nodiscard]] bool pfn_valid(Pfn pfn) const {
    const std::uint64_t s = section_of(pfn);
    return s < count_ && sections_[s].state != SectionState::kAbsent && (sections_[s].subsections >> block(pfn) & 1) != 0;
  }
  // RAM that is in use, or a frame beside it in its section; initialised or not.
  [[nodiscard]] bool online(Pfn pfn) const {
    return pfn_valid(pfn) && sections_[section_of(pfn)].state != SectionState::kOffline;
  }
  [[nodiscard]] bool page_initialised(Pfn pfn) const {
    const std::uint64_t s = section_of(pfn);
    return s < sections_.size() && sections_[s].state == SectionState::kInitialised;
  }

  // Precondition of both: pfn_valid.
  [[nodiscard]] MigrateType pageblock_type(Pfn pfn) const {
    return static_cast<MigrateType>(sections_[section_of(pfn)].pageblock_flags[word(pfn)] >> shift(pfn) & kTypeMask);
  }
  void set_pageblock_type(Pfn pfn, MigrateType type) {
    std::uint64_t& w = sections_[section_of(pfn)].pageblock_flags[word(pfn)];
    w = (w & ~(kTypeMask << shift(pfn))) | static_cast<std::uint64_t>(type) << shift(pfn);
  }
  // Isolates a pageblock (it must not be isolated yet), and remembers its type.
  void isolate_pageblock(Pfn pfn) {
    std::uint64_t& w = sections_[section_of(pfn)].own_types[word(pfn)];
    w = (w & ~(kTypeMask << shift(pfn))) | static_cast<std::uint64_t>(pageblock_type(pfn)) << shift(pfn);
    set_pageblock_type(pfn, MigrateType::kIsolate);
  }
  // The type that an isolated pageblock had.
  [[nodiscard]] MigrateType pageblock_own_type(Pfn pfn) const {
    return static_cast<MigrateType>(sections_[section_of(pfn)].own_types[word(pfn)] >> shift(pfn) & kTypeMask);
  }
  // Compaction has found nothing to take here (PB_migrate_skip).
  [[nodiscard]] bool pageblock_skip(Pfn pfn) const {
    return (sections_[section_of(pfn)].pageblock_flags[word(pfn)] >> shift(pfn) & kSkipBit) != 0;
  }
  void set_pageblock_skip(Pfn pfn, bool skip) {
    std::uint64_t& w = sections_[section_of(pfn)].pageblock_flags[word(pfn)];
    w = (w & ~(kSkipBit << shift(pfn))) | (skip ? kSkipBit : 0) << shift(pfn);
  }

 private:
  static constexpr std::uint64_t kSkipBit = 8;
  static constexpr std::uint64_t kTypeMask = 7;
  static constexpr unsigned kPageblockShift = 9;
  static constexpr std::uint64_t block(Pfn pfn) { return (pfn.value() & (kPagesPerSection - 1)) >> kPageblockShift; }
  static constexpr std::uint64_t word(Pfn pfn) { return block(pfn) / 16; }
  static constexpr std::uint64_t shift(Pfn pfn) { return block(pfn) % 16 * 4; }

  std::vector<MemSection> sections_;
  std::uint64_t count_ = 0;  // their number, at hand for pfn_valid
};

}  // namespace quire::phys
