// Reports on pages in a state that cannot be: what is wrong, and everything the struct Page says.
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "quire/phys/phys_mem.h"

namespace quire::phys {

namespace {

// "raw: " and "head: " lines: the struct Page as eight words.
std::string raw_words(std::string_view name, const Page& page) {
  std::array<std::uint64_t, sizeof(Page) / 8> words{};
  std::memcpy(words.data(), static_cast<const void*>(&page), sizeof(Page));
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i % 4 == 0) text += fmt::format("\n{}:", name);
    text += fmt::format(" {:016x}", words[i]);
  }
  return text;
}

std::string flags_line(const Page& page, bool cma) {
  const char* kind = "";
  if ((page.mapping & kMappingFlags) == kMappingKsm) {
    kind = "ksm ";
  } else if ((page.mapping & kMappingAnon) != 0) {
    kind = "anon ";
  }
  std::string names = page_flag_names(page.flags & kPageFlagsMask);
  if (!names.empty()) names += '|';
  return fmt::format("\n{}flags: {:#x}({}node={}|zone={}){}", kind, page.flags, names, page.nid().value(),
                     static_cast<unsigned>(page.zone_type()), cma ? " CMA" : "");
}

}  // namespace

std::string PhysMem::dump_page(const Page& page, std::string_view why) const {
  // A tail may lie about its head; only one that is near enough to be the truth is looked at.
  const Page* head = &compound_head(page);
  const bool believable = head <= &page && &page - head < static_cast<std::ptrdiff_t>(kMaxOrder.pages());
  if (!believable) head = &page;
  const Pfn pfn = page_to_pfn(page);
  std::string text =
      fmt::format("page:{} refcount:{} mapcount:{} mapping:{:016x} index:{:#x} pfn:{:#x}", fmt::ptr(&page), head->refcount,
                  head->test(PageFlag::kSlab) ? 0 : page.mapcount, head->mapping, page.index, pfn.value());
  if (head->is_head() && believable) {
    text += fmt::format("\nhead:{} order:{} compound_mapcount:{} compound_pincount:0", fmt::ptr(head),
                        compound_order(*head).value(), head[1].tail.mapcount);
  }
  const bool cma = pfn_valid(pfn) && pageblock_migratetype(pfn) == MigrateType::kCma;
  text += flags_line(*head, cma);
  text += raw_words("raw", page);
  if (head != &page || page.is_head()) text += raw_words("head", *head);
  if (!why.empty()) text += fmt::format("\npage dumped because: {}", why);
  return text;
}

void PhysMem::bad_page(const Page& page, std::string_view why) const {
  bug(fmt::format("Bad page state in process {}  pfn:{:05x}\n{}", scheduler_.context().name(), page_to_pfn(page).value(),
                  dump_page(page, why)));
}

}  // namespace quire::phys
