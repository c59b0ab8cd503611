// /proc/PID/status: names, order and spacing as Linux 6.1 (fs/proc/array.c, Documentation/filesystems/proc.rst).
//
// What the machine does not have shows as on a kernel where it is idle: no signals but SIGKILL, no groups, no tracer, no
// seccomp, every capability but CAP_IPC_LOCK, which an address space may be without. Process groups and sessions are those of
// the process that the owner of the machine made.
//
// A snapshot; takes no lock, as Linux reads these counters without mmap_lock.
#pragma once

#include <string>

#include "quire/kernel/machine.h"

namespace quire::observe {

// Of a process that has not been reaped; one that has no memory any more shows no Vm lines.
[[nodiscard]] std::string status(kernel::Machine& machine, const kernel::Process& process);

}  // namespace quire::observe
