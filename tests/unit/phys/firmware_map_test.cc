#include "quire/phys/firmware_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quire::phys {
namespace {

using ::testing::ElementsAre;

// From the reference machine with 512 MiB (k6.1-512M/dmesg.txt).
TEST(FirmwareMap, PcOf512MiB) {
  EXPECT_THAT(FirmwareMap::pc(512 * kMiB).lines("BIOS-e820"),
              ElementsAre("BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable",
                          "BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] reserved",
                          "BIOS-e820: [mem 0x00000000000f0000-0x00000000000fffff] reserved",
                          "BIOS-e820: [mem 0x0000000000100000-0x000000001ffdffff] usable",
                          "BIOS-e820: [mem 0x000000001ffe0000-0x000000001fffffff] reserved",
                          "BIOS-e820: [mem 0x00000000fffc0000-0x00000000ffffffff] reserved",
                          "BIOS-e820: [mem 0x000000fd00000000-0x000000ffffffffff] reserved"));
}

// From the reference machine with 4 GiB (k6.1-4G/dmesg.txt): RAM is split at 3 GiB.
TEST(FirmwareMap, PcOf4GiB) {
  EXPECT_THAT(FirmwareMap::pc(4 * kGiB).lines("BIOS-e820"),
              ElementsAre("BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable",
                          "BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] reserved",
                          "BIOS-e820: [mem 0x00000000000f0000-0x00000000000fffff] reserved",
                          "BIOS-e820: [mem 0x0000000000100000-0x00000000bffdffff] usable",
                          "BIOS-e820: [mem 0x00000000bffe0000-0x00000000bfffffff] reserved",
                          "BIOS-e820: [mem 0x00000000fffc0000-0x00000000ffffffff] reserved",
                          "BIOS-e820: [mem 0x0000000100000000-0x000000013fffffff] usable",
                          "BIOS-e820: [mem 0x000000fd00000000-0x000000ffffffffff] reserved"));
}

TEST(FirmwareMap, SanitizeLetsTheHigherTypeWinAndJoinsNeighbours) {
  FirmwareMap map;
  map.add({PhysAddr(0x0000), PhysAddr(0x8000)}, E820Type::kRam);
  map.add({PhysAddr(0x2000), PhysAddr(0x3000)}, E820Type::kReserved);
  map.add({PhysAddr(0x8000), PhysAddr(0x9000)}, E820Type::kRam);
  map.sanitize();
  EXPECT_THAT(map.entries(), ElementsAre(E820Entry{{PhysAddr(0), PhysAddr(0x2000)}, E820Type::kRam},
                                         E820Entry{{PhysAddr(0x2000), PhysAddr(0x3000)}, E820Type::kReserved},
                                         E820Entry{{PhysAddr(0x3000), PhysAddr(0x9000)}, E820Type::kRam}));
  EXPECT_EQ(map.ram_bytes(), 0x8000u);
}

TEST(FirmwareMap, UpdateAndRemoveTouchOnlyTheirType) {
  FirmwareMap map;
  map.add({PhysAddr(0), PhysAddr(0x4000)}, E820Type::kRam);
  map.add({PhysAddr(0x4000), PhysAddr(0x5000)}, E820Type::kReserved);
  EXPECT_EQ(map.update({PhysAddr(0x1000), PhysAddr(0x2000)}, E820Type::kRam, E820Type::kPram), 0x1000u);
  EXPECT_EQ(map.remove({PhysAddr(0x3000), PhysAddr(0x5000)}, E820Type::kRam), 0x1000u);
  EXPECT_THAT(map.entries(), ElementsAre(E820Entry{{PhysAddr(0), PhysAddr(0x1000)}, E820Type::kRam},
                                         E820Entry{{PhysAddr(0x1000), PhysAddr(0x2000)}, E820Type::kPram},
                                         E820Entry{{PhysAddr(0x2000), PhysAddr(0x3000)}, E820Type::kRam},
                                         E820Entry{{PhysAddr(0x4000), PhysAddr(0x5000)}, E820Type::kReserved}));
}

}  // namespace
}  // namespace quire::phys
