// A damaged trace gives what came before the damage, says where it is, and never a wrong figure.
#include <algorithm>
#include <random>

#include "trace_test_util.h"

namespace quire::trace::test {
namespace {

struct Sample {
  Bytes bytes;
  std::vector<Told> first, second;  // of tasks 1 and 2
};

Sample make_sample() {
  Sample sample;
  TemporaryFile file;
  TraceWriter writer(file.fd(), "test", TraceHeader{.window = 50});
  const auto put = [&](TaskId id, std::vector<Told>& told, const Told& t) {
    told.push_back(t);
    EXPECT_TRUE(writer.task(id).write(t.record, t.path, t.path2));
  };
  for (std::uint64_t i = 0; i < 60; ++i) {
    put({1, 1}, sample.first, access(1000 + i * i, AccessKind::kRead, i));
    if (i % 20 == 19) {
      EXPECT_TRUE(writer.task({1, 1}).flush());
    }
    put({2, 2}, sample.second, access(i % 7, AccessKind::kWrite, 2));
    if (i % 25 == 24) {
      EXPECT_TRUE(writer.task({2, 2}).flush());
    }
  }
  Told exec;
  exec.record.kind = RecordKind::kExec;
  exec.path = "/bin/true";
  put({1, 1}, sample.first, exec);
  put({1, 1}, sample.first, exit_with(0));
  put({2, 2}, sample.second, exit_with(1));
  EXPECT_TRUE(writer.finish(0));
  sample.bytes = file.contents();
  return sample;
}

bool is_prefix(const std::vector<Told>& part, const std::vector<Told>& whole) {
  return part.size() <= whole.size() && std::equal(part.begin(), part.end(), whole.begin());
}

// Reads what there is; it must be a prefix of the truth and, unless everything is there, must come with a warning.
void expect_good_part(const Sample& sample, std::span<const std::uint8_t> bytes) {
  auto reader = read_bytes(bytes);
  if (!reader) {
    EXPECT_FALSE(reader.error().empty());
    return;
  }
  const std::vector<Told> first = read_all(**reader, (*reader)->stream({1, 1}));
  const std::vector<Told> second = read_all(**reader, (*reader)->stream({2, 2}));
  while ((*reader)->pull()) {}
  EXPECT_TRUE(is_prefix(first, sample.first));
  EXPECT_TRUE(is_prefix(second, sample.second));
  const bool all = first.size() == sample.first.size() && second.size() == sample.second.size();
  if (!all || !(*reader)->complete()) {
    EXPECT_FALSE((*reader)->complete());
    EXPECT_FALSE((*reader)->warnings().empty());
  }
}

TEST(Damage, TruncationAtEveryByte) {
  const Sample sample = make_sample();
  for (std::size_t size = 0; size < sample.bytes.size(); ++size) {
    SCOPED_TRACE(size);
    expect_good_part(sample, std::span(sample.bytes).first(size));
  }
}

TEST(Damage, EveryFlippedBitIsNoticed) {
  const Sample sample = make_sample();
  for (std::size_t bit = 0; bit < sample.bytes.size() * 8; ++bit) {
    SCOPED_TRACE(bit);
    Bytes bytes = sample.bytes;
    bytes[bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
    auto reader = read_bytes(bytes);
    if (!reader) continue;
    expect_good_part(sample, bytes);
    while ((*reader)->pull()) {}
    EXPECT_FALSE((*reader)->complete());
  }
}

TEST(Damage, OverwrittenStretches) {
  const Sample sample = make_sample();
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    SCOPED_TRACE(round);
    Bytes bytes = sample.bytes;
    const std::size_t at = random() % bytes.size();
    const std::size_t end = std::min(bytes.size(), at + 1 + random() % 200);
    for (std::size_t i = at; i < end; ++i) bytes[i] = static_cast<std::uint8_t>(random());
    expect_good_part(sample, bytes);
  }
}

TEST(Damage, ALostChunkIsNoticed) {
  const Sample sample = make_sample();
  // Cut the second chunk out: header 40 bytes, compressed size at 24 of a chunk's header.
  const auto chunk_size = [&](std::size_t at) {
    return 40 + (sample.bytes[at + 24] | std::size_t{sample.bytes[at + 25]} << 8 | std::size_t{sample.bytes[at + 26]} << 16);
  };
  const std::size_t second = 40 + chunk_size(40);
  Bytes bytes = sample.bytes;
  bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(second),
              bytes.begin() + static_cast<std::ptrdiff_t>(second + chunk_size(second)));
  expect_good_part(sample, bytes);
  auto reader = read_bytes(bytes);
  ASSERT_TRUE(reader);
  while ((*reader)->pull()) {}
  EXPECT_FALSE((*reader)->complete());
}

TEST(Damage, SaysWhatIsWrong) {
  const Sample sample = make_sample();
  EXPECT_EQ(read_bytes({}).error(), "t.qtr is empty, not a trace: record it again");
  const Bytes text{'h', 'e', 'l', 'l', 'o'};
  EXPECT_EQ(read_bytes(text).error(), "t.qtr is not a Quire trace (.qtr): make one with `quire record` or `quire import`");
  EXPECT_EQ(read_bytes(std::span(sample.bytes).first(20)).error(),
            "t.qtr breaks off within its header, after 20 bytes: record it again");
  auto reader = read_bytes(std::span(sample.bytes).first(sample.bytes.size() - 1));
  ASSERT_TRUE(reader);
  while ((*reader)->pull()) {}
  ASSERT_EQ((*reader)->warnings().size(), 1u);
  EXPECT_NE((*reader)->warnings()[0].find("t.qtr breaks off at byte"), std::string::npos);
}

TEST(Damage, GoodChecksumsOverNonsenseRecords) {
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    TemporaryFile file;
    TraceWriter writer(file.fd(), "test", TraceHeader{});
    Bytes nonsense(random() % 300);
    for (auto& byte : nonsense) byte = static_cast<std::uint8_t>(random());
    ASSERT_TRUE(writer.add_chunk({1, 1}, nonsense, ChunkFlag::kNone));
    ASSERT_TRUE(writer.finish(0));
    auto reader = read_bytes(file.contents());
    ASSERT_TRUE(reader);
    for (const Told& told : read_all(**reader, (*reader)->stream({1, 1}))) EXPECT_LT(told.record.page, std::uint64_t{1} << 52);
  }
}

}  // namespace
}  // namespace quire::trace::test
