#include "quire/arch/page_tables.h"

#include "quire/base/bug.h"

namespace quire::arch {
namespace {

constexpr std::uint64_t word(PteBits bits) { return static_cast<std::uint64_t>(bits); }

FaultCode fault_code(Access access, Privilege privilege, FaultCode cause) {
  FaultCode code = cause;
  if (access == Access::kWrite) code |= FaultCode::kWrite;
  if (access == Access::kExec) code |= FaultCode::kInstr;
  if (privilege == Privilege::kUser) code |= FaultCode::kUser;
  return code;
}

// Rights of the path so far, as the bits that must be set on each level (RW, user) and the one that must be clear (NX).
struct PathBits {
  std::uint64_t all = ~std::uint64_t{0};
  std::uint64_t some = 0;

  void add(std::uint64_t entry) {
    all &= entry;
    some |= entry;
  }
  [[nodiscard]] Rights rights(std::uint64_t leaf) const {
    Rights r = Rights::kNone;
    if (all & word(PteBits::kUser)) r |= Rights::kUser;
    if (all & word(PteBits::kRw)) r |= Rights::kWrite;
    if (!(some & word(PteBits::kNx))) r |= Rights::kExec;
    if (leaf & word(PteBits::kDirty)) r |= Rights::kDirty;
    if (leaf & word(PteBits::kGlobal)) r |= Rights::kGlobal;
    return r;
  }
};

// Bits that hardware demands to be zero in a present entry of this level.
std::uint64_t reserved_in_table_entry(unsigned level, const Geometry& g) {
  const std::uint64_t frame = kPteFrameMask & ~((std::uint64_t{1} << g.physical_bits) - 1);
  if (g.has_pdpte(level)) {
    constexpr std::uint64_t kLowest = word(PteBits::kRw | PteBits::kUser) | 0x1e0;  // bits 1, 2, 5 to 8
    return frame | kLowest | word(PteBits::kNx);
  }
  return level > g.max_leaf_level ? frame | word(PteBits::kPse) : frame;
}
std::uint64_t reserved_in_leaf(unsigned level, const Geometry& g) {
  std::uint64_t reserved = reserved_in_table_entry(level, g);
  if (level > kPteLevel) {
    constexpr std::uint64_t kHugePat = std::uint64_t{1} << 12;
    reserved |= (g.entry_span(level) - 1) & kPteFrameMask & ~kHugePat;
  }
  return reserved;
}

bool is_leaf(std::uint64_t entry, unsigned level) { return level == kPteLevel || (entry & word(PteBits::kPse)) != 0; }

PhysAddr leaf_address(std::uint64_t entry, VirtAddr va, unsigned level, const Geometry& g) {
  const std::uint64_t offset_mask = g.entry_span(level) - 1;
  return PhysAddr((entry & kPteFrameMask & ~offset_mask) | (va.value() & offset_mask));
}

}  // namespace

PageTables::PageTables(std::byte* direct_map, const Geometry& geometry) : direct_map_(direct_map), geometry_(geometry) {
  for (unsigned level = kPteLevel; level <= geometry.levels; ++level) {
    reserved_[level] = reserved_in_table_entry(level, geometry);
    reserved_in_leaf_[level] = reserved_in_leaf(level, geometry);
  }
}

bool PageTables::has_reserved_bits(std::uint64_t entry, unsigned level) const {
  return (entry & (is_leaf(entry, level) ? reserved_in_leaf_ : reserved_)[level]) != 0;
}

template <unsigned kLevels>
WalkResult PageTables::walk_levels(PhysAddr root, VirtAddr va, Access access, Privilege privilege) const {
  WalkResult result;
  constexpr unsigned kUnused = 64 - (12 + 9 * kLevels);
  if (static_cast<std::int64_t>(va.value() << kUnused) >> kUnused != static_cast<std::int64_t>(va.value())) [[unlikely]] {
    result.outcome = WalkOutcome::kGeneralProtection;
    return result;
  }
  const auto fault = [&](unsigned level, std::uint64_t* at, FaultCode cause) {
    result.level = static_cast<std::uint8_t>(level);
    result.entry = at;
    result.code = fault_code(access, privilege, cause);
    return result;
  };

  PathBits bits;
  PhysAddr table_address = root;
  unsigned level = kLevels;
  std::uint64_t* at = nullptr;
  std::uint64_t entry = 0;
#pragma GCC unroll 5
  for (; level >= kPteLevel; --level) {
    at = entry_at(table_address, va, level);
    entry = *at;
    if (!(entry & word(PteBits::kPresent))) return fault(level, at, FaultCode::kNone);
    if (has_reserved_bits(entry, level)) [[unlikely]]
      return fault(level, at, FaultCode::kProt | FaultCode::kRsvd);
    bits.add(entry);
    if (is_leaf(entry, level)) break;
    table_address = PhysAddr(entry & kPteFrameMask);
  }

  // The rights with D taken as set, since this very walk sets it for a write.
  const Rights rights = bits.rights(entry);
  if (!permits(rights | Rights::kDirty, access, privilege)) return fault(level, at, FaultCode::kProt);

  if (!(bits.all & word(PteBits::kAccessed))) set_accessed(root, va, kLevels, level);
  if (access == Access::kWrite && !(entry & word(PteBits::kDirty))) *at |= word(PteBits::kDirty);
  result.outcome = WalkOutcome::kTranslated;
  result.level = static_cast<std::uint8_t>(level);
  result.entry = at;
  result.rights = access == Access::kWrite ? rights | Rights::kDirty : rights;
  const std::uint64_t offset_mask = (std::uint64_t{1} << (3 + 9 * level)) - 1;
  result.pa = PhysAddr((entry & kPteFrameMask & ~offset_mask) | (va.value() & offset_mask));
  return result;
}

// In every entry on the way from the top down to the leaf. Most walks find A set everywhere.
void PageTables::set_accessed(PhysAddr root, VirtAddr va, unsigned levels, unsigned leaf) const {
  PhysAddr table_address = root;
  for (unsigned level = levels; level >= leaf; --level) {
    std::uint64_t* at = entry_at(table_address, va, level);
    *at |= word(PteBits::kAccessed);
    table_address = PhysAddr(*at & kPteFrameMask);
  }
}

WalkResult PageTables::walk(PhysAddr root, VirtAddr va, Access access, Privilege privilege) const {
  if (geometry_.levels == 4) [[likely]]
    return walk_levels<4>(root, va, access, privilege);
  if (geometry_.levels == 5) return walk_levels<5>(root, va, access, privilege);
  return walk_any(root, va, access, privilege);
}

WalkResult PageTables::walk_any(PhysAddr root, VirtAddr va, Access access, Privilege privilege) const {
  WalkResult result = probe(root, va);
  if (result.outcome == WalkOutcome::kGeneralProtection) return result;
  if (!result || !permits(result.rights | Rights::kDirty, access, privilege)) {
    const FaultCode cause = result ? FaultCode::kProt : result.code;
    result.outcome = WalkOutcome::kPageFault;
    result.code = fault_code(access, privilege, cause);
    result.rights = Rights::kNone;
    result.pa = PhysAddr(0);
    return result;
  }
  PhysAddr table_address = root;
  for (unsigned level = geometry_.levels; level >= result.level; --level) {
    const unsigned index = geometry_.index(va, level);
    std::uint64_t entry = read_entry(table_address, index);
    if (!geometry_.has_pdpte(level)) entry |= word(PteBits::kAccessed);
    if (level == result.level && access == Access::kWrite) entry |= word(PteBits::kDirty);
    write_entry(table_address, index, entry);
    table_address = PhysAddr(entry & kPteFrameMask);
  }
  if (access == Access::kWrite) result.rights |= Rights::kDirty;
  return result;
}

WalkResult PageTables::probe(PhysAddr root, VirtAddr va) const {
  WalkResult result;
  if (!geometry_.canonical(va)) {
    result.outcome = WalkOutcome::kGeneralProtection;
    return result;
  }
  PathBits bits;
  PhysAddr table_address = root;
  for (unsigned level = geometry_.levels; level >= kPteLevel; --level) {
    const unsigned index = geometry_.index(va, level);
    const std::uint64_t entry = read_entry(table_address, index);
    result.level = static_cast<std::uint8_t>(level);
    result.entry = geometry_.entry_bytes == 8 ? table<std::uint64_t>(table_address) + index : nullptr;
    if (!(entry & word(PteBits::kPresent))) return result;
    if (has_reserved_bits(entry, level)) {
      result.code = FaultCode::kProt | FaultCode::kRsvd;
      return result;
    }
    if (!geometry_.has_pdpte(level)) bits.add(entry);
    if (is_leaf(entry, level)) {
      result.outcome = WalkOutcome::kTranslated;
      result.rights = bits.rights(entry);
      result.pa = leaf_address(entry, va, level, geometry_);
      return result;
    }
    table_address = PhysAddr(entry & kPteFrameMask);
  }
  return result;
}

std::uint64_t* PageTables::lookup_entry(PhysAddr root, VirtAddr va, unsigned level) const {
  PhysAddr table_address = root;
  // The bits yet to be resolved, moved to the top: the next index is always the first nine.
  std::uint64_t rest = va.value() << (64 - 12 - 9 * geometry_.levels);
  for (unsigned l = geometry_.levels;; --l, rest <<= 9) {
    std::uint64_t* at = table<std::uint64_t>(table_address) + (rest >> (64 - 9));
    if (l == level) return at;
    if (!(*at & word(PteBits::kPresent)) || (*at & word(PteBits::kPse))) return nullptr;
    table_address = PhysAddr(*at & kPteFrameMask);
  }
}

}  // namespace quire::arch
