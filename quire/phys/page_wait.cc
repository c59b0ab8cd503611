#include "quire/phys/page_wait.h"

#include "quire/phys/phys_mem.h"

namespace quire::phys {

namespace {

void wait_on_bit(PhysMem& mem, Folio& folio, PageFlag bit) {
  while (folio.test(bit)) {
    QUIRE_BUG_ON(mem.scheduler().current() == nullptr);  // nothing could ever clear it
    folio.set(PageFlag::kWaiters);
    mem.page_waits().wait_once(&folio);
  }
}

}  // namespace

void folio_lock(PhysMem& mem, Folio& folio) {
  while (!folio_trylock(folio)) wait_on_bit(mem, folio, PageFlag::kLocked);
}

void folio_unlock(PhysMem& mem, Folio& folio) {
  QUIRE_BUG_ON(!folio.test(PageFlag::kLocked));
  folio.clear(PageFlag::kLocked);
  if (folio.test(PageFlag::kWaiters)) folio_wake(mem, folio);
}

void folio_wait_locked(PhysMem& mem, Folio& folio) { wait_on_bit(mem, folio, PageFlag::kLocked); }

void folio_wait_locked_once(PhysMem& mem, Folio& folio) {
  if (!folio.test(PageFlag::kLocked)) return;
  folio.set(PageFlag::kWaiters);
  mem.page_waits().wait_once(&folio);
}

void folio_start_writeback(PhysMem&, Folio& folio) { QUIRE_BUG_ON(folio.test_and_set(PageFlag::kWriteback)); }

void folio_end_writeback(PhysMem& mem, Folio& folio) {
  QUIRE_BUG_ON(!folio.test_and_clear(PageFlag::kWriteback));
  if (folio.test(PageFlag::kWaiters)) folio_wake(mem, folio);
}

void folio_wait_writeback(PhysMem& mem, Folio& folio) { wait_on_bit(mem, folio, PageFlag::kWriteback); }

void folio_wake(PhysMem& mem, Folio& folio) {
  folio.clear(PageFlag::kWaiters);  // who still has to wait sets it again
  mem.page_waits().wake_all(&folio);
}

}  // namespace quire::phys
