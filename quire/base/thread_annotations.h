// Names for clang's thread-safety analysis, which checks at compile time that what a lock guards is touched only under
// that lock (`-Wthread-safety`; the attributes vanish for other compilers). The capabilities are the simulated locks of
// quire/sim:
//
//   sim::SpinLock lock_;
//   List<...> free_list_ QUIRE_GUARDED_BY(lock_);
//   void expand_locked() QUIRE_REQUIRES(lock_);
//
// Shared forms speak of readers of a RwSemaphore. These have to be macros: an attribute cannot be spelt otherwise.
#pragma once

#if defined(__clang__)
#define QUIRE_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define QUIRE_THREAD_ATTRIBUTE(x)
#endif

// On types.
#define QUIRE_CAPABILITY(kind) QUIRE_THREAD_ATTRIBUTE(capability(kind))
#define QUIRE_SCOPED_CAPABILITY QUIRE_THREAD_ATTRIBUTE(scoped_lockable)

// On data.
#define QUIRE_GUARDED_BY(lock) QUIRE_THREAD_ATTRIBUTE(guarded_by(lock))
#define QUIRE_PT_GUARDED_BY(lock) QUIRE_THREAD_ATTRIBUTE(pt_guarded_by(lock))
#define QUIRE_ACQUIRED_BEFORE(...) QUIRE_THREAD_ATTRIBUTE(acquired_before(__VA_ARGS__))
#define QUIRE_ACQUIRED_AFTER(...) QUIRE_THREAD_ATTRIBUTE(acquired_after(__VA_ARGS__))

// On functions: what the caller must hold, and what the function takes or gives back.
#define QUIRE_REQUIRES(...) QUIRE_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define QUIRE_REQUIRES_SHARED(...) QUIRE_THREAD_ATTRIBUTE(requires_shared_capability(__VA_ARGS__))
#define QUIRE_EXCLUDES(...) QUIRE_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define QUIRE_ACQUIRE(...) QUIRE_THREAD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define QUIRE_ACQUIRE_SHARED(...) QUIRE_THREAD_ATTRIBUTE(acquire_shared_capability(__VA_ARGS__))
#define QUIRE_RELEASE(...) QUIRE_THREAD_ATTRIBUTE(release_capability(__VA_ARGS__))
#define QUIRE_RELEASE_SHARED(...) QUIRE_THREAD_ATTRIBUTE(release_shared_capability(__VA_ARGS__))
#define QUIRE_RELEASE_GENERIC(...) QUIRE_THREAD_ATTRIBUTE(release_generic_capability(__VA_ARGS__))
#define QUIRE_TRY_ACQUIRE(...) QUIRE_THREAD_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
#define QUIRE_TRY_ACQUIRE_SHARED(...) QUIRE_THREAD_ATTRIBUTE(try_acquire_shared_capability(__VA_ARGS__))
#define QUIRE_ASSERT_HELD(...) QUIRE_THREAD_ATTRIBUTE(assert_capability(__VA_ARGS__))
#define QUIRE_ASSERT_HELD_SHARED(...) QUIRE_THREAD_ATTRIBUTE(assert_shared_capability(__VA_ARGS__))
#define QUIRE_RETURN_CAPABILITY(lock) QUIRE_THREAD_ATTRIBUTE(lock_returned(lock))

// On a function whose locking the analysis cannot follow (it depends on a run-time condition). Say why next to it.
#define QUIRE_NO_THREAD_SAFETY_ANALYSIS QUIRE_THREAD_ATTRIBUTE(no_thread_safety_analysis)
