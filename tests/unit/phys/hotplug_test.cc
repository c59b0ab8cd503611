// Memory that comes and goes. The figures are those of booted Debian 12 guests (6.1.0-56-cloud-amd64, QEMU 7.2) whose
// memory blocks were brought online and offline through sysfs, with the module plugged in before boot:
//   -m 512M,slots=2,maxmem=2G -object memory-backend-ram,id=m1,size=512M -device pc-dimm,id=d1,memdev=m1
#include <functional>

#include "fake_mover.h"
#include "machine.h"
#include "quire/phys/device_memory.h"
#include "quire/phys/memory_hotplug.h"
#include "snapshot.h"

namespace quire::phys {
namespace {

constexpr std::uint64_t kBlock = 128 * kMiB;
constexpr PhysAddr block_start(std::uint64_t id) { return PhysAddr(id * kBlock); }

struct ZoneFigures {
  int node;
  ZoneType zone;
  std::uint64_t start_pfn, spanned, present, managed, min, low, high;
  std::array<std::int64_t, 5> protection;
  int pcp_high, pcp_batch;
};

// Every zone that is spanned has these figures, and no other zone is spanned.
void expect_zones(PhysMem& mem, const std::vector<ZoneFigures>& expected, int line) {
  SCOPED_TRACE("line " + std::to_string(line));
  std::size_t spanned = 0;
  for (const auto& node : mem.nodes()) {
    node->for_each_zone([&](const Zone& zone) { spanned += zone.spanned_pages() != 0 ? 1 : 0; });
  }
  EXPECT_EQ(spanned, expected.size());
  for (const ZoneFigures& e : expected) {
    const Zone& zone = mem.node(Nid(e.node)).zone(e.zone);
    SCOPED_TRACE(std::string(zone.name()) + " of node " + std::to_string(e.node));
    EXPECT_EQ(zone.start_pfn().value(), e.start_pfn);
    EXPECT_EQ(zone.spanned_pages(), e.spanned);
    EXPECT_EQ(zone.present_pages(), e.present);
    EXPECT_EQ(zone.managed_pages(), e.managed);
    EXPECT_EQ(zone.watermark(Watermark::kMin), e.min);
    EXPECT_EQ(zone.watermark(Watermark::kLow), e.low);
    EXPECT_EQ(zone.watermark(Watermark::kHigh), e.high);
    std::size_t i = 0;
    mem.for_each_zone_type([&](ZoneType type) { EXPECT_EQ(zone.lowmem_reserve(type), e.protection[i++]) << zone_name(type); });
    if (e.present == 0) continue;
    EXPECT_EQ(zone.pcp(0).high, e.pcp_high);
    EXPECT_EQ(zone.pcp(0).batch, e.pcp_batch);
  }
  mem.validate();
}

struct HotplugTest : ::testing::Test {
  explicit HotplugTest(const PhysConfig& config = plug_config()) : machine(config), mem(*machine.mem), hotplug(mem.hotplug()) {}
  static PhysConfig plug_config() {
    PhysConfig config = small_machine(512);
    config.max_ram_bytes = 2 * kGiB;
    config.memory_slots = 2;
    config.zone_managed = {{Nid(0), 0, 3840, 3840}, {Nid(0), 1, 97189, 99655}};
    return config;
  }
  Zone& zone(ZoneType type, int nid = 0) { return mem.node(Nid(nid)).zone(type); }

  TestMachine machine;
  PhysMem& mem;
  MemoryHotplug& hotplug;
};

constexpr auto kDma = ZoneType::kDma;
constexpr auto kDma32 = ZoneType::kDma32;
constexpr auto kNormal = ZoneType::kNormal;
constexpr auto kMovable = ZoneType::kMovable;

TEST_F(HotplugTest, ZonesFollowAsInAGuest) {
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), 4 * kBlock));
  EXPECT_EQ(hotplug.memory_block_size(), kBlock);
  EXPECT_EQ(hotplug.valid_zones(0), "none");
  EXPECT_EQ(hotplug.valid_zones(1), "DMA32");
  EXPECT_EQ(hotplug.valid_zones(33), "Normal Movable");
  EXPECT_NE(mem.iomem().text().find("100000000-11fffffff : System RAM\n200000000-27fffffff : PCI Bus 0000:00\n"),
            std::string::npos)
      << mem.iomem().text();
  expect_zones(mem,
               {{0, kDma, 1, 4095, 3998, 3840, 24, 30, 36, {0, 379, 379, 379, 379}, 30, 1},
                {0, kDma32, 4096, 126944, 126944, 99655, 610, 762, 914, {0, 0, 0, 0, 0}, 762, 31}},
               __LINE__);

  ASSERT_TRUE(hotplug.online(block_start(33), kBlock, OnlineType::kMovable));
  EXPECT_EQ(hotplug.valid_zones(33), "Movable");
  EXPECT_EQ(hotplug.valid_zones(34), "Normal Movable");
  EXPECT_EQ(mem.min_free_kbytes(), 2561u);
  expect_zones(mem,
               {{0, kDma, 1, 4095, 3998, 3840, 18, 22, 26, {0, 389, 389, 517, 517}, 22, 1},
                {0, kDma32, 4096, 126944, 126944, 99655, 468, 585, 702, {0, 0, 0, 128, 128}, 585, 31},
                {0, kMovable, 1081344, 32768, 32768, 32768, 153, 191, 229, {0, 0, 0, 0, 0}, 191, 7}},
               __LINE__);

  ASSERT_TRUE(hotplug.online(block_start(32), kBlock, OnlineType::kKernel));
  EXPECT_EQ(mem.min_free_kbytes(), 2945u);
  expect_zones(mem,
               {{0, kDma, 1, 4095, 3998, 3840, 16, 20, 24, {0, 389, 517, 645, 645}, 20, 1},
                {0, kDma32, 4096, 126944, 126944, 99655, 433, 541, 649, {0, 0, 128, 256, 256}, 541, 31},
                {0, kNormal, 1048576, 32768, 32768, 32768, 142, 177, 212, {0, 0, 0, 1024, 1024}, 177, 7},
                {0, kMovable, 1081344, 32768, 32768, 32768, 142, 177, 212, {0, 0, 0, 0, 0}, 177, 7}},
               __LINE__);

  ASSERT_TRUE(hotplug.online(block_start(34), kBlock));
  EXPECT_EQ(hotplug.valid_zones(34), "Normal");
  ASSERT_TRUE(hotplug.online(block_start(35), kBlock, OnlineType::kKernel));
  expect_zones(mem,
               {{0, kDma, 1, 4095, 3998, 3840, 14, 17, 20, {0, 389, 773, 901, 901}, 17, 1},
                {0, kDma32, 4096, 126944, 126944, 99655, 380, 479, 578, {0, 0, 384, 512, 512}, 479, 31},
                {0, kNormal, 1048576, 131072, 98304, 98304, 375, 473, 571, {0, 0, 0, 1024, 1024}, 473, 31},
                {0, kMovable, 1081344, 32768, 32768, 32768, 125, 157, 189, {0, 0, 0, 0, 0}, 157, 7}},
               __LINE__);

  ASSERT_TRUE(hotplug.offline(block_start(33), kBlock));
  const std::vector<ZoneFigures> three = {
      {0, kDma, 1, 4095, 3998, 3840, 17, 21, 25, {0, 389, 773, 773, 773}, 21, 1},
      {0, kDma32, 4096, 126944, 126944, 99655, 441, 551, 661, {0, 0, 384, 384, 384}, 551, 31},
      {0, kNormal, 1048576, 131072, 98304, 98304, 435, 543, 651, {0, 0, 0, 0, 0}, 543, 31}};
  expect_zones(mem, three, __LINE__);

  // There a slab page stood in the way.
  const Range<Pfn> slab{Pfn(0x10000b), Pfn(0x10000c)};
  ASSERT_TRUE(mem.alloc_contig_range(slab, MigrateType::kMovable, Gfp::kNoWait));
  EXPECT_EQ(hotplug.offline(block_start(32), kBlock).error(), Errno::kBusy);
  EXPECT_NE(hotplug.reason().find("pfn:0x10000b"), std::string::npos) << hotplug.reason();
  EXPECT_NE(hotplug.reason().find("page dumped because: unmovable page"), std::string::npos) << hotplug.reason();
  expect_zones(mem, three, __LINE__);

  ASSERT_TRUE(hotplug.offline(block_start(34), kBlock));
  expect_zones(mem,
               {{0, kDma, 1, 4095, 3998, 3840, 18, 22, 26, {0, 389, 645, 645, 645}, 22, 1},
                {0, kDma32, 4096, 126944, 126944, 99655, 482, 602, 722, {0, 0, 256, 256, 256}, 602, 31},
                {0, kNormal, 1048576, 131072, 65536, 65536, 317, 396, 475, {0, 0, 0, 0, 0}, 396, 15}},
               __LINE__);
  ASSERT_TRUE(hotplug.offline(block_start(35), kBlock));
  expect_zones(mem,
               {{0, kDma, 1, 4095, 3998, 3840, 20, 25, 30, {0, 389, 517, 517, 517}, 25, 1},
                {0, kDma32, 4096, 126944, 126944, 99655, 536, 670, 804, {0, 0, 128, 128, 128}, 670, 31},
                {0, kNormal, 1048576, 32768, 32768, 32768, 176, 220, 264, {0, 0, 0, 0, 0}, 220, 7}},
               __LINE__);
  mem.free_contig_range(slab);
}

// Blocks of the largest order in ascending order, at the tail of the list.
TEST_F(HotplugTest, OnlinePagesComeAscendingAtTheTail) {
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), kBlock));
  const std::uint64_t free = mem.meminfo().freeram;
  ASSERT_TRUE(hotplug.online(block_start(32), kBlock));
  EXPECT_EQ(mem.meminfo().freeram, free + 32768);
  Pfn expected(0x100000);
  for (const Page& page : zone(kNormal).free_area(kMaxOrder).list(MigrateType::kMovable)) {
    EXPECT_EQ(mem.page_to_pfn(page), expected);
    expected += kMaxOrder.pages();
  }
  EXPECT_EQ(expected, Pfn(0x108000));
  EXPECT_EQ(mem.max_pfn(), Pfn(0x108000));
  Page* page = mem.alloc_pages(Gfp::kKernel & ~Gfp::kDirectReclaim, Order(0));
  EXPECT_EQ(&mem.page_zone(*page), &zone(kNormal)) << "the zonelist knows the zone";
  std::memset(mem.page_address(*page), 7, kPageSize);
  mem.free_page(*page);
}

// Added, used, emptied by moving what is in use, removed: what is left is what was there before.
TEST_F(HotplugTest, TheWholeWayAndBack) {
  FakeMover mover(mem);
  const std::string before = snapshot(mem);
  const std::uint64_t free = mem.meminfo().freeram;
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), 2 * kBlock));
  mem.drain_all_pages();
  EXPECT_EQ(mem.meminfo().freeram, free - 2 * 512 - 1) << "struct Pages of two sections and their pageblock flags";
  ASSERT_TRUE(hotplug.online(block_start(32), 2 * kBlock, OnlineType::kMovable));
  for (std::uint64_t i = 0; i < 20000; ++i) ASSERT_TRUE(mover.add(i));
  EXPECT_EQ(zone(kMovable).present_pages(), 65536u);
  ASSERT_GT(mover.pages().rbegin()->first, Pfn(0x100000)) << "movable pages use the movable zone";
  ASSERT_TRUE(hotplug.offline(block_start(32), 2 * kBlock));
  EXPECT_TRUE(mover.intact());
  EXPECT_LT(mover.pages().rbegin()->first, Pfn(0x100000));
  EXPECT_EQ(mover.pages().size(), 20000u);
  mem.validate();
  EXPECT_EQ(hotplug.remove_memory(block_start(32), 3 * kBlock).error(), Errno::kInval);
  ASSERT_TRUE(hotplug.remove_memory(block_start(32), 2 * kBlock));
  EXPECT_FALSE(mem.pfn_valid(Pfn(0x100000)));
  mover.clear();
  mem.drain_all_pages();
  EXPECT_EQ(mem.meminfo().freeram, free);
  EXPECT_EQ(mem.iomem().text(), before.substr(before.find("00000000-"), mem.iomem().text().size()));
  mem.validate();
}

// Two modules, added one by one and removed together.
TEST_F(HotplugTest, RemovingMayCoverSeveralAdds) {
  const std::string before = mem.iomem().text();
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(33), kBlock));
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), kBlock));
  EXPECT_NE(mem.iomem().text().find("100000000-107ffffff : System RAM\n108000000-10fffffff : System RAM\n"), std::string::npos);
  ASSERT_TRUE(hotplug.online(block_start(32), 2 * kBlock));
  ASSERT_TRUE(hotplug.offline_and_remove_memory(block_start(32), 2 * kBlock));
  EXPECT_EQ(mem.iomem().text(), before);
  mem.validate();
}

TEST_F(HotplugTest, APinnedPageKeepsItsBlockOnline) {
  FakeMover mover(mem);
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), kBlock));
  ASSERT_TRUE(hotplug.online(block_start(32), kBlock, OnlineType::kMovable));
  for (std::uint64_t i = 0; i < 1000; ++i) ASSERT_TRUE(mover.add(i));
  mover.pin(mover.pages().rbegin()->first);
  ASSERT_GE(mover.pages().rbegin()->first, Pfn(0x100000));
  EXPECT_EQ(hotplug.offline(block_start(32), kBlock).error(), Errno::kBusy);
  EXPECT_EQ(hotplug.blocks().at(32).state, MemoryState::kOnline);
  EXPECT_EQ(zone(kMovable).nr_isolate_pageblock(), 0u);
  EXPECT_EQ(zone(kMovable).managed_pages(), 32768u);
  EXPECT_TRUE(mover.intact());
  mem.validate();
  EXPECT_EQ(hotplug.remove_memory(block_start(32), kBlock).error(), Errno::kBusy);
  mover.unpin(mover.pages().rbegin()->first);
  ASSERT_TRUE(hotplug.offline_and_remove_memory(block_start(32), kBlock));
  mover.clear();
  mem.validate();
}

TEST_F(HotplugTest, BadRangesGetLinuxsErrnoAndChangeNothing) {
  const std::string before = snapshot(mem);
  EXPECT_EQ(hotplug.add_memory(Nid(0), block_start(32), kBlock / 2).error(), Errno::kInval);
  EXPECT_EQ(hotplug.add_memory(Nid(0), block_start(32) + kMiB, kBlock).error(), Errno::kInval);
  EXPECT_EQ(hotplug.add_memory(Nid(0), block_start(32), 0).error(), Errno::kInval);
  EXPECT_EQ(hotplug.add_memory(Nid(1), block_start(32), kBlock).error(), Errno::kInval);
  EXPECT_EQ(hotplug.add_memory(Nid(-1), block_start(32), kBlock).error(), Errno::kInval);
  EXPECT_EQ(hotplug.add_memory(Nid(0), block_start(1), kBlock).error(), Errno::kExist);
  EXPECT_EQ(hotplug.add_memory(Nid(0), PhysAddr(8 * kGiB), kBlock).error(), Errno::kTooBig);
  EXPECT_EQ(hotplug.online(block_start(1), kBlock).error(), Errno::kInval) << "it is online";
  EXPECT_EQ(hotplug.online(block_start(32), kBlock).error(), Errno::kInval) << "there is none";
  EXPECT_EQ(hotplug.offline(block_start(0), kBlock).error(), Errno::kInval) << "two zones";
  EXPECT_EQ(hotplug.offline(block_start(3), kBlock).error(), Errno::kInval);
  EXPECT_EQ(hotplug.reason(), "memory holes");
  EXPECT_EQ(hotplug.remove_memory(block_start(1), kBlock).error(), Errno::kBusy);
  EXPECT_EQ(snapshot(mem), before);
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), kBlock));
  EXPECT_EQ(hotplug.add_memory(Nid(0), block_start(32), 2 * kBlock).error(), Errno::kExist);
  EXPECT_EQ(hotplug.offline(block_start(32), kBlock).error(), Errno::kInval) << "it is offline";
  ASSERT_TRUE(hotplug.remove_memory(block_start(32), kBlock));
}

// RAM of boot goes offline and comes back; it stays.
TEST_F(HotplugTest, RamOfBootGoesOfflineAndBack) {
  const std::uint64_t managed = zone(kDma32).managed_pages();
  // (The test's zone_managed reserves low memory first, and boot the top: blocks 1 or 2 are free.)
  const std::uint64_t id = hotplug.offline(block_start(2), kBlock) ? 2 : 1;
  if (id == 1) {
    ASSERT_TRUE(hotplug.offline(block_start(1), kBlock)) << hotplug.reason();
  }
  EXPECT_EQ(zone(kDma32).managed_pages(), managed - 32768);
  EXPECT_EQ(zone(kDma32).spanned_pages(), 126944u);
  EXPECT_EQ(hotplug.valid_zones(id), "DMA32 Movable");
  mem.validate();
  EXPECT_EQ(hotplug.remove_memory(block_start(id), kBlock).error(), Errno::kInval);
  ASSERT_TRUE(hotplug.online(block_start(id), kBlock));
  EXPECT_EQ(zone(kDma32).managed_pages(), managed);
  mem.validate();
}

struct Recorder final : HotplugListener {
  Status going_online(const MemoryNotify& what) override {
    log += "going_online ";
    change = what.status_change_nid;
    return refuse ? Status(fail(Errno::kIo)) : Status();
  }
  Status going_offline(const MemoryNotify& what) override {
    log += "going_offline ";
    change = what.status_change_nid;
    return refuse ? Status(fail(Errno::kIo)) : Status();
  }
  void online(const MemoryNotify&) override { log += "online "; }
  void offline(const MemoryNotify&) override { log += "offline "; }
  void cancel_online(const MemoryNotify&) override { log += "cancel_online "; }
  void cancel_offline(const MemoryNotify&) override { log += "cancel_offline "; }
  std::string log;
  Nid change{};
  bool refuse = false;
};

TEST_F(HotplugTest, ListenersHearEveryStepAndMayRefuse) {
  Recorder first;
  Recorder second;
  hotplug.add_listener(first);
  hotplug.add_listener(second);
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), kBlock));
  const std::string added = snapshot(mem);
  second.refuse = true;
  EXPECT_EQ(hotplug.online(block_start(32), kBlock).error(), Errno::kIo);
  EXPECT_EQ(first.log, "going_online cancel_online ");
  EXPECT_EQ(second.log, "going_online ");
  EXPECT_EQ(snapshot(mem), added);
  second.refuse = false;
  ASSERT_TRUE(hotplug.online(block_start(32), kBlock));
  EXPECT_EQ(first.change, kNoNode);
  const std::string online = snapshot(mem);
  second.refuse = true;
  first.log.clear();
  EXPECT_EQ(hotplug.offline(block_start(32), kBlock).error(), Errno::kIo);
  EXPECT_EQ(hotplug.reason(), "notifier failure");
  EXPECT_EQ(first.log, "going_offline cancel_offline ");
  EXPECT_EQ(snapshot(mem), online);
  second.refuse = false;
  first.log.clear();
  ASSERT_TRUE(hotplug.offline(block_start(32), kBlock));
  EXPECT_EQ(first.log, "going_offline offline ");
  hotplug.remove_listener(first);
  hotplug.remove_listener(second);
  ASSERT_TRUE(hotplug.online(block_start(32), kBlock));
  EXPECT_EQ(first.log, "going_offline offline ");
}

// Whatever step fails, the machine is as it was, and the next try works.
TEST_F(HotplugTest, AFailureHalfwayLeavesEverythingAsItWas) {
  sim::FaultInjection faults(1);
  mem.set_fault_injection(&faults);
  constexpr sim::FaultPoint last = sim::FaultPoint::kPageAlloc;
  const auto every_failure = [&](auto&& step, auto&& undo_step, const char* what) {
    SCOPED_TRACE(what);
    const auto undo = [&] { ASSERT_TRUE(undo_step()); };
    for (const sim::FaultPoint point : {sim::FaultPoint::kHotplug, last}) {
      for (std::uint64_t nth = 1;; ++nth) {
        const std::string before = snapshot(mem);
        faults.set(point, {.nth = nth});
        const Status status = step();
        const bool injected = faults.failures(point) != 0;
        faults.set(point, {});
        if (!injected) {
          ASSERT_TRUE(status);
          if (point == last) return;
          undo();
          break;
        }
        ASSERT_LT(nth, 2000u);
        if (status) {  // it found another way
          undo();
        } else {
          ASSERT_EQ(snapshot(mem), before) << "failure " << nth;
          mem.validate();
        }
      }
    }
  };
  // (That kernel memory has turned pageblocks unmovable is not undone, in Linux neither: once, before the comparison.)
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), 2 * kBlock));
  ASSERT_TRUE(hotplug.remove_memory(block_start(32), 2 * kBlock));
  for (int round = 0; round < 2; ++round) {
    const auto add = [&] { return hotplug.add_memory(Nid(0), block_start(32), 2 * kBlock); };
    const auto online = [&] { return hotplug.online(block_start(32), 2 * kBlock, OnlineType::kMovable); };
    const auto offline = [&] { return hotplug.offline(block_start(32), 2 * kBlock); };
    const auto remove = [&] { return hotplug.remove_memory(block_start(32), 2 * kBlock); };
    every_failure(add, remove, "add");
    every_failure(online, offline, "online");
    every_failure(offline, online, "offline");
    every_failure(remove, add, "remove");
  }
  mem.set_fault_injection(nullptr);
}

// Told of each step, it does what the test says.
struct Hook final : HotplugListener {
  explicit Hook(MemoryHotplug& plug) : hotplug(plug) { plug.add_listener(*this); }
  ~Hook() override { hotplug.remove_listener(*this); }
  Hook(const Hook&) = delete;
  Hook& operator=(const Hook&) = delete;
  Status going_online(const MemoryNotify& what) override { return on_going_online ? on_going_online(what) : Status(); }
  Status going_offline(const MemoryNotify& what) override { return on_going_offline ? on_going_offline(what) : Status(); }
  void offline(const MemoryNotify& what) override {
    if (on_offline) on_offline(what);
  }
  MemoryHotplug& hotplug;
  std::function<Status(const MemoryNotify&)> on_going_online;
  std::function<Status(const MemoryNotify&)> on_going_offline;
  std::function<void(const MemoryNotify&)> on_offline;
};

constexpr Pfn first_pfn(std::uint64_t id) { return phys_to_pfn(block_start(id)); }

// Nobody may veto the undoing of a step, even if it would have vetoed the step.
TEST_F(HotplugTest, AnUndoIsNotRefused) {
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), 2 * kBlock));
  Hook hook(hotplug);
  const auto refuse_from = [](std::uint64_t id) {
    return [id](const MemoryNotify& what) { return what.pfns.begin >= first_pfn(id) ? Status(fail(Errno::kIo)) : Status(); };
  };
  const auto refuse = [](const MemoryNotify&) { return Status(fail(Errno::kPerm)); };
  const std::string offline = snapshot(mem);
  hook.on_going_online = refuse_from(33);
  hook.on_going_offline = refuse;
  EXPECT_EQ(hotplug.online(block_start(32), 2 * kBlock).error(), Errno::kIo);
  EXPECT_EQ(snapshot(mem), offline);
  hook.on_going_online = nullptr;
  ASSERT_TRUE(hotplug.online(block_start(32), 2 * kBlock));
  const std::string online = snapshot(mem);
  hook.on_going_online = refuse;
  hook.on_going_offline = refuse_from(33);
  EXPECT_EQ(hotplug.offline(block_start(32), 2 * kBlock).error(), Errno::kIo);
  EXPECT_EQ(snapshot(mem), online);
  EXPECT_EQ(hotplug.offline_and_remove_memory(block_start(32), 2 * kBlock).error(), Errno::kIo);
  EXPECT_EQ(snapshot(mem), online);
}

// Somebody took a page of the first block before the second was refused: the first stays, with marks of its own.
TEST_F(HotplugTest, ABlockThatCannotBeTakenBackKeepsItsMarks) {
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), 2 * kBlock));
  Hook hook(hotplug);
  const Range<Pfn> kernel{first_pfn(32) + 11, first_pfn(32) + 12};
  hook.on_going_online = [&](const MemoryNotify& what) -> Status {
    if (what.pfns.begin == first_pfn(32)) return {};
    EXPECT_TRUE(mem.alloc_contig_range(kernel, MigrateType::kMovable, Gfp::kNoWait));
    return fail(Errno::kIo);
  };
  EXPECT_EQ(hotplug.online(block_start(32), 2 * kBlock).error(), Errno::kIo);
  EXPECT_EQ(hotplug.blocks().at(32).state, MemoryState::kOnline);
  EXPECT_EQ(hotplug.blocks().at(33).state, MemoryState::kOffline);
  EXPECT_EQ(zone(kNormal).managed_pages(), 32768u);
  EXPECT_GT(zone(kNormal).watermark(Watermark::kMin), 0u);
  EXPECT_EQ(zone(kDma32).lowmem_reserve(kNormal), 128);
  mem.validate();
  mem.free_contig_range(kernel);
  ASSERT_TRUE(hotplug.offline(block_start(32), kBlock));
}

TEST_F(HotplugTest, AFailedOfflineAndRemoveLeavesTheMarksAsTheyWere) {
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), 3 * kBlock));
  ASSERT_TRUE(hotplug.online(block_start(32), kBlock, OnlineType::kMovable));
  ASSERT_TRUE(hotplug.online(block_start(33), 2 * kBlock, OnlineType::kMovable));
  const Range<Pfn> kernel{first_pfn(34) + 11, first_pfn(34) + 12};
  ASSERT_TRUE(mem.alloc_contig_range(kernel, MigrateType::kMovable, Gfp::kNoWait));
  mem.pfn_to_page(kernel.begin).set(PageFlag::kReserved);
  const std::string before = snapshot(mem);
  EXPECT_EQ(hotplug.offline_and_remove_memory(block_start(32), 3 * kBlock).error(), Errno::kBusy);
  EXPECT_EQ(snapshot(mem), before);
  // Blocks of boot do not go away, and come back.
  EXPECT_EQ(hotplug.offline_and_remove_memory(block_start(32), 4 * kBlock).error(), Errno::kBusy) << "there is a gap behind";
  EXPECT_EQ(snapshot(mem), before);
  mem.pfn_to_page(kernel.begin).clear(PageFlag::kReserved);
  mem.free_contig_range(kernel);
  ASSERT_TRUE(hotplug.offline_and_remove_memory(block_start(32), 3 * kBlock));
  mem.validate();
}

// A page that was given away in place (a balloon) left the count of managed pages when it went.
TEST_F(HotplugTest, PagesThatAreOfflineAlreadyAreNotSubtractedTwice) {
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), 2 * kBlock));
  ASSERT_TRUE(hotplug.online(block_start(32), 2 * kBlock, OnlineType::kMovable));
  const Pfn pfn = first_pfn(32) + 77;
  ASSERT_TRUE(mem.alloc_contig_range({pfn, pfn + 1}, MigrateType::kMovable, Gfp::kNoWait));
  mem.pfn_to_page(pfn).set(PageFlag::kOffline);
  mem.pfn_to_page(pfn).refcount = 0;
  const std::uint64_t managed = zone(kMovable).managed_pages();
  ASSERT_TRUE(hotplug.offline(block_start(32), kBlock)) << hotplug.reason();
  EXPECT_EQ(zone(kMovable).managed_pages(), managed - (32768 - 1));
}

TEST_F(HotplugTest, TheAtomicReserveLeavesWithItsBlock) {
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), 2 * kBlock));
  ASSERT_TRUE(hotplug.online(block_start(32), 2 * kBlock, OnlineType::kKernel));
  for (const Pfn pfn : {first_pfn(32), first_pfn(33) + kPageblockPages}) {
    mem.reserve_highatomic_pageblock(zone(kNormal), mem.pfn_to_page(pfn));
  }
  ASSERT_EQ(zone(kNormal).nr_reserved_highatomic(), 2 * kPageblockPages);
  mem.validate();
  ASSERT_TRUE(hotplug.offline(block_start(32), kBlock));
  EXPECT_EQ(zone(kNormal).nr_reserved_highatomic(), kPageblockPages);
  mem.validate();
}

// Pages that are held for a moment: in a task, offlining waits a little before it gives up.
class SlowMover final : public PageMover {
 public:
  SlowMover(PhysMem& mem, sim::Nanos free_at) : pages(mem), mem_(mem), free_at_(free_at) { mem.set_page_mover(this); }
  void lru_add_drain_all() override { batched_ = false; }
  std::uint64_t migrate_range(Range<Pfn> pfns, MigrateMode mode, MigrateReason reason) override {
    const bool busy = mem_.scheduler().now() < free_at_;
    if (batched_ || busy) {
      batched_ = true;
      return busy ? 1 : 0;
    }
    return pages.migrate_range(pfns, mode, reason);
  }
  FakeMover pages;

 private:
  PhysMem& mem_;
  sim::Nanos free_at_;
  bool batched_ = false;
};

struct HotplugTasksTest : HotplugTest {
  HotplugTasksTest() : HotplugTest(config()) {}
  static PhysConfig config() {
    PhysConfig config = plug_config();
    config.cpus = 2;
    config.zone_managed.clear();
    return config;
  }
  void spawn(std::function<void()> body, unsigned cpu) { machine.scheduler.spawn("task", std::move(body), {.cpu = cpu}); }
};

TEST_F(HotplugTasksTest, OfflineWaitsForPagesThatAreHeldForAMoment) {
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), kBlock));
  ASSERT_TRUE(hotplug.online(block_start(32), kBlock, OnlineType::kMovable));
  SlowMover mover(mem, machine.scheduler.now() + 3 * sim::kMillisecond);
  for (std::uint64_t i = 0; i < 1000; ++i) ASSERT_TRUE(mover.pages.add(i));
  Status status = fail(Errno::kIo);
  spawn([&] { status = hotplug.offline(block_start(32), kBlock); }, 0);
  ASSERT_TRUE(machine.scheduler.run().done());
  EXPECT_TRUE(status) << hotplug.reason();
  EXPECT_TRUE(mover.pages.intact());
  mover.pages.clear();
  mem.validate();
}

// Two tasks want the same at once; the listener sleeps, so that the second comes while the first is at it.
TEST_F(HotplugTasksTest, OneOfTwoThatBringABlockOnlineAtOnceIsRefused) {
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), kBlock));
  Hook hook(hotplug);
  hook.on_going_online = hook.on_going_offline = [&](const MemoryNotify&) -> Status {
    machine.scheduler.sleep_for(sim::kMillisecond);
    return {};
  };
  using Step = Status (*)(MemoryHotplug&);
  const auto at_once = [&](Step step) {
    std::array<Status, 2> status;
    for (unsigned i = 0; i < 2; ++i) spawn([&, i] { status[i] = step(hotplug); }, i);
    EXPECT_TRUE(machine.scheduler.run().done());
    EXPECT_NE(status[0].has_value(), status[1].has_value());
    EXPECT_EQ(status[status[0] ? 1 : 0].error(), Errno::kInval);
    mem.validate();
  };
  at_once([](MemoryHotplug& plug) { return plug.online(block_start(32), kBlock); });
  EXPECT_EQ(zone(kNormal).managed_pages(), 32768u);
  at_once([](MemoryHotplug& plug) { return plug.offline(block_start(32), kBlock); });
  EXPECT_EQ(zone(kNormal).managed_pages(), 0u);
  hook.on_going_online = nullptr;  // boot cannot sleep
  ASSERT_TRUE(hotplug.online(block_start(32), kBlock));
  at_once([](MemoryHotplug& plug) { return plug.offline_and_remove_memory(block_start(32), kBlock); });
  EXPECT_FALSE(hotplug.blocks().contains(32));
}

// The block that went first is not brought online again by somebody while the next goes.
TEST_F(HotplugTasksTest, NobodyComesBetweenOfflineAndRemove) {
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), 2 * kBlock));
  ASSERT_TRUE(hotplug.online(block_start(32), 2 * kBlock, OnlineType::kMovable));
  Hook hook(hotplug);
  hook.on_offline = [&](const MemoryNotify&) { machine.scheduler.sleep_for(sim::kMillisecond); };
  Status removed;
  Status onlined;
  spawn([&] { removed = hotplug.offline_and_remove_memory(block_start(32), 2 * kBlock); }, 0);
  spawn(
      [&] {
        while (hotplug.blocks().at(32).state != MemoryState::kOffline) machine.scheduler.sleep_for(10 * sim::kMicrosecond);
        onlined = hotplug.online(block_start(32), kBlock);
      },
      1);
  ASSERT_TRUE(machine.scheduler.run().done());
  EXPECT_TRUE(removed) << errno_name(removed.error());
  EXPECT_EQ(onlined.error(), Errno::kInval);
  EXPECT_TRUE(!hotplug.blocks().contains(32) && !hotplug.blocks().contains(33));
  mem.validate();
}

// No huge page for the struct Pages of a section: single ones serve. And when even these run out, nothing is left behind.
TEST_F(HotplugTest, StructPagesComeFromSinglePagesWhenThereIsNoHugeOne) {
  sim::FaultInjection faults(1);
  mem.set_fault_injection(&faults);
  faults.set(sim::FaultPoint::kPageAlloc, {.nth = 2});  // the first is the page of pageblock flags
  const std::uint64_t free = mem.meminfo().freeram;
  ASSERT_TRUE(hotplug.add_memory(Nid(0), block_start(32), kBlock));
  ASSERT_TRUE(hotplug.online(block_start(32), kBlock, OnlineType::kMovable));
  mem.validate();
  ASSERT_TRUE(hotplug.offline_and_remove_memory(block_start(32), kBlock));
  mem.drain_all_pages();
  EXPECT_EQ(mem.meminfo().freeram, free);
  const std::string before = snapshot(mem);
  faults.set(sim::FaultPoint::kPageAlloc, {.probability = 100, .space = 300 * kPageSize});
  EXPECT_EQ(hotplug.add_memory(Nid(0), block_start(32), kBlock).error(), Errno::kNoMem);
  faults.set(sim::FaultPoint::kPageAlloc, {});
  EXPECT_EQ(snapshot(mem), before);
  mem.set_fault_injection(nullptr);
}

// -m 512M,slots=2,maxmem=2G, two nodes, all memory of the second a module of 256 MiB.
struct SecondNodeTest : HotplugTest {
  SecondNodeTest() : HotplugTest(config()) {}
  static PhysConfig config() {
    PhysConfig config = plug_config();
    config.nodes = {{.bytes = 512 * kMiB, .cpus = {0}}, {.bytes = 0}};
    config.zone_managed = {{Nid(0), 0, 3840, 3840}, {Nid(0), 1, 97147, 99613}};
    return config;
  }
};

TEST_F(SecondNodeTest, ANodeGetsItsFirstMemoryAndLosesItsLast) {
  Recorder recorder;
  hotplug.add_listener(recorder);
  ASSERT_TRUE(hotplug.add_memory(Nid(1), block_start(32), 2 * kBlock));
  EXPECT_EQ(mem.node(Nid(1)).zonelist().zones().size(), 2u);
  ASSERT_TRUE(hotplug.online(block_start(32), kBlock, OnlineType::kMovable));
  EXPECT_EQ(recorder.change, Nid(1));
  expect_zones(mem,
               {{0, kDma, 1, 4095, 3998, 3840, 18, 22, 26, {0, 389, 389, 389, 389}, 22, 1},
                {0, kDma32, 4096, 126944, 126944, 99613, 468, 585, 702, {0, 0, 0, 0, 0}, 585, 31},
                {1, kMovable, 1048576, 32768, 32768, 32768, 153, 191, 229, {0, 0, 0, 0, 0}, 191, 7}},
               __LINE__);
  EXPECT_EQ(mem.node(Nid(1)).spanned_pages(), 32768u);
  EXPECT_EQ(mem.node(Nid(1)).zonelist().zones().front().zone, &zone(kMovable, 1));
  EXPECT_EQ(mem.node(Nid(0)).zonelist().zones().back().zone, &zone(kMovable, 1));
  Page* page = mem.alloc_pages(Gfp::kHighUserMovable & ~Gfp::kDirectReclaim, Order(0), Nid(1));
  EXPECT_EQ(page->nid(), Nid(1));
  mem.free_page(*page);
  ASSERT_TRUE(hotplug.offline(block_start(32), kBlock));
  EXPECT_EQ(recorder.change, Nid(1));
  expect_zones(mem,
               {{0, kDma, 1, 4095, 3998, 3840, 23, 28, 33, {0, 389, 389, 389, 389}, 28, 1},
                {0, kDma32, 4096, 126944, 126944, 99613, 617, 771, 925, {0, 0, 0, 0, 0}, 771, 31}},
               __LINE__);
  EXPECT_EQ(mem.node(Nid(1)).zonelist().zones().size(), 2u);
  EXPECT_EQ(mem.node(Nid(1)).spanned_pages(), 0u);
  EXPECT_FALSE(mem.node(Nid(1)).has_memory());
  hotplug.remove_listener(recorder);
}

// Two nodes with RAM of boot below 4 GiB: the second has no zone but DMA32, whose first block goes and is put back.
TEST(Hotplug, ABlockThatComesBackIsInTheZoneItWasIn) {
  PhysConfig config = small_machine(2048);
  config.nodes = {{.bytes = kGiB}, {.bytes = kGiB}};
  config.deferred_init = DeferredInit::kOff;
  const TestMachine machine(config);
  PhysMem& mem = *machine.mem;
  MemoryHotplug& hotplug = mem.hotplug();
  Zone& zone = mem.node(Nid(1)).zone(kDma32);
  const std::uint64_t first = zone.start_pfn().value() * kPageSize / kBlock;
  ASSERT_EQ(first_pfn(first), zone.start_pfn());
  const Pfn kernel = first_pfn(first + 1) + 5;
  ASSERT_TRUE(mem.alloc_contig_range({kernel, kernel + 1}, MigrateType::kMovable, Gfp::kNoWait));
  const std::string before = snapshot(mem);
  for (const bool remove : {false, true}) {
    const Status status = remove ? hotplug.offline_and_remove_memory(block_start(first), 2 * kBlock)
                                 : hotplug.offline(block_start(first), 2 * kBlock);
    EXPECT_EQ(status.error(), Errno::kBusy);
    EXPECT_EQ(hotplug.valid_zones(first), "DMA32");
    EXPECT_EQ(snapshot(mem), before);
    mem.validate();
  }
  mem.free_contig_range({kernel, kernel + 1});
}

TEST(Hotplug, BlocksGrowWithTheMachine) {
  const auto block_size = [](std::uint64_t ram) {
    PhysConfig config = small_machine(ram / kMiB);
    config.data_mode = DataMode::kDataless;
    const TestMachine machine(config);
    return machine.mem->hotplug().memory_block_size();
  };
  EXPECT_EQ(block_size(8 * kGiB), 128 * kMiB);
  EXPECT_EQ(block_size(66 * kGiB), kGiB);  // a guest: 1024MB; its memory ends at 67 GiB
  EXPECT_EQ(block_size(67 * kGiB), 2 * kGiB);
}

}  // namespace
}  // namespace quire::phys
