// That the documents show the commands whose output they quote.
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "commands.h"

namespace quire {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

TEST_F(Commands, TheTourShowsTheCommandsOfTheDemo) {
  std::istringstream demo(read(QUIRE_SOURCE "/tools/demo"));
  const std::string readme = read(QUIRE_SOURCE "/README.md");
  constexpr std::string_view kShow = "show quire ";
  std::vector<std::string> shown;
  for (std::string line; std::getline(demo, line);) {
    if (line.starts_with(kShow)) shown.push_back(line.substr(5));
  }
  ASSERT_THAT(shown, SizeIs(4));
  for (const std::string& command : shown) EXPECT_THAT(readme, HasSubstr(command + "\n"));
}

}  // namespace
}  // namespace quire
