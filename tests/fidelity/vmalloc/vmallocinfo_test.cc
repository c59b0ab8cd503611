// /proc/vmallocinfo of guests (Debian 12's 6.1, no5lvl nokaslr no_hash_pointers, with the VmallocUsed of their meminfo as last
// line) and ours, read by one parser and held to the same rules.
#include <gmock/gmock.h>

#include <fstream>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <sstream>

#include "kvirt_machine.h"

namespace quire::kvirt {
namespace {

using ::testing::Contains;

struct Line {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t size = 0;
  std::string caller;
  std::uint64_t pages = 0;
  std::uint64_t phys = 0;
  std::set<std::string> words;
  std::map<unsigned, std::uint64_t> on_node;
  std::string shape;  // the line with every figure and name taken out
};

std::optional<Line> parse(const std::string& text) {
  // Addresses of 16 digits, the size in a column of seven, a caller with or without its offset.
  static const std::regex kHead(
      R"(^0x([0-9a-f]{16})-0x([0-9a-f]{16}) ( {0,6}[0-9]+) ((?:unpurged vm_area)|[A-Za-z_.0-9]+(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?)(.*)$)");
  std::smatch m;
  if (!std::regex_match(text, m, kHead) || (m[3].length() > 7 && m[3].str().front() == ' ')) return std::nullopt;
  Line line;
  line.begin = std::stoull(m[1], nullptr, 16);
  line.end = std::stoull(m[2], nullptr, 16);
  line.size = std::stoull(m[3]);
  line.caller = m[4];
  if (m[3].length() < 7) return std::nullopt;
  line.shape = line.caller == "unpurged vm_area" ? line.caller : "caller";
  std::istringstream rest(m[5]);
  for (std::string word; rest >> word;) {
    std::smatch w;
    if (std::regex_match(word, w, std::regex("pages=([0-9]+)"))) {
      line.pages = std::stoull(w[1]);
      line.shape += " pages=";
    } else if (std::regex_match(word, w, std::regex("phys=0x([0-9a-f]{16})"))) {
      line.phys = std::stoull(w[1], nullptr, 16);
      line.shape += " phys=";
    } else if (std::regex_match(word, w, std::regex("N([0-9]+)=([0-9]+)"))) {
      line.on_node[static_cast<unsigned>(std::stoul(w[1]))] = std::stoull(w[2]);
      line.shape += " N" + w[1].str() + "=";
    } else {
      line.words.insert(word);
      line.shape += " " + word;
    }
  }
  return line;
}

std::vector<Line> parse_all(const std::string& text) {
  std::vector<Line> lines;
  std::istringstream in(text);
  for (std::string s; std::getline(in, s);) {
    const auto line = parse(s);
    EXPECT_TRUE(line.has_value()) << s;
    if (line) lines.push_back(*line);
  }
  return lines;
}

// What is true of every kernel's areas.
void check_rules(const std::vector<Line>& lines) {
  std::uint64_t at = 0;
  for (const Line& l : lines) {
    SCOPED_TRACE(l.caller + " " + std::to_string(l.size));
    EXPECT_EQ(l.end - l.begin, l.size);
    EXPECT_EQ(l.size % kPageSize, 0u);
    if (l.caller == "unpurged vm_area") continue;
    EXPECT_GE(l.begin, at);
    at = l.end;
    if (l.pages != 0) {
      EXPECT_EQ(l.size, (l.pages + 1) * kPageSize) << "the guard page counts";
      std::uint64_t sum = 0;
      for (const auto& [node, count] : l.on_node) sum += count;
      EXPECT_EQ(sum, l.pages);
      EXPECT_EQ(l.words.contains("vpages"), l.pages * sizeof(void*) > kPageSize) << "where the list of pages lies";
    }
    if (l.words.contains("ioremap")) {
      const std::uint64_t leaf = std::bit_ceil(l.size - kPageSize);
      EXPECT_EQ(l.begin % leaf, 0u) << "aligned to its size";
      EXPECT_NE(l.phys, 0u);
      EXPECT_EQ(l.pages, 0u);
    }
  }
}

std::uint64_t sum_of_pages(const std::vector<Line>& lines) {
  std::uint64_t pages = 0;
  for (const Line& l : lines) pages += l.pages;
  return pages;
}

struct Guest {
  std::vector<Line> lines;
  std::uint64_t used_kib = 0;
};
Guest guest(const std::string& name) {
  std::ifstream in(std::string(QUIRE_REFERENCE) + "/" + name + ".txt");
  EXPECT_TRUE(in) << name;
  std::string areas;
  Guest g;
  for (std::string s; std::getline(in, s);) {
    if (s.starts_with("0x")) {
      areas += s + "\n";
    } else {
      g.used_kib = std::stoull(s.substr(s.find_first_of("0123456789")));
    }
  }
  g.lines = parse_all(areas);
  return g;
}

TEST(Vmallocinfo, GuestsKeepTheRules) {
  const Guest one = guest("k6.1-512M");
  EXPECT_EQ(one.lines.size(), 65u);
  check_rules(one.lines);
  EXPECT_EQ(sum_of_pages(one.lines) * 4, one.used_kib) << "VmallocUsed is what areas own";
  check_rules(guest("k6.1-1G-2nodes").lines);
}

TEST(Vmallocinfo, OurLinesHaveTheShapesOfTheGuests) {
  std::set<std::string> shapes;
  for (const char* name : {"k6.1-512M", "k6.1-1G-2nodes"}) {
    for (const Line& l : guest(name).lines) shapes.insert(l.shape);
  }
  KvirtMachine m({.ram = 256 * kMiB, .cpus = 2, .nodes = 2});
  std::vector<phys::Page*> both = m.pages(2);
  ASSERT_NE(m.vmalloc().vmap(both), nullptr);
  ASSERT_NE(m.vmalloc().vmalloc_node(kPageSize, Nid(0)), nullptr);
  ASSERT_NE(m.vmalloc().vmalloc_node(9 * kPageSize, Nid(1)), nullptr);
  ASSERT_TRUE(m.space->io().ioremap(PhysAddr(0xfed0'0000), 1024));
  // More than one node has.
  ASSERT_NE(m.vmalloc().vmalloc_node(150 * kMiB, Nid(0)), nullptr);
  void* gone = m.vmalloc().vmalloc(kPageSize);
  ASSERT_NE(gone, nullptr);
  m.vmalloc().vfree(gone);
  const std::vector<Line> ours = parse_all(m.space->vmallocinfo());
  check_rules(ours);
  EXPECT_EQ(sum_of_pages(ours), m.vmalloc().nr_vmalloc_pages());
  std::set<std::string> seen;
  for (const Line& l : ours) {
    EXPECT_THAT(shapes, Contains(l.shape));
    seen.insert(l.shape);
  }
  EXPECT_GE(seen.size(), 6u);
}

}  // namespace
}  // namespace quire::kvirt
