// The allocators that the slab benchmarks compare: kmem_cache and kmalloc of a machine, and glibc's malloc, jemalloc,
// mimalloc and tcmalloc beside them in the same process.
//
// Each is a class with alloc(), free(), usable() (bytes that the block really has), give_back() (returns what is free to
// whoever the memory came from) and resident() (bytes held at the moment). The peers are linked behind libc, so the
// program's own malloc stays glibc's; they are called through pointers that their libraries are asked for by name.
#pragma once

#include <dlfcn.h>
#include <gperftools/malloc_extension_c.h>
#include <malloc.h>
#include <mimalloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "quire/phys/phys_mem.h"
#include "quire/sim/scheduler.h"
#include "quire/slab/slab_system.h"

namespace quire::bench {

// A machine of its own for each cache or kmalloc measured.
struct SlabMachine {
  explicit SlabMachine(slab::SlabLayoutKind layout = slab::SlabLayoutKind::kSlab) : scheduler({}, {}, traces) {
    phys::PhysConfig config;
    config.ram_bytes = 2 * kGiB;
    auto booted = phys::PhysMem::boot(config, scheduler, traces);
    if (!booted) throw std::runtime_error(booted.error().message);
    phys = std::move(*booted);
    slab::SlabConfig slab_config;
    slab_config.layout = layout;
    slab = std::make_unique<slab::SlabSystem>(*phys, scheduler, slab_config);
    at_boot = held();
  }
  [[nodiscard]] std::uint64_t held() const {
    const auto pages = phys->global_node_page_state(phys::NodeStat::kNrSlabUnreclaimable) +
                       phys->global_node_page_state(phys::NodeStat::kNrSlabReclaimable);
    return (static_cast<std::uint64_t>(pages) + slab->percpu_pages()) * kPageSize;
  }

  TraceRegistry traces;
  sim::Scheduler scheduler;
  std::unique_ptr<phys::PhysMem> phys;
  std::unique_ptr<slab::SlabSystem> slab;
  std::uint64_t at_boot = 0;
};

template <slab::SlabLayoutKind kLayout>
class KmemCacheOf {
 public:
  explicit KmemCacheOf(std::size_t size)
      : cache_(machine_.slab->kmem_cache_create("bench", size, 0, slab::SlabFlags::kHwCacheAlign).value()) {}
  void* alloc(std::size_t) { return cache_->alloc(phys::Gfp::kKernel); }
  void free(void* p) { cache_->free(p); }
  std::size_t usable(void*) { return cache_->geometry().size; }
  void give_back() { machine_.slab->cache_reap(slab::SlabSystem::ReapMode::kAll); }
  std::uint64_t resident() { return machine_.held() - machine_.at_boot; }

 private:
  SlabMachine machine_{kLayout};
  slab::KmemCacheBase* cache_;
};

template <slab::SlabLayoutKind kLayout>
class Kmalloc {
 public:
  explicit Kmalloc(std::size_t) {}
  void* alloc(std::size_t size) { return machine_.slab->kmalloc(size, phys::Gfp::kKernel); }
  void free(void* p) { machine_.slab->kfree(p); }
  std::size_t usable(void* p) { return machine_.slab->ksize(p); }
  void give_back() { machine_.slab->cache_reap(slab::SlabSystem::ReapMode::kAll); }
  std::uint64_t resident() { return machine_.held() - machine_.at_boot; }

 private:
  SlabMachine machine_{kLayout};
};

// What a peer holds is what the process holds beyond what it held before: so measure a peer in a child of its own.
class Peer {
 public:
  std::uint64_t resident() {
    const std::uint64_t now = process_bytes();
    return now > before_ ? now - before_ : 0;
  }

 protected:
  // A function of an installed library; a benchmark without its peer says so at once.
  static void* find(const char* library, const char* function) {
    void* handle = ::dlopen(library, RTLD_NOW | RTLD_NOLOAD);
    void* found = handle == nullptr ? nullptr : ::dlsym(handle, function);
    if (found == nullptr) throw std::runtime_error(std::string(library) + " has no " + function);
    return found;
  }

 private:
  static std::uint64_t process_bytes() {
    unsigned long size = 0;
    unsigned long pages = 0;
    unsigned long shared = 0;
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    if (file == nullptr || std::fscanf(file, "%lu %lu %lu", &size, &pages, &shared) != 3) {
      throw std::runtime_error("/proc/self/statm cannot be read");
    }
    std::fclose(file);
    return (pages - shared) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  }
  std::uint64_t before_ = process_bytes();
};

class Glibc : public Peer {
 public:
  explicit Glibc(std::size_t) {}
  void* alloc(std::size_t size) { return malloc_(size); }
  void free(void* p) { free_(p); }
  std::size_t usable(void* p) { return ::malloc_usable_size(p); }
  void give_back() { ::malloc_trim(0); }

 private:
  void* (*malloc_)(std::size_t) = reinterpret_cast<void* (*)(std::size_t)>(find("libc.so.6", "malloc"));
  void (*free_)(void*) = reinterpret_cast<void (*)(void*)>(find("libc.so.6", "free"));
};

class Jemalloc : public Peer {
 public:
  explicit Jemalloc(std::size_t) {}
  void* alloc(std::size_t size) { return malloc_(size); }
  void free(void* p) { free_(p); }
  std::size_t usable(void* p) { return usable_(p); }
  void give_back() {
    control_("thread.tcache.flush", nullptr, nullptr, nullptr, 0);
    control_("arena.4096.purge", nullptr, nullptr, nullptr, 0);  // MALLCTL_ARENAS_ALL
  }

 private:
  static constexpr const char* kLibrary = "libjemalloc.so.2";
  void* (*malloc_)(std::size_t) = reinterpret_cast<void* (*)(std::size_t)>(find(kLibrary, "malloc"));
  void (*free_)(void*) = reinterpret_cast<void (*)(void*)>(find(kLibrary, "free"));
  std::size_t (*usable_)(void*) = reinterpret_cast<std::size_t (*)(void*)>(find(kLibrary, "malloc_usable_size"));
  int (*control_)(const char*, void*, std::size_t*, void*, std::size_t) =
      reinterpret_cast<int (*)(const char*, void*, std::size_t*, void*, std::size_t)>(find(kLibrary, "mallctl"));
};

class Mimalloc : public Peer {
 public:
  explicit Mimalloc(std::size_t) {}
  void* alloc(std::size_t size) { return malloc_(size); }
  void free(void* p) { free_(p); }
  std::size_t usable(void* p) { return ::mi_usable_size(p); }
  void give_back() { ::mi_collect(true); }

 private:
  void* (*malloc_)(std::size_t) = reinterpret_cast<void* (*)(std::size_t)>(find("libmimalloc.so.2", "mi_malloc"));
  void (*free_)(void*) = reinterpret_cast<void (*)(void*)>(find("libmimalloc.so.2", "mi_free"));
};

class Tcmalloc : public Peer {
 public:
  explicit Tcmalloc(std::size_t) {}
  void* alloc(std::size_t size) { return malloc_(size); }
  void free(void* p) { free_(p); }
  std::size_t usable(void* p) { return usable_(p); }
  void give_back() {
    ::MallocExtension_MarkThreadIdle();
    ::MallocExtension_ReleaseFreeMemory();
  }

 private:
  static constexpr const char* kLibrary = "libtcmalloc_minimal.so.4";
  void* (*malloc_)(std::size_t) = reinterpret_cast<void* (*)(std::size_t)>(find(kLibrary, "tc_malloc"));
  void (*free_)(void*) = reinterpret_cast<void (*)(void*)>(find(kLibrary, "tc_free"));
  std::size_t (*usable_)(void*) = reinterpret_cast<std::size_t (*)(void*)>(find(kLibrary, "tc_malloc_size"));
};

}  // namespace quire::bench
