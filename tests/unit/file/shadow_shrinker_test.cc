// The shrinker of shadow nodes against CPUs that refault into the very leaves it is about to take.
#include <gtest/gtest.h>

#include <set>

#include "file_machine.h"

namespace quire::file {
namespace {

using phys::Folio;
using phys::Gfp;

constexpr std::uint64_t kLeaves = 3000;  // more than an eighth of the machine's frames

// Caches a folio at `index` as a read does, without the disk.
bool add(FileMachine& m, AddressSpace& mapping, std::uint64_t index) {
  Filemap& filemap = m.vfs->filemap();
  Folio* folio = filemap.filemap_alloc_folio(Gfp::kKernel);
  if (folio == nullptr) return false;
  const bool added = filemap.filemap_add_folio(mapping, *folio, Pgoff(index), Gfp::kKernel).has_value();
  if (added) {
    phys::folio_set_uptodate(*folio);
    phys::folio_unlock(*m.phys, *folio);
  }
  filemap.folio_put(*folio);
  return added;
}

TEST(ShadowShrinker, TakesNoFolioThatComesBackWhileItChooses) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    FileMachine m({.ram = 24 * kMiB, .cpus = 3, .seed = seed, .preempt_permille = 300});
    File& file = m.create("f", std::make_unique<GeneratedBacking>(kLeaves * 64 * kPageSize, 1));
    AddressSpace& mapping = file.mapping();
    const lru::ShadowNodes& shadows = m.vfs->filemap().shadow_nodes();
    m.run([&] {
      for (std::uint64_t leaf = 0; leaf < kLeaves; ++leaf) {
        ASSERT_TRUE(add(m, mapping, leaf * 64));
        ASSERT_TRUE(m.reclaim(mapping, leaf * 64));
      }
    });
    ASSERT_EQ(shadows.nodes(Nid(0)), kLeaves);
    std::set<std::uint64_t> back;
    bool over = false;
    m.scheduler.spawn("shrinker", [&] {
      while (m.slab.shrinkers().shrink_slab(Gfp::kKernel, Nid(0), 0).freed != 0) {}
      over = true;
    });
    for (int cpu = 0; cpu < 2; ++cpu) {
      m.scheduler.spawn("reader", [&] {
        while (!over) {
          // The oldest leaf is about the one that the shrinker is at.
          const std::uint64_t leaf = kLeaves - shadows.nodes(Nid(0)) + m.scheduler.rng().below(2);
          if (leaf < kLeaves && add(m, mapping, leaf * 64 + 1)) back.insert(leaf * 64 + 1);
          m.scheduler.charge(100);
          m.scheduler.sync_point();
        }
      });
    }
    m.scheduler.run();
    EXPECT_GT(back.size(), 10u);
    for (const std::uint64_t index : back) ASSERT_TRUE(m.cached(file, index)) << index << " with seed " << seed;
    m.validate();
    m.vfs->fput(file);
  }
}

}  // namespace
}  // namespace quire::file
