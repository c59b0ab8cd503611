#include "quire/file/dentry.h"

#include <algorithm>

#include "quire/base/bug.h"

namespace quire::file {

DentryCache::DentryCache(slab::SlabSystem& slab)
    : slab_(slab), cache_(slab, "dentry", slab::SlabFlags::kReclaimAccount | slab::SlabFlags::kHwCacheAlign) {}

Dentry* DentryCache::d_alloc(std::string_view name) {
  Dentry* dentry = cache_.alloc(phys::Gfp::kKernelAccount);
  if (dentry == nullptr) return nullptr;
  dentry->name_at = dentry->d_iname.data();
  if (name.size() >= Dentry::kInlineLen) {
    dentry->name_at = static_cast<char*>(slab_.kmalloc(name.size(), phys::Gfp::kKernelAccount | phys::Gfp::kReclaimable));
    if (dentry->name_at == nullptr) {
      cache_.free(dentry);
      return nullptr;
    }
  }
  std::ranges::copy(name, dentry->name_at);
  dentry->len = static_cast<std::uint32_t>(name.size());
  return dentry;
}

void DentryCache::d_free(Dentry& dentry) {
  QUIRE_BUG_ON(dentry.d_hash.linked());
  if (dentry.name_at != dentry.d_iname.data()) slab_.kfree(dentry.name_at);
  cache_.free(&dentry);
}

}  // namespace quire::file
