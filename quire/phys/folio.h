// A Folio is a Page that heads a power-of-two block of pages (or stands alone): what the page cache, the LRU and swap
// speak of. It overlays the head's Page, as Linux's struct folio does; a reference to a Folio is never a tail page.
//
// For each state bit there are folio_test_X, folio_set_X and folio_clear_X, and folio_test_set_X / folio_test_clear_X
// (which give the old value). The same function objects take any Page.
//
// Who may change a bit: as in Linux (mapping, dirty→clean and the swap cache under the folio lock; lru, active and
// unevictable under lru_lock or by the isolator; the rest at any time).
#pragma once

#include "quire/phys/page.h"

namespace quire::phys {

struct Folio : Page {};
static_assert(sizeof(Folio) == sizeof(Page));

[[nodiscard]] inline Folio& page_folio(Page& page) { return static_cast<Folio&>(compound_head(page)); }
[[nodiscard]] inline const Folio& page_folio(const Page& page) { return page_folio(const_cast<Page&>(page)); }

// A list of folios linked through Page::lru. (A member pointer of a base cannot be a template argument for the derived
// class, so this wraps PageList.)
class FolioList {
 public:
  [[nodiscard]] bool empty() const { return pages_.empty(); }
  void push_front(Folio& f) { pages_.push_front(f); }
  void push_back(Folio& f) { pages_.push_back(f); }
  void erase(Folio& f) { pages_.erase(f); }
  void move_to_front(Folio& f) { pages_.move_to_front(f); }
  void move_to_back(Folio& f) { pages_.move_to_back(f); }
  [[nodiscard]] Folio& front() { return folio(pages_.front()); }
  [[nodiscard]] Folio& back() { return folio(pages_.back()); }
  [[nodiscard]] Folio* front_or_null() { return folio(pages_.front_or_null()); }
  [[nodiscard]] Folio* back_or_null() { return folio(pages_.back_or_null()); }
  [[nodiscard]] Folio* next_or_null(Folio& f) { return folio(pages_.next_or_null(f)); }
  [[nodiscard]] Folio* prev_or_null(Folio& f) { return folio(pages_.prev_or_null(f)); }
  Folio* pop_front() { return folio(pages_.pop_front()); }
  Folio* pop_back() { return folio(pages_.pop_back()); }
  void splice_front(FolioList& other) { pages_.splice_front(other.pages_); }
  void splice_back(FolioList& other) { pages_.splice_back(other.pages_); }
  [[nodiscard]] std::size_t count() const { return pages_.count(); }
  [[nodiscard]] PageList& pages() { return pages_; }
  [[nodiscard]] const PageList& pages() const { return pages_; }

 private:
  static Folio& folio(Page& p) { return static_cast<Folio&>(p); }
  static Folio* folio(Page* p) { return static_cast<Folio*>(p); }
  PageList pages_;
};

[[nodiscard]] inline Order folio_order(const Folio& f) { return compound_order(f); }
[[nodiscard]] inline std::uint64_t folio_nr_pages(const Folio& f) { return folio_order(f).pages(); }
[[nodiscard]] inline std::uint64_t folio_size(const Folio& f) { return folio_order(f).bytes(); }
[[nodiscard]] inline bool folio_test_large(const Folio& f) { return f.is_head(); }
[[nodiscard]] inline Page& folio_page(Folio& f, std::uint64_t i) { return (static_cast<Page*>(&f))[i]; }
[[nodiscard]] inline std::uint64_t folio_page_idx(const Folio& f, const Page& p) {
  return static_cast<std::uint64_t>(&p - static_cast<const Page*>(&f));
}
[[nodiscard]] inline Nid folio_nid(const Folio& f) { return f.nid(); }
[[nodiscard]] inline ZoneType folio_zone_type(const Folio& f) { return f.zone_type(); }

// --- references -----------------------------------------------------------------------------------------------------

[[nodiscard]] inline int folio_ref_count(const Folio& f) { return f.refcount; }
inline void folio_get(Folio& f) {
  QUIRE_BUG_ON(f.refcount <= 0);
  ++f.refcount;
}
inline void folio_ref_add(Folio& f, int n) { f.refcount += n; }
inline void folio_ref_sub(Folio& f, int n) { f.refcount -= n; }
// Takes a reference unless the folio is free or frozen.
[[nodiscard]] inline bool folio_try_get(Folio& f) {
  if (f.refcount == 0) return false;
  ++f.refcount;
  return true;
}
// Drops a reference; true when it was the last one and the caller must free the folio.
[[nodiscard]] inline bool folio_put_testzero(Folio& f) {
  QUIRE_BUG_ON(f.refcount <= 0);
  return --f.refcount == 0;
}
// Takes all references away if there are exactly `expected` (so that nobody can get one), for removal or migration.
[[nodiscard]] inline bool folio_ref_freeze(Folio& f, int expected) {
  if (f.refcount != expected) return false;
  f.refcount = 0;
  return true;
}
inline void folio_ref_unfreeze(Folio& f, int count) { f.refcount = count; }

[[nodiscard]] inline int folio_mapcount(const Folio& f) {
  int n = f.mapcount;
  if (f.is_head()) {
    n += (&f)[1].tail.mapcount;
    for (std::uint64_t i = 1; i < folio_nr_pages(f); ++i) n += (static_cast<const Page*>(&f))[i].mapcount;
  }
  return n;
}
[[nodiscard]] inline bool folio_mapped(const Folio& f) { return folio_mapcount(f) > 0; }

[[nodiscard]] inline bool folio_test_anon(const Folio& f) { return (f.mapping & kMappingAnon) != 0; }
// The mapping word without its tag: an AddressSpace or an AnonVma, as folio_test_anon says.
template <class T>
[[nodiscard]] T* folio_raw_mapping(const Folio& f) {
  return reinterpret_cast<T*>(f.mapping & ~kMappingFlags);
}

// --- state bits -----------------------------------------------------------------------------------------------------

template <PageFlag kFlag>
struct TestPageFlag {
  [[nodiscard]] bool operator()(const Page& p) const { return p.test(kFlag); }
};
template <PageFlag kFlag>
struct SetPageFlag {
  void operator()(Page& p) const { p.set(kFlag); }
};
template <PageFlag kFlag>
struct ClearPageFlag {
  void operator()(Page& p) const { p.clear(kFlag); }
};
template <PageFlag kFlag>
struct TestSetPageFlag {
  bool operator()(Page& p) const { return p.test_and_set(kFlag); }
};
template <PageFlag kFlag>
struct TestClearPageFlag {
  bool operator()(Page& p) const { return p.test_and_clear(kFlag); }
};

inline constexpr TestPageFlag<PageFlag::kLocked> folio_test_locked{};
inline constexpr SetPageFlag<PageFlag::kLocked> folio_set_locked{};
inline constexpr ClearPageFlag<PageFlag::kLocked> folio_clear_locked{};
inline constexpr TestSetPageFlag<PageFlag::kLocked> folio_test_set_locked{};
inline constexpr TestClearPageFlag<PageFlag::kLocked> folio_test_clear_locked{};
inline constexpr TestPageFlag<PageFlag::kReferenced> folio_test_referenced{};
inline constexpr SetPageFlag<PageFlag::kReferenced> folio_set_referenced{};
inline constexpr ClearPageFlag<PageFlag::kReferenced> folio_clear_referenced{};
inline constexpr TestSetPageFlag<PageFlag::kReferenced> folio_test_set_referenced{};
inline constexpr TestClearPageFlag<PageFlag::kReferenced> folio_test_clear_referenced{};
inline constexpr TestPageFlag<PageFlag::kUptodate> folio_test_uptodate{};
inline constexpr SetPageFlag<PageFlag::kUptodate> folio_set_uptodate{};
inline constexpr ClearPageFlag<PageFlag::kUptodate> folio_clear_uptodate{};
inline constexpr TestSetPageFlag<PageFlag::kUptodate> folio_test_set_uptodate{};
inline constexpr TestClearPageFlag<PageFlag::kUptodate> folio_test_clear_uptodate{};
inline constexpr TestPageFlag<PageFlag::kDirty> folio_test_dirty{};
inline constexpr SetPageFlag<PageFlag::kDirty> folio_set_dirty{};
inline constexpr ClearPageFlag<PageFlag::kDirty> folio_clear_dirty{};
inline constexpr TestSetPageFlag<PageFlag::kDirty> folio_test_set_dirty{};
inline constexpr TestClearPageFlag<PageFlag::kDirty> folio_test_clear_dirty{};
inline constexpr TestPageFlag<PageFlag::kLru> folio_test_lru{};
inline constexpr SetPageFlag<PageFlag::kLru> folio_set_lru{};
inline constexpr ClearPageFlag<PageFlag::kLru> folio_clear_lru{};
inline constexpr TestSetPageFlag<PageFlag::kLru> folio_test_set_lru{};
inline constexpr TestClearPageFlag<PageFlag::kLru> folio_test_clear_lru{};
inline constexpr TestPageFlag<PageFlag::kActive> folio_test_active{};
inline constexpr SetPageFlag<PageFlag::kActive> folio_set_active{};
inline constexpr ClearPageFlag<PageFlag::kActive> folio_clear_active{};
inline constexpr TestSetPageFlag<PageFlag::kActive> folio_test_set_active{};
inline constexpr TestClearPageFlag<PageFlag::kActive> folio_test_clear_active{};
inline constexpr TestPageFlag<PageFlag::kWorkingset> folio_test_workingset{};
inline constexpr SetPageFlag<PageFlag::kWorkingset> folio_set_workingset{};
inline constexpr ClearPageFlag<PageFlag::kWorkingset> folio_clear_workingset{};
inline constexpr TestSetPageFlag<PageFlag::kWorkingset> folio_test_set_workingset{};
inline constexpr TestClearPageFlag<PageFlag::kWorkingset> folio_test_clear_workingset{};
inline constexpr TestPageFlag<PageFlag::kWaiters> folio_test_waiters{};
inline constexpr SetPageFlag<PageFlag::kWaiters> folio_set_waiters{};
inline constexpr ClearPageFlag<PageFlag::kWaiters> folio_clear_waiters{};
inline constexpr TestSetPageFlag<PageFlag::kWaiters> folio_test_set_waiters{};
inline constexpr TestClearPageFlag<PageFlag::kWaiters> folio_test_clear_waiters{};
inline constexpr TestPageFlag<PageFlag::kError> folio_test_error{};
inline constexpr SetPageFlag<PageFlag::kError> folio_set_error{};
inline constexpr ClearPageFlag<PageFlag::kError> folio_clear_error{};
inline constexpr TestSetPageFlag<PageFlag::kError> folio_test_set_error{};
inline constexpr TestClearPageFlag<PageFlag::kError> folio_test_clear_error{};
inline constexpr TestPageFlag<PageFlag::kSlab> folio_test_slab{};
inline constexpr SetPageFlag<PageFlag::kSlab> folio_set_slab{};
inline constexpr ClearPageFlag<PageFlag::kSlab> folio_clear_slab{};
inline constexpr TestSetPageFlag<PageFlag::kSlab> folio_test_set_slab{};
inline constexpr TestClearPageFlag<PageFlag::kSlab> folio_test_clear_slab{};
inline constexpr TestPageFlag<PageFlag::kReserved> folio_test_reserved{};
inline constexpr SetPageFlag<PageFlag::kReserved> folio_set_reserved{};
inline constexpr ClearPageFlag<PageFlag::kReserved> folio_clear_reserved{};
inline constexpr TestSetPageFlag<PageFlag::kReserved> folio_test_set_reserved{};
inline constexpr TestClearPageFlag<PageFlag::kReserved> folio_test_clear_reserved{};
inline constexpr TestPageFlag<PageFlag::kPrivate> folio_test_private{};
inline constexpr SetPageFlag<PageFlag::kPrivate> folio_set_private{};
inline constexpr ClearPageFlag<PageFlag::kPrivate> folio_clear_private{};
inline constexpr TestSetPageFlag<PageFlag::kPrivate> folio_test_set_private{};
inline constexpr TestClearPageFlag<PageFlag::kPrivate> folio_test_clear_private{};
inline constexpr TestPageFlag<PageFlag::kPrivate2> folio_test_private_2{};
inline constexpr SetPageFlag<PageFlag::kPrivate2> folio_set_private_2{};
inline constexpr ClearPageFlag<PageFlag::kPrivate2> folio_clear_private_2{};
inline constexpr TestSetPageFlag<PageFlag::kPrivate2> folio_test_set_private_2{};
inline constexpr TestClearPageFlag<PageFlag::kPrivate2> folio_test_clear_private_2{};
inline constexpr TestPageFlag<PageFlag::kWriteback> folio_test_writeback{};
inline constexpr SetPageFlag<PageFlag::kWriteback> folio_set_writeback{};
inline constexpr ClearPageFlag<PageFlag::kWriteback> folio_clear_writeback{};
inline constexpr TestSetPageFlag<PageFlag::kWriteback> folio_test_set_writeback{};
inline constexpr TestClearPageFlag<PageFlag::kWriteback> folio_test_clear_writeback{};
inline constexpr TestPageFlag<PageFlag::kMappedToDisk> folio_test_mappedtodisk{};
inline constexpr SetPageFlag<PageFlag::kMappedToDisk> folio_set_mappedtodisk{};
inline constexpr ClearPageFlag<PageFlag::kMappedToDisk> folio_clear_mappedtodisk{};
inline constexpr TestSetPageFlag<PageFlag::kMappedToDisk> folio_test_set_mappedtodisk{};
inline constexpr TestClearPageFlag<PageFlag::kMappedToDisk> folio_test_clear_mappedtodisk{};
inline constexpr TestPageFlag<PageFlag::kReclaim> folio_test_reclaim{};
inline constexpr SetPageFlag<PageFlag::kReclaim> folio_set_reclaim{};
inline constexpr ClearPageFlag<PageFlag::kReclaim> folio_clear_reclaim{};
inline constexpr TestSetPageFlag<PageFlag::kReclaim> folio_test_set_reclaim{};
inline constexpr TestClearPageFlag<PageFlag::kReclaim> folio_test_clear_reclaim{};
inline constexpr TestPageFlag<PageFlag::kReadahead> folio_test_readahead{};
inline constexpr SetPageFlag<PageFlag::kReadahead> folio_set_readahead{};
inline constexpr ClearPageFlag<PageFlag::kReadahead> folio_clear_readahead{};
inline constexpr TestSetPageFlag<PageFlag::kReadahead> folio_test_set_readahead{};
inline constexpr TestClearPageFlag<PageFlag::kReadahead> folio_test_clear_readahead{};
inline constexpr TestPageFlag<PageFlag::kIsolated> folio_test_isolated{};
inline constexpr SetPageFlag<PageFlag::kIsolated> folio_set_isolated{};
inline constexpr ClearPageFlag<PageFlag::kIsolated> folio_clear_isolated{};
inline constexpr TestSetPageFlag<PageFlag::kIsolated> folio_test_set_isolated{};
inline constexpr TestClearPageFlag<PageFlag::kIsolated> folio_test_clear_isolated{};
inline constexpr TestPageFlag<PageFlag::kSwapBacked> folio_test_swapbacked{};
inline constexpr SetPageFlag<PageFlag::kSwapBacked> folio_set_swapbacked{};
inline constexpr ClearPageFlag<PageFlag::kSwapBacked> folio_clear_swapbacked{};
inline constexpr TestSetPageFlag<PageFlag::kSwapBacked> folio_test_set_swapbacked{};
inline constexpr TestClearPageFlag<PageFlag::kSwapBacked> folio_test_clear_swapbacked{};
inline constexpr TestPageFlag<PageFlag::kSwapCache> folio_test_swapcache{};
inline constexpr SetPageFlag<PageFlag::kSwapCache> folio_set_swapcache{};
inline constexpr ClearPageFlag<PageFlag::kSwapCache> folio_clear_swapcache{};
inline constexpr TestSetPageFlag<PageFlag::kSwapCache> folio_test_set_swapcache{};
inline constexpr TestClearPageFlag<PageFlag::kSwapCache> folio_test_clear_swapcache{};
inline constexpr TestPageFlag<PageFlag::kChecked> folio_test_checked{};
inline constexpr SetPageFlag<PageFlag::kChecked> folio_set_checked{};
inline constexpr ClearPageFlag<PageFlag::kChecked> folio_clear_checked{};
inline constexpr TestSetPageFlag<PageFlag::kChecked> folio_test_set_checked{};
inline constexpr TestClearPageFlag<PageFlag::kChecked> folio_test_clear_checked{};
inline constexpr TestPageFlag<PageFlag::kUnevictable> folio_test_unevictable{};
inline constexpr SetPageFlag<PageFlag::kUnevictable> folio_set_unevictable{};
inline constexpr ClearPageFlag<PageFlag::kUnevictable> folio_clear_unevictable{};
inline constexpr TestSetPageFlag<PageFlag::kUnevictable> folio_test_set_unevictable{};
inline constexpr TestClearPageFlag<PageFlag::kUnevictable> folio_test_clear_unevictable{};
inline constexpr TestPageFlag<PageFlag::kMlocked> folio_test_mlocked{};
inline constexpr SetPageFlag<PageFlag::kMlocked> folio_set_mlocked{};
inline constexpr ClearPageFlag<PageFlag::kMlocked> folio_clear_mlocked{};
inline constexpr TestSetPageFlag<PageFlag::kMlocked> folio_test_set_mlocked{};
inline constexpr TestClearPageFlag<PageFlag::kMlocked> folio_test_clear_mlocked{};
inline constexpr TestPageFlag<PageFlag::kHwPoison> folio_test_hwpoison{};
inline constexpr SetPageFlag<PageFlag::kHwPoison> folio_set_hwpoison{};
inline constexpr ClearPageFlag<PageFlag::kHwPoison> folio_clear_hwpoison{};
inline constexpr TestSetPageFlag<PageFlag::kHwPoison> folio_test_set_hwpoison{};
inline constexpr TestClearPageFlag<PageFlag::kHwPoison> folio_test_clear_hwpoison{};
inline constexpr TestPageFlag<PageFlag::kYoung> folio_test_young{};
inline constexpr SetPageFlag<PageFlag::kYoung> folio_set_young{};
inline constexpr ClearPageFlag<PageFlag::kYoung> folio_clear_young{};
inline constexpr TestSetPageFlag<PageFlag::kYoung> folio_test_set_young{};
inline constexpr TestClearPageFlag<PageFlag::kYoung> folio_test_clear_young{};
inline constexpr TestPageFlag<PageFlag::kIdle> folio_test_idle{};
inline constexpr SetPageFlag<PageFlag::kIdle> folio_set_idle{};
inline constexpr ClearPageFlag<PageFlag::kIdle> folio_clear_idle{};
inline constexpr TestSetPageFlag<PageFlag::kIdle> folio_test_set_idle{};
inline constexpr TestClearPageFlag<PageFlag::kIdle> folio_test_clear_idle{};
inline constexpr TestPageFlag<PageFlag::kAnonExclusive> folio_test_anon_exclusive{};
inline constexpr SetPageFlag<PageFlag::kAnonExclusive> folio_set_anon_exclusive{};
inline constexpr ClearPageFlag<PageFlag::kAnonExclusive> folio_clear_anon_exclusive{};
inline constexpr TestSetPageFlag<PageFlag::kAnonExclusive> folio_test_set_anon_exclusive{};
inline constexpr TestClearPageFlag<PageFlag::kAnonExclusive> folio_test_clear_anon_exclusive{};
inline constexpr TestPageFlag<PageFlag::kTable> folio_test_table{};
inline constexpr SetPageFlag<PageFlag::kTable> folio_set_table{};
inline constexpr ClearPageFlag<PageFlag::kTable> folio_clear_table{};
inline constexpr TestSetPageFlag<PageFlag::kTable> folio_test_set_table{};
inline constexpr TestClearPageFlag<PageFlag::kTable> folio_test_clear_table{};

}  // namespace quire::phys
