#include "quire/base/bug.h"

#include <cstdio>
#include <cstdlib>

namespace quire {

void bug(std::string_view what, std::source_location where) {
  std::fprintf(stderr, "quire: BUG at %s:%u %s: %.*s\n", where.file_name(), static_cast<unsigned>(where.line()),
               where.function_name(), static_cast<int>(what.size()), what.data());
  std::fflush(stderr);
  std::abort();
}

}  // namespace quire
