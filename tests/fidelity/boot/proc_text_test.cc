// The kernel's own text of a booted machine, beside ours of the same machine: the same lines with other figures. (Debian 12's
// 6.1.0-56-cloud-amd64 under QEMU 7.2, 512 MiB on two nodes of one CPU each; the figures themselves depend on what else a
// kernel allocates and are compared where they do not, in tests/unit/phys/reference_zones_test.cc.)
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <sstream>

#include "quire/observe/proc_text.h"

namespace quire::observe {
namespace {

using Lines = std::vector<std::string>;

Lines lines_of(const std::string& text) {
  Lines lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// Each number becomes one #, with the blanks before it that make it right-aligned.
std::string shape(const std::string& line) {
  std::string out;
  for (std::size_t i = 0; i < line.size();) {
    if (std::isdigit(static_cast<unsigned char>(line[i])) == 0) {
      out += line[i++];
      continue;
    }
    while (i < line.size() && std::isdigit(static_cast<unsigned char>(line[i])) != 0) ++i;
    while (out.ends_with("  ")) out.pop_back();
    out += '#';
  }
  return out;
}

Lines shapes(Lines lines) {
  for (std::string& line : lines) line = shape(line);
  return lines;
}

class ProcText : public testing::Test {
 protected:
  ProcText() {
    kernel::MachineConfig config;
    config.ram = 512 * kMiB;
    config.cpus = 2;
    config.nodes = 2;
    machine_ = std::move(*kernel::Machine::boot(config));
  }
  static Lines reference(const std::string& view) {
    std::ifstream file(std::string(QUIRE_REFERENCE) + "/k6.1-512M-numa2/" + view + ".txt");
    EXPECT_TRUE(file.is_open()) << view;
    std::ostringstream text;
    text << file.rdbuf();
    return lines_of(text.str());
  }

  std::unique_ptr<kernel::Machine> machine_;
};

TEST_F(ProcText, ShapesTellLinesApart) {
  EXPECT_EQ(shape("Node 0, zone      DMA   12"), "Node #, zone      DMA #");
  EXPECT_EQ(shape("        min      24"), "        min #");
}

TEST_F(ProcText, Zoneinfo) { EXPECT_EQ(shapes(lines_of(zoneinfo(*machine_))), shapes(reference("zoneinfo"))); }
TEST_F(ProcText, Buddyinfo) { EXPECT_EQ(shapes(lines_of(buddyinfo(machine_->phys()))), shapes(reference("buddyinfo"))); }
TEST_F(ProcText, Pagetypeinfo) {
  EXPECT_EQ(shapes(lines_of(pagetypeinfo(machine_->phys()))), shapes(reference("pagetypeinfo")));
}
TEST_F(ProcText, Iomem) {
  Lines kernel = reference("iomem");
  std::erase_if(kernel, [](const std::string& line) { return line.find("Kernel ") != std::string::npos; });
  Lines ours = lines_of(iomem(machine_->phys()));
  std::erase_if(ours, [](const std::string& line) { return line.find("Kernel ") != std::string::npos; });
  EXPECT_EQ(ours, kernel);
}
TEST_F(ProcText, MeminfoUpToWhatIsNotModelled) {
  Lines kernel = shapes(reference("meminfo"));
  const auto last = std::ranges::find_if(kernel, [](const std::string& line) { return line.starts_with("Percpu:"); });
  ASSERT_NE(last, kernel.end());
  kernel.erase(last + 1, kernel.end());
  EXPECT_EQ(shapes(lines_of(meminfo(*machine_))), kernel);
}
TEST_F(ProcText, Nodes) {
  Lines kernel = reference("nodes");
  EXPECT_EQ(shapes(lines_of(nodes(*machine_))), shapes(kernel));
  // What no allocation changes is equal to the figure.
  const auto after = [](const Lines& lines, const std::string& heading) {
    Lines values;
    for (std::size_t i = 0; i + 1 < lines.size(); ++i) {
      if (lines[i] == heading) values.push_back(lines[i + 1]);
    }
    return values;
  };
  for (const char* heading : {"-- distance", "-- cpulist"}) {
    EXPECT_EQ(after(lines_of(nodes(*machine_)), heading), after(kernel, heading)) << heading;
  }
}

}  // namespace
}  // namespace quire::observe
