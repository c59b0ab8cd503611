// Names for return addresses of this program, for reports: function, file and line out of its debugging information, read by
// libdw when first asked for. Slow (a report's cost, not an allocation's) and host-side only: nothing of the machine.
#pragma once

#include <string>

namespace quire::slab {

// "do_anonymous_page (fault.cc:88)": the innermost function at the call that would return to `address`, functions that only
// pass an allocation on (kmalloc, KmemCache<T>::alloc) left out; if it is nothing but those, the same for `parent`. Without
// debugging information the symbol; without that "an unknown function".
[[nodiscard]] std::string call_site_name(const void* address, const void* parent = nullptr);

}  // namespace quire::slab
