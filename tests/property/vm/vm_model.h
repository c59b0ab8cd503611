// What programs should see, page by page: the naive model that the property test compares address spaces with.
//
// A page of memory is eight bytes here (kSlots, spread over the real page); a program's window is a few dozen pages. An object
// (file or shared memory) is a row of such pages that all its mappings share.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "quire/vm/vm_flags.h"

namespace quire::vm {

inline constexpr unsigned kSlots = 8;
inline constexpr std::uint64_t kSlotStride = 509;
using Content = std::array<std::uint8_t, kSlots>;

struct ModelObject {
  std::vector<Content> pages;
};

struct ModelPage {
  Prot prot = Prot::kNone;
  std::shared_ptr<ModelObject> object;  // null: private anonymous
  std::uint64_t index = 0;              // page of the object
  bool shared = false;
  bool own = false;       // a private copy exists (anonymous pages always have one)
  Content content{};      // of the own copy
  bool lazyfree = false;  // MADV_FREE: may turn to zeroes until it is written
  bool dontfork = false;
  bool wipeonfork = false;
  bool locked = false;

  [[nodiscard]] bool beyond_end() const { return object != nullptr && !own && index >= object->pages.size(); }
  // What a read sees; only when !beyond_end().
  [[nodiscard]] Content& seen() { return object != nullptr && !own ? object->pages[index] : content; }
  // What a write changes.
  Content& written() {
    if (object != nullptr && !shared && !own) {
      content = object->pages[index];
      own = true;
    }
    return seen();
  }
  // MAP_POPULATE and mlock break a writable private page from its file at once. False where that ends in an error.
  bool populate() {
    if (prot == Prot::kNone || beyond_end()) return false;
    if (any(prot, Prot::kWrite) && !shared) written();
    return true;
  }
  // MADV_DONTNEED: private memory goes back to what it was before the first write.
  void drop() {
    if (shared) return;
    own = object == nullptr;
    content = {};
    lazyfree = false;
  }
};

// Page numbers within the window → pages.
using ModelMm = std::map<std::uint64_t, ModelPage>;

inline ModelMm model_fork(ModelMm& parent) {
  ModelMm child;
  for (auto& [number, page] : parent) {
    if (page.dontfork) continue;
    ModelPage copy = page;
    copy.locked = false;
    if (page.wipeonfork) copy.drop();
    child[number] = copy;
  }
  return child;
}

}  // namespace quire::vm
