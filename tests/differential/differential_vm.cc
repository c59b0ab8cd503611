// differential_vm [--ops N] [--seed S] [--steps N] [--keep-going] [--any-kernel]
//
// Random programs of the mmap family, run by the host's kernel and by a Quire machine, step by step: return value, errno,
// signal, areas with their figures and flags, minor faults and every byte must be the same. A difference is shrunk to the
// shortest program that shows it, printed as steps and as a C program.
#include <fmt/format.h>

#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <iostream>
#include <optional>

#include "host_side.h"
#include "quire_side.h"

namespace quire::differential {
namespace {

struct Difference {
  std::size_t step = 0;
  std::string host;
  std::string quire;
};

// Steps that kernels newer than 6.1 answer otherwise, and which are therefore left out (docs/fidelity.md):
// mremap checks its arguments before it unmaps anything at the new place, and moves several areas at once (6.17);
// MADV_REMOVE asks for the right to write, not for writing (6.7); mprotect gives up what was promised for an area that
// nobody has written to yet when it takes the right to write away (6.6).
// Where areas grow down, Linux chooses other addresses than Quire (docs/fidelity.md): steps that leave them the choice.
bool comparable(const Op& op, const QuireSide& quire) {
  const int fixed = op.call == Call::kMmap ? MAP_FIXED | MAP_FIXED_NOREPLACE : MREMAP_FIXED;
  const bool moves = op.call == Call::kMremap && (op.flags & MREMAP_MAYMOVE) != 0;
  if ((op.call == Call::kMmap || moves) && (op.flags & fixed) == 0 && quire.grows_down(op.process)) return false;
  if (op.call == Call::kMremap) {
    const bool apart = op.address + op.length <= op.new_address || op.new_address + op.new_length <= op.address;
    return op.length != 0 && op.new_length != 0 && op.new_address % kPage == 0 && op.length % kPage == 0 && apart &&
           quire.in_one_area(op.process, op.address, op.length);
  }
  // What once had a guard keeps a flag since 6.18, and areas of different flags are not remapped together.
  if (op.call == Call::kRemapFilePages && !quire.in_one_area(op.process, op.address, op.length)) return false;
  if (op.call == Call::kMprotect && (op.prot & PROT_WRITE) == 0) {
    return !quire.has_untouched_writable(op.process, op.address, op.length);
  }
  return op.call != Call::kMadvise || op.flags != MADV_REMOVE;
}

// What steps with the same answer may leave behind otherwise on kernels newer than 6.1 (docs/fidelity.md): areas that are
// merged though one has pages of its own and the other none yet, or cut at the ends of a mapping over them that a limit
// refused, with the same pages in them in either case; the new place of an mremap that a limit refused; and after a read beyond
// the end of a file, where no table was, no neighbour of the file's (6.1 maps it: seen on a guest).
bool newer_kernel_does_otherwise(const Op& op, const std::string& host, const std::string& quire, std::string_view answer) {
  const bool beyond_end = (op.call == Call::kRead && answer.starts_with("signal 7")) ||
                          (op.call == Call::kProcessVm && answer.starts_with("= -1 errno 14"));
  if (beyond_end) {
    return merged_areas(host, kOfPrivatePages) == merged_areas(quire, kOfPrivatePages);
  }
  const bool maps_over = op.call == Call::kMmap || op.call == Call::kRemapFilePages;
  const bool cut = maps_over && answer.starts_with("= -1 errno 12");
  if (op.call == Call::kMremap && (op.flags & MREMAP_FIXED) != 0 && answer.starts_with("= -1 errno 12")) return true;
  const bool merged = op.call != Call::kExit && std::ranges::count(host, '\n') < std::ranges::count(quire, '\n');
  return (cut || merged) && merged_areas(host, kSummable) == merged_areas(quire, kSummable);
}

bool of_two(const Op& op) { return op.call == Call::kProcessVm || op.call == Call::kProcessMadvise; }

// Both do the program until they differ. Steps of processes that do not live are passed over. How many were compared is
// added to `compared`.
std::optional<Difference> compare(const std::vector<Op>& program, std::uint64_t file_seed, std::uint64_t& compared) {
  HostSide host(disk_bytes(file_seed));
  QuireSide quire(file_seed, host.beginning());
  std::optional<Difference> difference;
  quire.run([&] {
    for (std::size_t step = 0; step < program.size(); ++step) {
      const Op& op = program[step];
      if (!quire.alive(op.process) || (op.call == Call::kFork && quire.alive(op.child)) || !comparable(op, quire)) continue;
      if (of_two(op) && !quire.alive(op.child)) continue;
      const std::string answer_host = describe(op, host.run(op));
      const std::string answer_quire = describe(op, quire.run(op));
      const std::string arena_host = op.call != Call::kExit ? host.arena(op.process) : "";
      const std::string arena_quire = op.call != Call::kExit ? quire.arena(op.process) : "";
      ++compared;
      if (answer_host == answer_quire && arena_host == arena_quire) continue;
      // Otherwise no difference, but the end of what can be compared.
      if (answer_host != answer_quire || !newer_kernel_does_otherwise(op, arena_host, arena_quire, answer_host)) {
        difference = Difference{step, answer_host + "\n" + arena_host, answer_quire + "\n" + arena_quire};
      }
      break;
    }
    if (!difference) quire.validate();
  });
  return difference;
}

// A difference that shows each time. The host's flusher may clean a page of the disk file between two steps, when others fill
// its memory with dirty pages: that passes.
std::optional<Difference> compare_surely(const std::vector<Op>& program, std::uint64_t file_seed, std::uint64_t& compared) {
  constexpr int kTimes = 4;
  std::optional<Difference> difference;
  for (int time = 0; time < kTimes; ++time) {
    auto seen = compare(program, file_seed, compared);
    if (!seen || (difference && seen->step != difference->step)) return std::nullopt;
    difference = std::move(seen);
  }
  return difference;
}

// Leaves out what the difference does not need: halves first, then single steps.
std::vector<Op> shrink(std::vector<Op> program, std::uint64_t file_seed) {
  std::uint64_t compared = 0;
  for (std::size_t chunk = program.size() / 2; chunk != 0; chunk /= 2) {
    for (std::size_t from = 0; from < program.size();) {
      std::vector<Op> shorter = program;
      const auto begin = shorter.begin() + static_cast<std::ptrdiff_t>(from);
      shorter.erase(begin, begin + static_cast<std::ptrdiff_t>(std::min(chunk, shorter.size() - from)));
      const auto difference = compare_surely(shorter, file_seed, compared);
      if (difference) {
        shorter.resize(difference->step + 1);
        program = std::move(shorter);
      } else {
        from += chunk;
      }
    }
  }
  return program;
}

enum class Program : std::uint8_t { kAsSteps, kAsC };

void report(const std::vector<Op>& program, std::uint64_t seed, Program print) {
  const std::vector<Op> shortest = shrink(program, seed);
  std::uint64_t compared = 0;
  const auto difference = compare(shortest, seed, compared);
  fmt::print("seed {}: the kernel and Quire differ\n", seed);
  int step = 0;
  for (const Op& op : shortest) fmt::print("  {}: process {}: {}\n", step++, op.process, to_c(op));
  if (difference) {
    fmt::print("--- kernel\n{}\n--- Quire\n{}\n", difference->host, difference->quire);
    if (print == Program::kAsC) fmt::print("--- as a program\n{}", to_c_program(shortest));
  } else {
    fmt::print("(it does not show again: chance is at work)\n");
  }
}

// Steps that kernels answer in different ways are known from 6.1 (a guest) and 6.18 (a host); what lies between may have some
// of one and some of the other, and other kernels (gVisor, WSL) may be anything.
bool known_kernel(const utsname& host) {
  int major = 0;
  int minor = 0;
  return std::sscanf(host.release, "%d.%d", &major, &minor) == 2 && major == 6 && minor >= 17;
}

struct Options {
  std::uint64_t ops = 24'000;
  std::uint64_t seed = 1;
  std::uint64_t steps = 150;  // of one program
  bool keep_going = false;
  bool any_kernel = false;
};

// Digits alone, within bounds: a number that is read as another one compares for hours, or nothing.
CLI::Validator whole_number(std::uint64_t least, std::uint64_t most) {
  const auto check = [least, most](const std::string& text) -> std::string {
    std::uint64_t number = 0;
    const auto [after, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc{} && after == text.data() + text.size() && number >= least && number <= most) return {};
    return fmt::format("'{}' is no whole number from {} to {}", text, least, most);
  };
  return CLI::Validator(check, "N");
}

int run(const Options& options) {
  std::uint64_t different = 0;
  std::uint64_t programs = 0;
  std::uint64_t compared = 0;
  for (std::uint64_t done = 0; done < options.ops; done += options.steps, ++programs) {
    const std::uint64_t seed = options.seed + programs;
    Rng rng(seed);
    std::vector<Op> program = random_program(rng, options.steps);
    const auto difference = compare_surely(program, seed, compared);
    if (!difference) continue;
    program.resize(difference->step + 1);
    report(program, seed, options.keep_going ? Program::kAsSteps : Program::kAsC);
    ++different;
    if (!options.keep_going) break;
  }
  fmt::print("{} programs of {} steps, {} differ; {} steps compared\n", programs, options.steps, different, compared);
  return different == 0 && !::testing::Test::HasFailure() ? 0 : 1;
}

}  // namespace
}  // namespace quire::differential

int main(int argc, char** argv) {
  // Without chance in the host's choice of addresses (MAP_32BIT); the setting holds from the next exec on.
  const int persona = personality(0xffffffff);
  if (persona != -1 && (persona & ADDR_NO_RANDOMIZE) == 0 && personality(persona | ADDR_NO_RANDOMIZE) != -1) {
    execv("/proc/self/exe", argv);
  }
  CLI::App app("Random mmap-family programs on the host's kernel and on a Quire machine");
  using quire::differential::whole_number;
  quire::differential::Options options;
  app.add_option("--ops", options.ops, "steps in all")->check(whole_number(1, 1'000'000'000))->capture_default_str();
  app.add_option("--seed", options.seed, "of the first program")
      ->check(whole_number(0, 1'000'000'000'000'000))
      ->capture_default_str();
  app.add_option("--steps", options.steps, "of one program")->check(whole_number(1, 100'000))->capture_default_str();
  app.add_flag("--keep-going", options.keep_going, "go on after a difference");
  app.add_flag("--any-kernel", options.any_kernel, "on kernels too whose differences from 6.1 are not known");
  CLI11_PARSE(app, argc, argv);
  utsname host{};
  uname(&host);
  if (!options.any_kernel && !quire::differential::known_kernel(host)) {
    fmt::print("skipped: kernel {} is no 6.17 or newer 6.x, and how it differs from 6.1 is not known (--any-kernel tries)\n",
               host.release);
    return 77;
  }
  try {
    return quire::differential::run(options);
  } catch (const std::exception& error) {
    std::cerr << "differential_vm: " << error.what() << "\n";
    return 2;
  }
}
