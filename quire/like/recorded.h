// From a folder to the machine that it describes.
//
//   map        BIOS-e820 lines of the log; else memmap.txt; else the System RAM of iomem.txt
//   nodes      "Early memory node ranges" of the log; else ACPI's affinity table; else the spans of zoneinfo.txt
//   CPUs       nodes.txt; else zoneinfo.txt; else the log
//   reserved   the log's memblock lines, when they are whole and leave what zoneinfo.txt says; else, zone by zone, what makes
//              `managed` agree. What came free after Linux had computed its watermarks (initrd, init sections) is found in the
//              log, and where it lay from RAMDISK and the kernel's sections in iomem.txt
//   tunables   sysctl_vm.txt, where it differs from what Linux computes
//
// What had to be guessed stands in `notes`, a sentence each.
#pragma once

#include <string>
#include <vector>

#include "quire/base/user_error.h"
#include "quire/kernel/machine_config.h"
#include "quire/like/folder.h"

namespace quire::like {

struct RecordedMachine {
  kernel::MachineConfig config;
  std::vector<std::string> notes;
};

// The error says what the folder lacks, or why its machine is none that Quire can boot.
[[nodiscard]] Checked<RecordedMachine> describe(const Folder& folder);

}  // namespace quire::like
