exec(open('/tmp/kv_edit1.py').read().split("K='quire")[0])
sub('tests/unit/kvirt/kvirt_machine.h',[("""  void validate() {
    space""","""  // What a call that failed, or was undone, leaves as it was: every page that is free, a slab's or a table's, and the objects in
  // use of each cache. Ranges of addresses melt together and one is kept in store, so their descriptions are not counted.
  struct Footprint {
    std::uint64_t pages = 0;
    std::uint64_t objects = 0;
    bool operator==(const Footprint&) const = default;
  };
  Footprint footprint() {
    static_cast<void>(vmalloc().areas().purge_vmap_area_lazy());
    Footprint now{.pages = free_pages() + space->init_mm().buddy_tables()};
    for (const slab::SlabInfo& cache : slab->slabinfo()) {
      now.pages += cache.num_slabs * cache.pagesperslab;
      if (cache.name != "vmap_area") now.objects += cache.objects_in_use;
    }
    return now;
  }
  void validate() {
    space""")])
p='tests/unit/kvirt/vmalloc_test.cc'
s=open(p).read()
i=s.index("// Each page allocation in turn fails once:")
s=s[:i]+"""// Each page and each object in turn cannot be had once: the caller gets nothing, nothing leaks, all structures hold.
TEST(Vmalloc, EveryAllocationFailingOnceIsSurvived) {
  constexpr std::uint64_t kBytes = kMiB + 600 * kPageSize;
  for (const phys::Arch arch : {phys::Arch::kX86_64, phys::Arch::kI386Pae}) {
    for (const sim::FaultPoint point : {sim::FaultPoint::kPageAlloc, sim::FaultPoint::kSlabAlloc}) {
      KvirtMachine m({.arch = arch});
      m.phys->set_fault_injection(&m.faults);
      m.slab->set_fault_injection(&m.faults);
      const KvirtMachine::Footprint before = m.footprint();
      bool finished = false;
      for (unsigned nth = 1; !finished; ++nth) {
        ASSERT_LT(nth, 3000u);
        const std::uint64_t failures = m.faults.failures(point);
        m.faults.set(point, {.nth = nth});
        void* p = m.vmalloc().vmalloc(kBytes, Gfp::kKernel | Gfp::kNoWarn);
        finished = m.faults.failures(point) == failures;
        m.faults.set(point, {});
        ASSERT_TRUE(!finished || p != nullptr);
        m.space->validate();
        m.vmalloc().vfree(p);
        m.validate();
        ASSERT_EQ(m.vmalloc().nr_vmalloc_pages(), 0u);
        const KvirtMachine::Footprint after = m.footprint();
        ASSERT_EQ(after.pages, before.pages) << "failure " << nth;
        ASSERT_EQ(after.objects, before.objects) << "failure " << nth;
      }
      m.phys->set_fault_injection(nullptr);
      m.slab->set_fault_injection(nullptr);
    }
  }
}

}  // namespace
}  // namespace quire::kvirt
"""
open(p,'w').write(s)
sub('tests/unit/kvirt/ioremap_test.cc',[("""    finished = false;
    for""","""    finished = false;
    const KvirtMachine::Footprint before = m.footprint();
    for"""),("""      ASSERT_EQ(io.memtype().count(), 0u);
      m.validate();
""","""      ASSERT_EQ(io.memtype().count(), 0u);
      m.validate();
      ASSERT_EQ(m.footprint(), before) << "failure " << nth;
""")])
sub('docs/fidelity.md',[("""| pages of a freed vmalloc area |""","""| vfree in an interrupt | put off to a work item by itself | a mistake; vfree_atomic puts it off to the next call here that may sleep |
| vunmap of an area that vmalloc made, vfree or vunmap of one that ioremap made | done: frames, or the memory type, are lost | refused with a line in the log |
| ioremap across several resources, or beyond the one a driver has (iomem_map_sanity_check) | a line in the log | nothing is said |
| a fatal signal while vmalloc takes its pages | gives up | goes on |
| `__GFP_NOFAIL` vmalloc for which there is no room | waits for ever | the same in a task; in boot context, where nothing else runs, a BUG after 16 tries |
| tables of vmalloc's mappings | GFP_KERNEL within the caller's noio or nofs scope | the request's own reclaim flags |
| ioremap of more than an eighth of what vmalloc can reach here | the lowest gap of the area | the lowest gap beyond that reach, so that vmalloc keeps its room |
| kmap_local of a HighMem page in an interrupt | the next slots of the interrupted CPU | a BUG |
| pages of a freed vmalloc area |"""),
("tables or on i386; `vm_map_ram`; `/proc","tables or on i386; `vm_map_ram`; `remap_vmalloc_range`; `/proc"),
("Each page allocation of a vmalloc failing once, in turn, leaves nothing behind (`unit_kvirt`).","Each allocation of a vmalloc and of an ioremap, of pages and of objects, failing once, in turn, leaves nothing behind\n  (`unit_kvirt`)."),
])
