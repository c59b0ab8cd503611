// What recorded programs did with files is done to the machine's files: their names, and where bytes go.
#include <sys/stat.h>

#include "quire/engine/replay.h"
#include "quire/kernel/machine.h"
#include "recording.h"

namespace quire::trace::test {
namespace {

class FilesTest : public RecordingTest {
 protected:
  // The guest's act of that name, recorded and replayed; every call ends as it did. The machine is there to be looked at.
  void replay(const std::string& act) {
    const Recorded recorded = check({guest("files"), act});
    ASSERT_EQ(recorded.exit_status, 0);
    kernel::MachineConfig config;
    config.ram = 64 * kMiB;
    auto machine = kernel::Machine::boot(config);
    ASSERT_TRUE(machine);
    machine_ = std::move(*machine);
    replay_ = std::make_unique<engine::Replay>(*machine_);
    auto reader = TraceReader::open(recorded.file);
    ASSERT_TRUE(reader) << reader.error();
    ASSERT_TRUE(replay_->add(std::move(*reader)));
    const auto done = replay_->run();
    ASSERT_TRUE(done) << done.error().sentence;
    for (const auto& [what, times] : replay_->stats().diverged) ADD_FAILURE() << what << " " << times;
    machine_->settle();
    machine_->validate();
  }
  [[nodiscard]] std::uint64_t written_pages() const {
    return static_cast<std::uint64_t>(machine_->phys().vmstat()[phys::VmEvent::kPgpgout]) * kKiB / kPageSize;
  }

  // The file of that name at the end of a path.
  [[nodiscard]] const file::DiskInode* find(const std::string& name) const {
    const file::DiskInode* found = nullptr;
    struct stat folder{};
    ::stat(folder_.c_str(), &folder);
    file::FileSystem* fs = machine_->vfs().find_mount(static_cast<std::uint32_t>(folder.st_dev));
    fs->for_each_inode([&](const file::Inode& inode) {
      if (fs->path_of(inode).ends_with("/" + name)) found = static_cast<const file::DiskInode*>(&inode);
    });
    return found;
  }

  std::unique_ptr<kernel::Machine> machine_;
  std::unique_ptr<engine::Replay> replay_;
};

TEST_F(FilesTest, AFileWithoutANameIsNamedAgain) {
  replay("nameless");
  EXPECT_EQ(written_pages(), 8u);
}

TEST_F(FilesTest, ANameMayBeSaidInManyWays) {
  replay("roundabout");
  EXPECT_EQ(written_pages(), 0u);
}

TEST_F(FilesTest, AFileGoesWithTheLastOfItsNames) {
  replay("links");
  EXPECT_EQ(written_pages(), 200u);
}

TEST_F(FilesTest, NamesAreExchanged) {
  replay("exchanged");
  EXPECT_EQ(written_pages(), 55u);
}

TEST_F(FilesTest, BytesAreAppendedWhateverTheirOffset) {
  replay("appending");
  ASSERT_NE(find("file"), nullptr);
  EXPECT_EQ(find("file")->i_size, 102 * kPageSize);
}

TEST_F(FilesTest, CopiesGoWhereTheyWent) {
  replay("copying");
  ASSERT_NE(find("to"), nullptr);
  EXPECT_EQ(find("to")->i_size, 23 * kPageSize);
}

TEST_F(FilesTest, AFileTooDeepForAName) { replay("deep"); }

}  // namespace
}  // namespace quire::trace::test
