// Waiting for a folio's lock and for its writeback (Linux's folio_lock, folio_wait_writeback and kin). Sleepers wait in
// PhysMem::page_waits() under the folio's address.
//
// The lock is the bit PageFlag::kLocked: it belongs to whoever set it, not to a task, so I/O completion may unlock it.
#pragma once

#include "quire/phys/folio.h"

namespace quire::phys {

class PhysMem;

// True when the lock was free and is now the caller's.
[[nodiscard]] inline bool folio_trylock(Folio& folio) { return !folio.test_and_set(PageFlag::kLocked); }
// Sleeps until the lock is the caller's. In boot context the lock must be free.
void folio_lock(PhysMem& mem, Folio& folio);
void folio_unlock(PhysMem& mem, Folio& folio);
// Sleeps until the folio is unlocked, without taking the lock.
void folio_wait_locked(PhysMem& mem, Folio& folio);
// The same, once: returns at the first unlock, whatever has become of the folio by then. Needs no reference.
void folio_wait_locked_once(PhysMem& mem, Folio& folio);

// The folio is being written: sets the bit (it must be clear; returns nothing) and counts NR_WRITEBACK is the caller's.
void folio_start_writeback(PhysMem& mem, Folio& folio);
void folio_end_writeback(PhysMem& mem, Folio& folio);
void folio_wait_writeback(PhysMem& mem, Folio& folio);
// Wakes whoever waits for any bit of the folio.
void folio_wake(PhysMem& mem, Folio& folio);

}  // namespace quire::phys
