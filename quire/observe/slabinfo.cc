// /proc/slabinfo and /proc/vmallocinfo.
#include <fmt/format.h>

#include <ranges>

#include "quire/observe/proc_text.h"

namespace quire::observe {

std::string slabinfo(kernel::Machine& machine) {
  std::string text =
      "slabinfo - version: 2.1\n"
      "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> "
      "<sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n";
  const std::vector<slab::SlabInfo> caches = machine.slab().slabinfo();
  for (const slab::SlabInfo& row : caches | std::views::reverse) {  // the kernel's list has the newest first
    text += fmt::format("{:<17} {:>6} {:>6} {:>6} {:>4} {:>4} : tunables {:>4} {:>4} {:>4} : slabdata {:>6} {:>6} {:>6}\n",
                        row.name, row.active_objs, row.num_objs, row.objsize, row.objperslab, row.pagesperslab, row.limit,
                        row.batchcount, row.sharedfactor, row.active_slabs, row.num_slabs, row.sharedavail);
  }
  return text;
}

std::string vmallocinfo(kernel::Machine& machine) { return machine.kernel_space().vmallocinfo(); }

}  // namespace quire::observe
