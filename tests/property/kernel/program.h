// A random program for a machine in data mode, and the naive model it is held against: every page it may read is kept as
// 4 KiB of plain bytes beside the machine.
//
// The program maps, writes, reads, protects, moves, forks, forgets and unmaps memory; after each read the bytes must be the
// model's. Shared mappings share their pages' models between the processes that inherit them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quire/base/rng.h"
#include "quire/kernel/machine.h"

namespace quire::kernel::test {

using PageModel = std::array<std::byte, kPageSize>;

struct ProgramOptions {
  unsigned steps = 300;
  unsigned most_pages = 600;    // per process
  unsigned most_processes = 6;  // of the machine, living
};

// Shared by all programs of one machine: what they count together, and the first thing that went wrong.
struct Findings {
  std::uint64_t reads = 0, writes = 0, forks = 0, calls = 0, killed = 0, checks = 0;
  unsigned living = 0;
  std::string first_mismatch;
};

class Program {
 public:
  Program(Machine& machine, const ProgramOptions& options, Findings& findings, std::uint64_t seed)
      : machine_(machine), options_(options), findings_(findings), rng_(seed) {}

  // Runs on a thread of the machine until its steps are done or it was killed.
  void run(Thread& thread);

 private:
  enum class Sharing : std::uint8_t { kPrivate, kShared };
  enum class Rights : std::uint8_t { kReadWrite, kReadOnly, kNone };
  struct MappedPage {
    std::shared_ptr<PageModel> bytes;  // all zero until written
    Sharing sharing = Sharing::kPrivate;
    Rights rights = Rights::kReadWrite;
  };
  using Pages = std::map<std::uint64_t, MappedPage>;  // by virtual page number

  void step();
  void map();
  void unmap();
  void protect();
  void move();
  void forget();
  void fork();
  void write_some();
  void fill();
  void write_to(Pages::iterator it);
  void read_some();
  void check_whole_page();
  void check_forbidden();
  void wait_for_child();

  [[nodiscard]] bool killed() const { return thread_->process->killed(); }
  [[nodiscard]] vm::Mm& mm() { return *thread_->process->mm; }
  // A run of pages that are mapped without a hole, at most `most` long; empty when nothing is mapped.
  [[nodiscard]] Range<std::uint64_t> random_run(std::uint64_t most);
  [[nodiscard]] Pages::iterator random_page();
  void compare(std::uint64_t vpn, const PageModel& model, std::uint64_t offset, std::uint64_t length);
  void mismatch(std::string what);

  Machine& machine_;
  ProgramOptions options_;
  Findings& findings_;
  Rng rng_;
  Thread* thread_ = nullptr;
  Pages pages_;
  std::vector<Process*> children_;
};

}  // namespace quire::kernel::test
