// A PageMover for tests: it owns single movable pages ("on the LRU") and moves those of a range to new frames, bytes too.
#pragma once

#include <cstring>
#include <map>
#include <set>

#include "quire/phys/phys_mem.h"

namespace quire::phys {

class FakeMover final : public PageMover {
 public:
  explicit FakeMover(PhysMem& mem) : mem_(mem) { mem.set_page_mover(this); }
  ~FakeMover() override { mem_.set_page_mover(nullptr); }
  FakeMover(const FakeMover&) = delete;
  FakeMover& operator=(const FakeMover&) = delete;

  // A page with one reference, marked with `mark` in its bytes; false: no memory.
  bool add(std::uint64_t mark, Gfp gfp = Gfp::kHighUserMovable & ~Gfp::kDirectReclaim) {
    Page* page = mem_.alloc_page(gfp);
    if (page == nullptr) return false;
    adopt(*page, mark);
    return true;
  }
  void adopt(Page& page, std::uint64_t mark) {
    page.set(PageFlag::kLru);
    std::memcpy(mem_.page_address(page), &mark, sizeof(mark));
    pages_[mem_.page_to_pfn(page)] = mark;
  }
  void remove(Pfn pfn) {
    pages_.erase(pfn);
    Page& page = mem_.pfn_to_page(pfn);
    page.clear(PageFlag::kLru);
    mem_.free_page(page);
  }
  void clear() {
    while (!pages_.empty()) remove(pages_.begin()->first);
  }
  void pin(Pfn pfn) { pinned_.insert(pfn); }
  void unpin(Pfn pfn) { pinned_.erase(pfn); }
  // Every page still carries its mark.
  [[nodiscard]] bool intact() const {
    for (const auto& [pfn, mark] : pages_) {
      std::uint64_t bytes = 0;
      std::memcpy(&bytes, mem_.page_address(mem_.pfn_to_page(pfn)), sizeof(bytes));
      if (bytes != mark) return false;
    }
    return true;
  }
  [[nodiscard]] const std::map<Pfn, std::uint64_t>& pages() const { return pages_; }
  // A pageblock whose every frame is one of these pages; none: the largest pfn.
  [[nodiscard]] Range<Pfn> full_block() const {
    for (const auto& [pfn, mark] : pages_) {
      if (align_down(pfn, kPageblockPages) != pfn) continue;
      const auto end = pages_.lower_bound(pfn + kPageblockPages);
      if (static_cast<std::uint64_t>(std::distance(pages_.find(pfn), end)) == kPageblockPages)
        return {pfn, pfn + kPageblockPages};
    }
    return {};
  }
  [[nodiscard]] int drains() const { return drains_; }
  [[nodiscard]] int calls() const { return calls_; }

  void lru_add_drain_all() override { ++drains_; }
  std::uint64_t migrate_range(Range<Pfn> pfns, MigrateMode, MigrateReason) override {
    ++calls_;
    std::uint64_t failed = 0;
    std::vector<std::pair<Pfn, std::uint64_t>> here(pages_.lower_bound(pfns.begin), pages_.lower_bound(pfns.end));
    for (const auto& [pfn, mark] : here) {
      if (pinned_.contains(pfn) || !add(mark)) {
        ++failed;
        continue;
      }
      remove(pfn);
    }
    return failed;
  }

 private:
  PhysMem& mem_;
  std::map<Pfn, std::uint64_t> pages_;
  std::set<Pfn> pinned_;
  int drains_ = 0;
  int calls_ = 0;
};

}  // namespace quire::phys
