// Brings a machine into a state worth asking it something in: memory filled with a mix of page cache, anonymous and kernel
// pages, and, if asked, in pieces.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "quire/base/user_error.h"
#include "quire/kernel/machine.h"

namespace quire::cli {

struct MachineState {
  unsigned fill_percent = 0;             // of the memory that the buddy manages, in use
  std::optional<Order> fragmented = {};  // no free block of this order or larger is left
};

// What the state came to, in pages.
struct FillReport {
  std::uint64_t page_cache = 0;
  std::uint64_t anonymous = 0;
  std::uint64_t kernel = 0;  // unmovable, as slabs are
  std::uint64_t free = 0;
  std::uint64_t managed = 0;
  std::optional<Order> largest_free = {};  // none: nothing is free
};

class Filler {
 public:
  // `thread`: the caller's, whose process gets the anonymous pages.
  Filler(kernel::Machine& machine, kernel::Thread& thread) : machine_(machine), thread_(thread) {}

  // Call it in the thread. An error says which step could not be done.
  Checked<FillReport> bring_into(const MachineState& state);

 private:
  struct OwnPage {
    Pfn pfn;
    VirtAddr address{};          // of an anonymous page
    phys::Page* page = nullptr;  // of a kernel page
  };

  Checked<void> fill_to(std::uint64_t target_free);
  Checked<void> add_anonymous(std::uint64_t pages);
  Checked<void> add_page_cache(std::uint64_t pages);
  std::uint64_t add_kernel_pages(std::uint64_t pages, phys::Gfp gfp);
  void break_up(Order order, std::uint64_t target_free);
  void let_go(const OwnPage& page);
  void forget_boost();
  [[nodiscard]] std::uint64_t free_pages();
  // Below this kswapd would wake up and undo what is done here.
  [[nodiscard]] std::uint64_t low_mark();
  [[nodiscard]] FillReport report();

  kernel::Machine& machine_;
  kernel::Thread& thread_;
  file::File* file_ = nullptr;
  std::uint64_t file_pages_ = 0;
  std::uint64_t file_size_ = 0;
  std::vector<OwnPage> own_;
};

}  // namespace quire::cli
