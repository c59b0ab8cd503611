// property_phys [--ops N] [--seed S] [gtest's flags]: how many operations in all, and the first seed. QUIRE_OPS and
// QUIRE_SEED say the same.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

namespace {

// Takes "--name value" or "--name=value" off the arguments; false: there is a name without a value, or no number.
bool take(std::vector<char*>& arguments, std::string_view name, const char* variable) {
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const std::string_view word = arguments[i];
    if (!word.starts_with(name) || (word.size() > name.size() && word[name.size()] != '=')) continue;
    const bool joined = word.size() > name.size();
    if (!joined && i + 1 == arguments.size()) return false;
    const std::string value(joined ? word.substr(name.size() + 1) : arguments[i + 1]);
    if (value.empty() || value.find_first_not_of("0123456789") != std::string::npos) return false;
    ::setenv(variable, value.c_str(), 1);
    const auto at = arguments.begin() + static_cast<std::ptrdiff_t>(i);
    arguments.erase(at, at + (joined ? 1 : 2));
    return true;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<char*> arguments(argv, argv + argc);
  if (!take(arguments, "--ops", "QUIRE_OPS") || !take(arguments, "--seed", "QUIRE_SEED")) {
    std::cerr << "property_phys: --ops and --seed take a number, as in --ops 1000000 --seed 7\n";
    return 2;
  }
  int left = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  ::testing::InitGoogleTest(&left, arguments.data());
  return RUN_ALL_TESTS();
}
