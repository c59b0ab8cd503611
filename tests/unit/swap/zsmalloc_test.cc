#include "swap_machine.h"

namespace quire::swap {
namespace {

constexpr phys::Gfp kGfp = phys::Gfp::kKernel;

TEST(Zsmalloc, ClassesWasteLittleAndGrow) {
  SwapMachine m;
  const auto made = ZsPool::create(*m.phys, m.slab, m.scheduler, m.scheduler.locks().lock_class("test"));
  ASSERT_TRUE(made.has_value());
  ZsPool& pool = **made;
  unsigned last = 0;
  for (std::size_t size = 1; size <= kPageSize; ++size) {
    const unsigned taken = pool.class_size(size);
    ASSERT_GE(taken, std::min<std::size_t>(size + kZsHandleSize, kPageSize));
    ASSERT_GE(taken, last);
    last = taken;
  }
  EXPECT_EQ(last, kPageSize);
  // 3264 + 1 - 8: where 6.1 with four pages a zspage stops packing.
  EXPECT_EQ(pool.huge_class_size(), 3257u);
}

TEST(Zsmalloc, ObjectsOfEverySizeKeepTheirBytes) {
  SwapMachine m;
  const auto made = ZsPool::create(*m.phys, m.slab, m.scheduler, m.scheduler.locks().lock_class("test"));
  ASSERT_TRUE(made.has_value());
  ZsPool& pool = **made;
  struct Kept {
    ZsHandle* handle;
    std::vector<std::byte> bytes;
  };
  std::vector<Kept> kept;
  Rng rng(3);
  for (int i = 0; i < 2000; ++i) {
    std::size_t size = 1 + rng.below(kPageSize);
    if (size >= pool.huge_class_size()) size = kPageSize;
    ZsHandle* handle = pool.zs_malloc(size, kGfp);
    ASSERT_NE(handle, nullptr);
    std::vector<std::byte> bytes(size);
    for (std::byte& b : bytes) b = static_cast<std::byte>(rng());
    pool.write(*handle, bytes);
    kept.push_back({handle, std::move(bytes)});
    if (rng.chance(1, 3)) {
      const std::size_t gone = rng.below(kept.size());
      pool.zs_free(*kept[gone].handle);
      std::swap(kept[gone], kept.back());
      kept.pop_back();
    }
  }
  pool.validate();
  for (const Kept& k : kept) {
    std::vector<std::byte> got(k.bytes.size());
    pool.read(*k.handle, got);
    ASSERT_EQ(got, k.bytes);
    pool.zs_free(*k.handle);
  }
  pool.validate();
  EXPECT_EQ(pool.total_pages(), 0u);
  EXPECT_EQ(pool.objects(), 0u);
}

TEST(Zsmalloc, NoMemoryLeavesNothingBehind) {
  SwapMachine m({.ram = 16 * kMiB});
  const auto made = ZsPool::create(*m.phys, m.slab, m.scheduler, m.scheduler.locks().lock_class("test"));
  ASSERT_TRUE(made.has_value());
  ZsPool& pool = **made;
  std::vector<ZsHandle*> handles;
  while (ZsHandle* handle = pool.zs_malloc(3000, phys::Gfp::kNoWait | phys::Gfp::kNoWarn)) handles.push_back(handle);
  pool.validate();
  EXPECT_EQ(pool.objects(), handles.size());
  for (ZsHandle* handle : handles) pool.zs_free(*handle);
  EXPECT_EQ(pool.total_pages(), 0u);
  m.phys->validate();
}

}  // namespace
}  // namespace quire::swap
