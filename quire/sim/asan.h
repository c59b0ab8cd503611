// What AddressSanitizer has to be told about stacks that are not the thread's; nothing in other builds.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define QUIRE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QUIRE_ASAN 1
#endif
#endif

#ifdef QUIRE_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace quire::sim {

#ifdef QUIRE_ASAN
inline constexpr bool kAsan = true;
inline void asan_start_switch(void** fake_stack, const void* bottom, std::size_t size) {
  __sanitizer_start_switch_fiber(fake_stack, bottom, size);
}
inline void asan_finish_switch(void* fake_stack, const void** old_bottom, std::size_t* old_size) {
  __sanitizer_finish_switch_fiber(fake_stack, old_bottom, old_size);
}
inline void asan_unpoison(const void* bottom, std::size_t size) { __asan_unpoison_memory_region(bottom, size); }
#else
inline constexpr bool kAsan = false;
inline void asan_start_switch(void**, const void*, std::size_t) {}
inline void asan_finish_switch(void*, const void**, std::size_t*) {}
inline void asan_unpoison(const void*, std::size_t) {}
#endif

}  // namespace quire::sim
