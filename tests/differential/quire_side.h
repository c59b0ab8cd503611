// The same steps on a Quire machine. Lives in a task of it: call from inside run().
#pragma once

#include <array>
#include <functional>
#include <string>

#include "../unit/vm/vm_machine.h"
#include "answer.h"
#include "op.h"

namespace quire::differential {

class QuireSide {
 public:
  // `beginning`: how large process 0 is before its first step, arena not counted.
  QuireSide(std::uint64_t file_seed, const Beginning& beginning);

  // Boots process 0, runs `body` in a task of the machine, ends all processes and checks that nothing of them is left.
  void run(const std::function<void()>& body);

  [[nodiscard]] bool alive(unsigned process) const { return mms_[process] != nullptr; }
  Answer run(const Op& op);
  [[nodiscard]] std::string arena(unsigned process);
  void validate() { machine_.vm.validate(); }
  // Is there a private writable area in the range in which nothing anonymous has been faulted yet?
  [[nodiscard]] bool has_untouched_writable(unsigned process, std::uint64_t address, std::uint64_t length) const;
  // Does any area of the process grow down?
  [[nodiscard]] bool grows_down(unsigned process) const;
  // Does one area hold the whole range?
  [[nodiscard]] bool in_one_area(unsigned process, std::uint64_t address, std::uint64_t length) const;

 private:
  Answer access(vm::Mm& mm, const Op& op);
  Answer call(vm::Mm& mm, const Op& op);
  Answer file_call(const Op& op);
  Answer remote_call(vm::Mm& mm, const Op& op);
  Answer mincore(vm::Mm& mm, const Op& op);
  Answer set_rlimit(vm::Mm& mm, const Op& op);
  void begin(vm::Mm& mm);
  Answer fork(vm::Mm& mm, const Op& op);

  vm::VmMachine machine_;
  std::uint64_t file_seed_;
  Beginning beginning_;
  file::File* disk_file_ = nullptr;
  file::File* memfd_ = nullptr;
  std::array<vm::Mm*, kProcesses> mms_{};
};

// What the disk file holds on both sides.
[[nodiscard]] std::string disk_bytes(std::uint64_t file_seed);

}  // namespace quire::differential
