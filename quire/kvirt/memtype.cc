#include "quire/kvirt/memtype.h"

#include <fmt/format.h>

#include <new>

namespace quire::kvirt {

using arch::PteBits;

std::string_view cattr_name(CacheMode mode) {
  switch (mode) {
    case CacheMode::kWb: return "write-back";
    case CacheMode::kWc: return "write-combining";
    case CacheMode::kUcMinus: return "uncached-minus";
    case CacheMode::kUc: return "uncached";
    case CacheMode::kWt: return "write-through";
    case CacheMode::kWp: return "write-protected";
  }
  return "broken";
}

PteBits cachemode2protval(CacheMode mode) {
  switch (mode) {
    case CacheMode::kWb: return PteBits::kNone;
    case CacheMode::kWc: return PteBits::kPwt;
    case CacheMode::kUcMinus: return PteBits::kPcd;
    case CacheMode::kUc: return PteBits::kPcd | PteBits::kPwt;
    case CacheMode::kWt: return PteBits::kPat | PteBits::kPcd | PteBits::kPwt;
    case CacheMode::kWp: return PteBits::kPat | PteBits::kPwt;
  }
  return PteBits::kNone;
}

CacheMode pgprot2cachemode(arch::Pgprot prot) {
  const PteBits bits = prot.bits & (PteBits::kPat | PteBits::kPcd | PteBits::kPwt);
  for (const CacheMode mode :
       {CacheMode::kWb, CacheMode::kWc, CacheMode::kUcMinus, CacheMode::kUc, CacheMode::kWt, CacheMode::kWp}) {
    if (cachemode2protval(mode) == bits) return mode;
  }
  // Entries 4 and 6 of the table repeat 0 and 2.
  return any(bits, PteBits::kPcd) ? CacheMode::kUcMinus : CacheMode::kWb;
}

Memtype::Memtype(slab::SlabSystem& slab, KernelLog& log)
    : slab_(slab), log_(log), memtype_lock_(slab.scheduler(), slab.scheduler().locks().lock_class("memtype_lock")) {}

Memtype::~Memtype() {
  while (Entry* entry = tree_.iter_first(0, ~std::uint64_t{0})) {
    tree_.erase(*entry);
    slab_.kfree(entry);
  }
}

Result<CacheMode> Memtype::reserve(Range<PhysAddr> range, CacheMode wanted, std::string_view who) {
  if (range.empty()) return fail(Errno::kInval);
  void* room = slab_.kmalloc(sizeof(Entry), phys::Gfp::kKernel);
  if (room == nullptr) return fail(Errno::kNoMem);
  auto* entry = ::new (room) Entry();
  sim::SpinGuard guard(memtype_lock_);
  const std::uint64_t first = range.begin.value();
  const std::uint64_t last = range.end.value() - 1;
  CacheMode mode = wanted;
  if (const Entry* there = tree_.iter_first(first, last)) mode = there->mode;
  bool conflict = false;
  tree_.for_each(first, last, [&](const Entry& other) { conflict |= other.mode != mode; });
  if (conflict) {
    slab_.kfree(entry);
    log_.warn(fmt::format("x86/PAT: {} conflicting memory types {:x}-{:x} {}<->{}", who, first, range.end.value(),
                          cattr_name(wanted), cattr_name(mode)));
    return fail(Errno::kBusy);
  }
  entry->mode = mode;
  tree_.insert(*entry, first, last);
  return mode;
}

Status Memtype::free(Range<PhysAddr> range) {
  if (range.empty()) return fail(Errno::kInval);
  Entry* found = nullptr;
  {
    sim::SpinGuard guard(memtype_lock_);
    const std::uint64_t first = range.begin.value();
    const std::uint64_t last = range.end.value() - 1;
    tree_.for_each(first, last, [&](Entry& entry) {
      if (entry.node.first == first && entry.node.last == last) found = &entry;
    });
    if (found != nullptr) tree_.erase(*found);
  }
  if (found == nullptr) {
    log_.warn(
        fmt::format("x86/PAT: freeing invalid memtype [mem {:#018x}-{:#018x}]", range.begin.value(), range.end.value() - 1));
    return fail(Errno::kInval);
  }
  slab_.kfree(found);
  return {};
}

CacheMode Memtype::lookup(PhysAddr pa) const {
  const Entry* entry = tree_.iter_first(pa.value(), pa.value());
  return entry == nullptr ? CacheMode::kUcMinus : entry->mode;
}

bool Memtype::is_new_memtype_allowed(CacheMode wanted, CacheMode got) {
  const bool bypasses = wanted == CacheMode::kUcMinus || wanted == CacheMode::kWc || wanted == CacheMode::kWt;
  if (bypasses && got == CacheMode::kWb) return false;
  return !(wanted == CacheMode::kWt && got == CacheMode::kWc);
}

void Memtype::validate() const {
  tree_.validate();
  tree_.for_each(0, ~std::uint64_t{0}, [&](const Entry& a) {
    tree_.for_each(a.node.first, a.node.last, [&](const Entry& b) { QUIRE_BUG_ON(a.mode != b.mode); });
  });
}

}  // namespace quire::kvirt
