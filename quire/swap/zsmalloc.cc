#include "quire/swap/zsmalloc.h"

#include <algorithm>
#include <cstring>

#include "quire/base/bug.h"

namespace quire::swap {

using phys::Gfp;
using phys::ZoneStat;

namespace {

// get_pages_per_zspage: the number of frames of which the least part is left over.
unsigned best_pages_per_zspage(unsigned size) {
  unsigned best = 1;
  unsigned best_use = 0;
  for (unsigned pages = 1; pages <= kZsMaxPagesPerZspage; ++pages) {
    const unsigned bytes = pages * static_cast<unsigned>(kPageSize);
    const unsigned use = (bytes - bytes % size) * 100 / bytes;
    if (use > best_use) {
      best_use = use;
      best = pages;
    }
  }
  return best;
}

}  // namespace

Result<std::unique_ptr<ZsPool>> ZsPool::create(phys::PhysMem& phys, slab::SlabSystem& slab, sim::Scheduler& scheduler,
                                               sim::LockClass& lock_class) {
  auto zspages = slab::KmemCache<Zspage>::create(slab, "zspage");
  if (!zspages) return fail(zspages.error());
  auto handles = slab::KmemCache<ZsHandle>::create(slab, "zs_handle");
  if (!handles) return fail(handles.error());
  auto pool = std::unique_ptr<ZsPool>(new ZsPool(phys, std::move(*zspages), std::move(*handles)));
  pool->make_classes(scheduler, lock_class);
  return pool;
}

ZsPool::~ZsPool() {
  for (auto& size_class : classes_) {
    for (ZspageList& list : size_class->fullness) {
      while (Zspage* zspage = list.pop_front()) free_zspage(*zspage);
    }
  }
}

void ZsPool::make_classes(sim::Scheduler& scheduler, sim::LockClass& lock_class) {
  // From the largest down, so that a class can be merged into the one above it.
  for (std::size_t i = class_of_size_.size(); i-- > 0;) {
    const auto size = static_cast<unsigned>(kZsMinAllocSize + i * kZsSizeClassDelta);
    const unsigned pages = best_pages_per_zspage(size);
    const unsigned objs = pages * static_cast<unsigned>(kPageSize) / size;
    SizeClass* above = classes_.empty() ? nullptr : classes_.back().get();
    if (above == nullptr || above->pages_per_zspage != pages || above->objs_per_zspage != objs) {
      classes_.push_back(std::make_unique<SizeClass>(scheduler, lock_class));
      above = classes_.back().get();
      above->index = static_cast<unsigned>(classes_.size() - 1);
      above->size = size;
      above->pages_per_zspage = pages;
      above->objs_per_zspage = objs;
    }
    // The smallest size that takes a whole frame, less the header that smaller ones have.
    if (above->huge()) huge_class_size_ = size - kZsSizeClassDelta + 1 - kZsHandleSize;
    class_of_size_[i] = above;
  }
}

// Which class an object of `stored` bytes, header included, goes to.
ZsPool::SizeClass& ZsPool::class_for(std::size_t stored) {
  const std::size_t over = stored > kZsMinAllocSize ? stored - kZsMinAllocSize : 0;
  const std::size_t index = (over + kZsSizeClassDelta - 1) / kZsSizeClassDelta;
  return *class_of_size_[std::min(index, class_of_size_.size() - 1)];
}

unsigned ZsPool::class_size(std::size_t size) const { return const_cast<ZsPool*>(this)->class_for(size + kZsHandleSize).size; }

ZsHandle* ZsPool::zs_malloc(std::size_t size, Gfp gfp) {
  QUIRE_BUG_ON(size == 0 || size > kPageSize);
  // Handles and descriptors are kernel objects: neither movable nor from high memory.
  const Gfp kernel_gfp = gfp & ~(Gfp::kHighmem | Gfp::kMovable);
  ZsHandle* handle = handle_cache_.alloc(kernel_gfp);
  if (handle == nullptr) return nullptr;
  SizeClass& size_class = class_for(size + kZsHandleSize);
  {
    sim::SpinGuard guard(size_class.lock);
    for (const Fullness group : {kAlmostFull, kAlmostEmpty, kEmpty}) {
      if (Zspage* zspage = size_class.fullness[group].front_or_null()) {
        obj_malloc(size_class, *zspage, *handle);
        return handle;
      }
    }
  }
  Zspage* zspage = alloc_zspage(size_class, gfp);
  if (zspage == nullptr) {
    handle_cache_.free(handle);
    return nullptr;
  }
  sim::SpinGuard guard(size_class.lock);
  size_class.fullness[kEmpty].push_front(*zspage);
  ++size_class.zspages;
  obj_malloc(size_class, *zspage, *handle);
  return handle;
}

void ZsPool::zs_free(ZsHandle& handle) {
  Zspage& zspage = handle.zspage();
  SizeClass& size_class = *classes_[zspage.class_index];
  bool empty = false;
  {
    sim::SpinGuard guard(size_class.lock);
    QUIRE_BUG_ON(!zspage.used().test_and_clear(handle.index()));
    --zspage.inuse;
    --size_class.objects;
    --objects_;
    empty = zspage.inuse == 0;
    if (empty) {
      size_class.fullness[zspage.fullness].erase(zspage);
      --size_class.zspages;
    } else {
      fix_fullness_group(size_class, zspage);
    }
  }
  if (empty) free_zspage(zspage);
  handle_cache_.free(&handle);
}

Zspage* ZsPool::alloc_zspage(SizeClass& size_class, Gfp gfp) {
  Zspage* zspage = zspage_cache_.alloc(gfp & ~(Gfp::kHighmem | Gfp::kMovable));
  if (zspage == nullptr) return nullptr;
  zspage->class_index = static_cast<std::uint16_t>(size_class.index);
  zspage->fullness = kEmpty;
  for (unsigned i = 0; i < size_class.pages_per_zspage; ++i) {
    phys::Page* page = phys_.alloc_page(gfp);
    if (page == nullptr) {
      free_zspage(*zspage);
      return nullptr;
    }
    zspage->pages[i] = page;
    phys_.page_zone(*page).stats.add(ZoneStat::kNrZspages);
    ++pages_allocated_;
  }
  return zspage;
}

void ZsPool::free_zspage(Zspage& zspage) {
  for (phys::Page* page : zspage.pages) {
    if (page == nullptr) continue;
    phys_.page_zone(*page).stats.sub(ZoneStat::kNrZspages);
    --pages_allocated_;
    phys_.free_page(*page);
  }
  zspage_cache_.free(&zspage);
}

void ZsPool::obj_malloc(SizeClass& size_class, Zspage& zspage, ZsHandle& handle) {
  const auto index = static_cast<unsigned>(zspage.used().find_next_zero(0));
  QUIRE_BUG_ON(index >= size_class.objs_per_zspage);
  zspage.used().set(index);
  ++zspage.inuse;
  ++size_class.objects;
  ++objects_;
  handle.set(zspage, index);
  fix_fullness_group(size_class, zspage);
}

ZsPool::Fullness ZsPool::fullness_of(const SizeClass& size_class, const Zspage& zspage) {
  if (zspage.inuse == 0) return kEmpty;
  if (zspage.inuse == size_class.objs_per_zspage) return kFull;
  return zspage.inuse <= 3u * size_class.objs_per_zspage / 4 ? kAlmostEmpty : kAlmostFull;
}

void ZsPool::fix_fullness_group(SizeClass& size_class, Zspage& zspage) {
  const Fullness now = fullness_of(size_class, zspage);
  if (now == zspage.fullness) return;
  size_class.fullness[zspage.fullness].erase(zspage);
  size_class.fullness[now].push_front(zspage);
  zspage.fullness = now;
}

// The object's stretch of bytes, a piece for each frame it lies in: copy(frame address, bytes done, bytes here).
template <class Copy>
void ZsPool::for_each_piece(const ZsHandle& handle, std::size_t bytes, Copy&& copy) const {
  const Zspage& zspage = handle.zspage();
  const SizeClass& size_class = *classes_[zspage.class_index];
  const std::size_t header = size_class.huge() ? 0 : kZsHandleSize;
  QUIRE_BUG_ON(header + bytes > size_class.size);
  std::size_t at = std::size_t{handle.index()} * size_class.size + header;
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t in_page = at % kPageSize;
    const std::size_t here = std::min(bytes - done, static_cast<std::size_t>(kPageSize) - in_page);
    copy(phys_.page_address(*zspage.pages[at / kPageSize]) + in_page, done, here);
    done += here;
    at += here;
  }
}

void ZsPool::write(const ZsHandle& handle, std::span<const std::byte> bytes) {
  for_each_piece(handle, bytes.size(),
                 [&](std::byte* to, std::size_t done, std::size_t here) { std::memcpy(to, bytes.data() + done, here); });
}

void ZsPool::read(const ZsHandle& handle, std::span<std::byte> bytes) const {
  for_each_piece(handle, bytes.size(), [&](const std::byte* from, std::size_t done, std::size_t here) {
    std::memcpy(bytes.data() + done, from, here);
  });
}

void ZsPool::validate() const {
  std::uint64_t pages = 0;
  std::uint64_t objects = 0;
  for (const auto& size_class : classes_) {
    std::uint64_t zspages = 0;
    std::uint64_t in_class = 0;
    for (unsigned group = 0; group < kFullnessGroups; ++group) {
      for (Zspage& zspage : size_class->fullness[group]) {
        ++zspages;
        in_class += zspage.inuse;
        QUIRE_BUG_ON(zspage.class_index != size_class->index || zspage.fullness != group);
        QUIRE_BUG_ON(zspage.inuse == 0 || fullness_of(*size_class, zspage) != group);
        QUIRE_BUG_ON(zspage.used().count() != zspage.inuse || zspage.inuse > size_class->objs_per_zspage);
        for (unsigned i = 0; i < kZsMaxPagesPerZspage; ++i) {
          QUIRE_BUG_ON((zspage.pages[i] != nullptr) != (i < size_class->pages_per_zspage));
        }
      }
    }
    QUIRE_BUG_ON(zspages != size_class->zspages || in_class != size_class->objects);
    pages += zspages * size_class->pages_per_zspage;
    objects += in_class;
  }
  QUIRE_BUG_ON(pages != pages_allocated_ || objects != objects_);
}

}  // namespace quire::swap
