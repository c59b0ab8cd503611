// What reclaim has others do to a folio: ask who used it, unmap it, write it, take it out of its cache. The floors that
// know how (vm's rmap, the page cache, the swap cache) are behind this interface, so that vmscan can be tested with a few
// folios and no address space. VmFolioActions is the machine's.
#pragma once

#include <cstdint>

#include "quire/phys/folio.h"
#include "quire/vm/rmap.h"

namespace quire::file {
class Filemap;
class Writeback;
}  // namespace quire::file
namespace quire::swap {
class SwapSystem;
}
namespace quire::vm {
class Vm;
}

namespace quire::reclaim {

// pageout_t
enum class Pageout : std::uint8_t {
  kKeep,      // could not be written now; locked
  kActivate,  // keep it active for a while; locked
  kSuccess,   // was sent to the device; unlocked
  kClean,     // was clean after all; locked
};

class FolioActions {
 public:
  virtual ~FolioActions() = default;

  // Locked or isolated: how often it was used since last asked.
  virtual vm::FolioReferenced folio_referenced(phys::Folio& folio) = 0;
  // Locked: out of every page table; TLB flushes may wait for try_to_unmap_flush. Whether it worked shows in the map count.
  virtual void try_to_unmap(phys::Folio& folio) = 0;
  virtual void try_to_unmap_flush() = 0;
  virtual void try_to_unmap_flush_dirty() = 0;
  // Locked and dirty: starts writing it.
  virtual Pageout pageout(phys::Folio& folio) = 0;
  // Locked, clean, unmapped: out of page cache or swap cache, a shadow in its place, if only the caller and the cache hold
  // it. Its reference count is 0 then.
  virtual bool remove_mapping(phys::Folio& folio) = 0;
  // The folio is in a page cache or the swap cache (folio_mapping() != NULL).
  [[nodiscard]] virtual bool has_mapping(const phys::Folio& folio) const = 0;
  virtual void wakeup_flusher_threads() = 0;
};

class VmFolioActions final : public FolioActions {
 public:
  VmFolioActions(vm::Vm& vm, file::Filemap& filemap, file::Writeback& writeback, swap::SwapSystem& swap)
      : vm_(vm), filemap_(filemap), writeback_(writeback), swap_(swap) {}

  vm::FolioReferenced folio_referenced(phys::Folio& folio) override;
  void try_to_unmap(phys::Folio& folio) override;
  void try_to_unmap_flush() override;
  void try_to_unmap_flush_dirty() override;
  Pageout pageout(phys::Folio& folio) override;
  bool remove_mapping(phys::Folio& folio) override;
  [[nodiscard]] bool has_mapping(const phys::Folio& folio) const override;
  void wakeup_flusher_threads() override;

 private:
  vm::Vm& vm_;
  file::Filemap& filemap_;
  file::Writeback& writeback_;
  swap::SwapSystem& swap_;
};

}  // namespace quire::reclaim
