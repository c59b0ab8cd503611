// The steps of describe(): each takes what the folder says and adds its part to the machine. Used by recorded.cc only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quire/like/boot_log.h"
#include "quire/like/proc_files.h"
#include "quire/like/recorded.h"

namespace quire::like {

// A folder, read.
struct Evidence {
  const Folder& folder;
  BootLog log;
  std::vector<ZoneFigures> zones;
  std::vector<NodeFigures> nodes;
  std::map<std::string, std::string> sysctl;
  Iomem iomem;
};
[[nodiscard]] Evidence read_evidence(const Folder& folder);

// recorded.cc: what kernel it was, and its map with the kernel's parameters.
[[nodiscard]] Checked<void> take_kernel(const Evidence& evidence, RecordedMachine& machine);
[[nodiscard]] Checked<void> take_map(const Evidence& evidence, RecordedMachine& machine);
// recorded_nodes.cc
[[nodiscard]] Checked<void> take_nodes(const Evidence& evidence, RecordedMachine& machine);
// recorded_reservations.cc
[[nodiscard]] Checked<void> take_reservations(const Evidence& evidence, RecordedMachine& machine);
void take_resources(const Evidence& evidence, RecordedMachine& machine);
// recorded_tunables.cc: boots the machine to see what Linux would compute.
[[nodiscard]] Checked<void> take_tunables(const Evidence& evidence, RecordedMachine& machine);

// The phys::ZoneType of a zone's name; nullopt: not one of a 64-bit machine.
[[nodiscard]] std::optional<unsigned> zone_type(std::string_view name);
// Its place in the file's lists of protection, and in lowmem_reserve_ratio: the zones that a 64-bit kernel has, in order.
[[nodiscard]] std::optional<std::size_t> protection_index(std::string_view name);

}  // namespace quire::like
