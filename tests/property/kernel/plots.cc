#include "plots.h"

#include <algorithm>

namespace quire::kernel::test {

Content::Content() {
  for (Possible& slot : may) slot = {0};
}

void Content::add(unsigned slot, Number value) {
  may[slot].insert(value);
  if (copy != nullptr) copy->may[slot].insert(value);
  for (Slots* watch : watches) (*watch)[slot].insert(value);
}

void Content::add_zeroes() {
  for (unsigned slot = 0; slot < kSlots; ++slot) add(slot, 0);
}

void Content::settle(unsigned slot, Number value) {
  may[slot] = {value};
  if (coming[slot] != 0) may[slot].insert(coming[slot]);
}

// A write takes MADV_FREE back. It came to the page or, where that was gone already, to a fresh one.
void Content::before_write() {
  if (may_vanish()) add_zeroes();
  if (freeing == 0) lazy = false;
}

void Content::written(unsigned slot, Number value) {
  before_write();
  add(slot, value);
  disturbed[slot] = true;
  if (moving != 0) return;
  settle(slot, value);
  if (zeroing != 0) may[slot].insert(0);
}

void Content::begin_write(unsigned slot, Number value) {
  add(slot, value);
  coming[slot] = value;
  disturbed[slot] = true;
}

void Content::end_write(unsigned slot, bool done, Moment begun) {
  const Number value = coming[slot];
  coming[slot] = 0;
  disturbed[slot] = true;
  if (!done) return;
  if (droppable || unsettled_since(begun)) return add_zeroes();  // it may have gone again before the call ended
  before_write();
  settle(slot, value);
}

bool Content::found(unsigned slot, Number value) {
  const bool expected = may[slot].contains(value);
  if (!expected && (value != 0 || !may_vanish())) return false;
  if (unsettled()) return true;
  if (!expected) {
    is_zero_now();  // the page went as a whole
  } else {
    settle(slot, value);
  }
  return true;
}

void Content::begin_zeroing() {
  ++zeroing;
  disturbed = {};
  add_zeroes();
}

void Content::end_zeroing(Clock& clock) {
  --zeroing;
  last_unsettled = clock.tick();
  for (unsigned slot = 0; slot < kSlots; ++slot) {
    if (!disturbed[slot]) settle(slot, 0);
  }
}

void Content::is_zero_now() {
  for (unsigned slot = 0; slot < kSlots; ++slot) settle(slot, 0);
}

void Content::begin_freeing() {
  ++freeing;
  for (Slots* watch : watches) {
    for (Possible& slot : *watch) slot.insert(0);
  }
}

void Content::end_freeing(Clock& clock) {
  --freeing;
  lazy = true;
  last_unsettled = clock.tick();
}

void Content::begin_moving() {
  ++moving;
  for (Slots* watch : watches) {
    for (Possible& slot : *watch) slot.insert(0);
  }
}

void Content::end_moving(Clock& clock) {
  --moving;
  last_unsettled = clock.tick();
}

std::shared_ptr<Content> Content::copied() const {
  auto child = std::make_shared<Content>();
  child->may = may;
  child->lazy = lazy;
  return child;
}

void Plot::renew(PlotKind as, SealedFile* of, Moment now) {
  kind = as;
  file = of;
  placed = now;
  read_only = {};
  never_writable = locked = sealed = wiped_on_fork = not_forked = false;
  for (std::uint64_t i = 0; i < kPlotPages; ++i) {
    pages[i] = {of != nullptr ? of->contents[i] : std::make_shared<Content>(), {}};
    if (kind == PlotKind::kDroppable) pages[i].content->droppable = true;
  }
}

namespace {

// What a plot of anonymous memory becomes in a child that gets fresh pages for it.
void wipe(Plot& plot) {
  for (PlotPage& page : plot.pages) {
    const bool droppable = page.content->droppable;
    page = {std::make_shared<Content>(), {}};
    page.content->droppable = droppable;
  }
}

}  // namespace

void begin_fork(Space& parent, Space& child, Moment now) {
  child.plots = parent.plots;
  child.scratch = parent.scratch;
  child.next_apart = parent.next_apart;
  for (std::size_t i = 0; i < kPlots; ++i) {
    Plot& plot = child.plots[i];
    plot.busy = plot.placing = plot.locked = false;
    plot.remote = 0;
    plot.placed = now;
    if (plot.not_forked) plot.mapped = false;
    if (!plot.mapped) continue;
    if (plot.kind == PlotKind::kFile) {
      continue;
    }
    if (plot.kind == PlotKind::kDroppable || plot.wiped_on_fork) {
      wipe(plot);
    } else {
      for (std::uint64_t page = 0; page < kPlotPages; ++page) {
        Content& theirs = *parent.plots[i].pages[page].content;
        plot.pages[page].content = theirs.copied();
        theirs.copy = plot.pages[page].content.get();
      }
    }
  }
}

void end_fork(Space& parent) {
  for (Plot& plot : parent.plots) {
    if (!plot.mapped) continue;  // what it shows still is another's, who may be forking, too
    for (PlotPage& page : plot.pages) {
      if (page.content) page.content->copy = nullptr;
    }
  }
}

}  // namespace quire::kernel::test
