#include "quire/phys/iomem.h"

#include <fmt/format.h>

#include <algorithm>

#include "quire/base/bug.h"

namespace quire::phys {

namespace {

bool overlaps(const Resource& r, Range<PhysAddr> range) { return !r.range.intersect(range).empty(); }

// The children of `parent` that touch the range: [first, last).
std::pair<std::size_t, std::size_t> touching(const Resource& parent, Range<PhysAddr> range) {
  const auto& children = parent.children;
  const auto first = std::ranges::find_if(children, [&](const Resource& r) { return overlaps(r, range); });
  const auto last = std::find_if_not(first, children.end(), [&](const Resource& r) { return overlaps(r, range); });
  return {static_cast<std::size_t>(first - children.begin()), static_cast<std::size_t>(last - children.begin())};
}

void place(Resource& parent, Resource resource) {
  const auto after =
      std::ranges::find_if(parent.children, [&](const Resource& r) { return r.range.begin > resource.range.begin; });
  parent.children.insert(after, std::move(resource));
}

Status insert_into(Resource& parent, Range<PhysAddr> range, std::string&& name, ResourceUse use) {
  const auto [first, last] = touching(parent, range);
  if (last - first == 1 && parent.children[first].range.contains(range)) {
    return insert_into(parent.children[first], range, std::move(name), use);
  }
  Resource resource{.range = range, .name = std::move(name), .use = use, .children = {}};
  for (std::size_t i = first; i < last; ++i) {
    if (!range.contains(parent.children[i].range)) return fail(Errno::kBusy);
  }
  const auto from = parent.children.begin() + static_cast<std::ptrdiff_t>(first);
  const auto to = parent.children.begin() + static_cast<std::ptrdiff_t>(last);
  resource.children.assign(std::move_iterator(from), std::move_iterator(to));
  parent.children.erase(from, to);
  place(parent, std::move(resource));
  return {};
}

bool release_from(Resource& parent, Range<PhysAddr> range, std::string_view name) {
  const auto exact = std::ranges::find_if(
      parent.children, [&](const Resource& r) { return r.range == range && r.name == name && r.children.empty(); });
  if (exact != parent.children.end()) {
    parent.children.erase(exact);
    return true;
  }
  return std::ranges::any_of(parent.children,
                             [&](Resource& r) { return r.range.contains(range) && release_from(r, range, name); });
}

bool release_part(Resource& parent, Range<PhysAddr> range) {
  const auto found = std::ranges::find_if(parent.children, [&](const Resource& r) { return r.range.contains(range); });
  if (found == parent.children.end()) return false;
  if (!found->children.empty() || found->use != ResourceUse::kBusy) return release_part(*found, range);
  Resource rest = *found;
  rest.range.begin = range.end;
  found->range.end = range.begin;
  const bool front_gone = found->range.empty();
  if (!rest.range.empty()) place(parent, std::move(rest));
  if (front_gone) std::erase_if(parent.children, [](const Resource& r) { return r.range.empty(); });
  return true;
}

std::uint64_t busy_in(const Resource& parent, Range<PhysAddr> range, std::string_view prefix) {
  std::uint64_t bytes = 0;
  for (const Resource& r : parent.children) {
    const bool counts = r.use == ResourceUse::kBusy && r.name.starts_with(prefix);
    bytes += counts ? r.range.intersect(range).size() : busy_in(r, range, prefix);
  }
  return bytes;
}

void print(std::string& text, const Resource& resource, unsigned depth) {
  text += fmt::format("{:{}}{:08x}-{:08x} : {}\n", "", depth * 2, resource.range.begin.value(), resource.range.end.value() - 1,
                      resource.name);
  for (const Resource& child : resource.children) print(text, child, depth + 1);
}

void check(const Resource& parent) {
  PhysAddr at = parent.range.begin;
  for (const Resource& child : parent.children) {
    QUIRE_BUG_ON(child.range.empty() || child.range.begin < at || child.range.end > parent.range.end);
    at = child.range.end;
    check(child);
  }
}

}  // namespace

std::string_view iomem_name(E820Type type) {
  switch (type) {
    case E820Type::kRam: return "System RAM";
    case E820Type::kReserved: return "Reserved";
    case E820Type::kAcpi: return "ACPI Tables";
    case E820Type::kNvs: return "ACPI Non-volatile Storage";
    case E820Type::kUnusable: return "Unusable memory";
    case E820Type::kPmem: return "Persistent Memory";
    case E820Type::kPram: return "Persistent Memory (legacy)";
  }
  return "Unknown E820 type";
}

// Low memory is nobody's to claim, whatever it is.
ResourceUse iomem_use(const E820Entry& entry) {
  if (entry.range.begin < PhysAddr(kMiB)) return ResourceUse::kBusy;
  const bool claimable = entry.type == E820Type::kReserved || entry.type == E820Type::kPmem || entry.type == E820Type::kPram;
  return claimable ? ResourceUse::kFree : ResourceUse::kBusy;
}

Status IomemTree::insert(Range<PhysAddr> range, std::string name, ResourceUse use) {
  if (range.empty()) return fail(Errno::kInval);
  return insert_into(root_, range, std::move(name), use);
}

Status IomemTree::release_adjustable(Range<PhysAddr> range) {
  if (range.empty() || !release_part(root_, range)) return fail(Errno::kInval);
  return {};
}

std::uint64_t IomemTree::busy_bytes(Range<PhysAddr> range, std::string_view prefix) const {
  return busy_in(root_, range, prefix);
}

Status IomemTree::request(Range<PhysAddr> range, std::string name, ResourceUse use) {
  if (range.empty()) return fail(Errno::kInval);
  Resource* parent = &root_;
  for (;;) {
    const auto [first, last] = touching(*parent, range);
    if (first == last) break;
    Resource& there = parent->children[first];
    if (last - first != 1 || !there.range.contains(range) || there.use == ResourceUse::kBusy) return fail(Errno::kBusy);
    parent = &there;
  }
  place(*parent, Resource{.range = range, .name = std::move(name), .use = use, .children = {}});
  return {};
}

void IomemTree::fill(Range<PhysAddr> range, std::string_view name) {
  const auto [first, last] = touching(root_, range);
  std::vector<Range<PhysAddr>> gaps;
  PhysAddr at = range.begin;
  for (std::size_t i = first; i < last; ++i) {
    const Range<PhysAddr>& there = root_.children[i].range;
    if (at < there.begin) gaps.push_back({at, there.begin});
    at = std::max(at, there.end);
  }
  if (at < range.end) gaps.push_back({at, range.end});
  for (const Range<PhysAddr>& gap : gaps) place(root_, Resource{.range = gap, .name = std::string(name), .children = {}});
}

Status IomemTree::release(Range<PhysAddr> range, std::string_view name) {
  if (!release_from(root_, range, name)) return fail(Errno::kNoEnt);
  return {};
}

const Resource* IomemTree::find(Range<PhysAddr> range) const {
  const Resource* found = nullptr;
  const Resource* at = &root_;
  while (at != nullptr) {
    const auto child = std::ranges::find_if(at->children, [&](const Resource& r) { return r.range.contains(range); });
    at = child == at->children.end() ? nullptr : &*child;
    if (at != nullptr) found = at;
  }
  return found;
}

std::string IomemTree::text() const {
  std::string text;
  for (const Resource& resource : root_.children) print(text, resource, 0);
  return text;
}

void IomemTree::validate() const { check(root_); }

}  // namespace quire::phys
