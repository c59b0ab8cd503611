// Moving pages that are in use to other frames: bytes, mappings, place in the page cache or swap cache, and state go along;
// the programs that use them notice nothing but, perhaps, a wait (Linux's mm/migrate.c).
//
//   isolated folios ─ migrate_pages ─┬ lock ─ mappings → migration entries ─ cache entry and bytes → new frame ─ mapped again
//                                    ├ busy now (locked, referenced): another pass
//                                    └ cannot be (written back, still mapped): back to the LRU by putback_movable_pages
//
// Callers: compaction, isolation of a range, hotplug, long-term pins. The list's folios are off the LRU with the isolation's reference, and
// NR_ISOLATED_* counts them; each leaves that count when it has moved or is put back.
//
// Locks: the folio's own, tried first and waited for in later passes when the mode allows; then those of the reverse map.
// Differs from Linux: single pages only (there are no large folios yet), no movable pages but those of the LRU.
#pragma once

#include <cstdint>

#include "quire/base/function_ref.h"
#include "quire/base/tracepoint.h"
#include "quire/phys/folio.h"
#include "quire/phys/page_mover.h"

namespace quire::vm {

class Vm;

struct MmMigratePages {
  static constexpr std::string_view kName = "mm_migrate_pages";
  std::uint64_t succeeded;
  std::uint64_t failed;
  phys::MigrateMode mode;
  phys::MigrateReason reason;
  void fields(auto&& f) const {
    f("succeeded", succeeded);
    f("failed", failed);
    f("mode", static_cast<unsigned>(mode));
    f("reason", static_cast<unsigned>(reason));
  }
};

struct MigrateOutcome {
  std::uint64_t succeeded = 0;  // pages, those that were freed meanwhile included
  std::uint64_t failed = 0;     // pages still on the list
  bool no_memory = false;       // ended early: there was no frame to move to
};

class Migration {
 public:
  Migration(Vm& vm, TraceRegistry& traces) : vm_(vm), mm_migrate_pages_(traces) {}

  // A frame for the folio to move to, with one reference, or null; and one that was not needed back.
  using GetNewFolio = FunctionRef<phys::Folio*(phys::Folio& from)>;
  using PutNewFolio = FunctionRef<void(phys::Folio& unused)>;

  // Moves what it can; what stays is left on `folios`. May sleep unless the mode is kAsync.
  MigrateOutcome migrate_pages(phys::FolioList& folios, GetNewFolio get, PutNewFolio put, phys::MigrateMode mode,
                               phys::MigrateReason reason);
  // Takes an LRU folio off its list for migration and counts it as isolated; false when it is on none.
  [[nodiscard]] bool isolate(phys::Folio& folio, phys::FolioList& folios);
  // Isolated folios back to their lists.
  void putback_movable_pages(phys::FolioList& folios);

 private:
  enum class Moved : std::uint8_t { kDone, kAgain, kBusy, kNoMemory };
  enum class Force : std::uint8_t { kNo, kYes };  // wait for locks, as far as the mode allows
  [[nodiscard]] Moved unmap_and_move(phys::Folio& from, GetNewFolio get, PutNewFolio put, phys::MigrateMode mode, Force force);
  [[nodiscard]] Moved move(phys::Folio& from, phys::Folio& to, phys::MigrateMode mode, Force force);
  [[nodiscard]] bool lock_source(phys::Folio& from, phys::MigrateMode mode, Force force);
  [[nodiscard]] bool move_to_new_folio(phys::Folio& from, phys::Folio& to);
  [[nodiscard]] bool migrate_mapping(phys::Folio& from, phys::Folio& to);
  void count_isolated(phys::Folio& folio, std::int64_t n);

  Vm& vm_;
  Tracepoint<MmMigratePages> mm_migrate_pages_;
};

}  // namespace quire::vm
