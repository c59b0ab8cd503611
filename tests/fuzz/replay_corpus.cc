// Runs a fuzz target without a fuzzer: on every file named, or in every folder named, and then on a few thousand mutations
// of them, always the same ones. So the targets are exercised by every test run, with any compiler.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void mutate(Bytes& bytes, std::mt19937& random) {
  for (std::uint32_t i = 1 + random() % 4; i != 0; --i) {
    const std::size_t at = bytes.empty() ? 0 : random() % bytes.size();
    switch (random() % 4) {
      case 0: bytes.resize(at); break;
      case 1: bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), static_cast<std::uint8_t>(random())); break;
      default:
        if (!bytes.empty()) bytes[at] = static_cast<std::uint8_t>(random());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Bytes> corpus;
  for (int i = 1; i < argc; ++i) {
    if (std::filesystem::is_directory(argv[i])) {
      std::vector<std::filesystem::path> paths;
      for (const auto& entry : std::filesystem::directory_iterator(argv[i])) paths.push_back(entry.path());
      std::sort(paths.begin(), paths.end());
      for (const auto& path : paths) corpus.push_back(read_file(path));
    } else {
      corpus.push_back(read_file(argv[i]));
    }
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "no corpus: name files or folders\n");
    return 1;
  }
  for (const Bytes& bytes : corpus) LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  std::mt19937 random(1);
  constexpr int kMutations = 5000;
  for (int i = 0; i < kMutations; ++i) {
    Bytes bytes = corpus[random() % corpus.size()];
    mutate(bytes, random);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%zu inputs, %d mutations\n", corpus.size(), kMutations);
  return 0;
}
