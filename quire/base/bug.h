// Broken invariants. QUIRE_BUG_ON is checked in every build and aborts with the place and the condition; QUIRE_DCHECK is
// for checks too dear for a release build. A user's mistake is never one of these: it is a Result with an errno, or a
// sentence.
#pragma once

#include <source_location>
#include <string_view>

namespace quire {

// Prints "quire: BUG at file:line function: what" to standard error and aborts.
[[noreturn, gnu::cold, gnu::noinline]] void bug(std::string_view what,
                                                std::source_location where = std::source_location::current());

}  // namespace quire

#define QUIRE_BUG_ON(condition) \
  do {                          \
    if (condition) [[unlikely]] \
      ::quire::bug(#condition); \
  } while (false)

#ifdef QUIRE_DEBUG
#define QUIRE_DCHECK(condition) QUIRE_BUG_ON(!(condition))
#else
#define QUIRE_DCHECK(condition) \
  do {                          \
    (void)sizeof(condition);    \
  } while (false)
#endif
