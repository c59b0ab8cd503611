// Tracepoints of the file floor, with ftrace's names and fields.
#pragma once

#include <cstdint>
#include <string_view>

#include "quire/base/tracepoint.h"
#include "quire/base/types.h"

namespace quire::file {

struct PageCacheEvent {
  Pfn pfn;
  std::uint64_t i_ino = 0;
  std::uint64_t index = 0;  // pages; ftrace prints ofs in bytes
  std::uint32_t s_dev = 0;
  unsigned order = 0;
  void fields(auto&& f) const {
    f("pfn", pfn.value());
    f("i_ino", i_ino);
    f("index", index);
    f("s_dev", s_dev);
    f("order", order);
  }
};
struct MmFilemapAddToPageCache : PageCacheEvent {
  static constexpr std::string_view kName = "mm_filemap_add_to_page_cache";
};
struct MmFilemapDeleteFromPageCache : PageCacheEvent {
  static constexpr std::string_view kName = "mm_filemap_delete_from_page_cache";
};
using MmFilemapAddToPageCacheTracepoint = Tracepoint<MmFilemapAddToPageCache>;
using MmFilemapDeleteFromPageCacheTracepoint = Tracepoint<MmFilemapDeleteFromPageCache>;

struct WritebackDirtyFolio {
  static constexpr std::string_view kName = "writeback_dirty_folio";
  std::uint64_t ino = 0;
  std::uint64_t index = 0;
  void fields(auto&& f) const {
    f("ino", ino);
    f("index", index);
  }
};
struct WritebackWritePages {
  static constexpr std::string_view kName = "writeback_single_inode";
  std::uint64_t ino = 0;
  std::uint64_t wrote = 0;
  std::uint64_t nr_to_write = 0;
  void fields(auto&& f) const {
    f("ino", ino);
    f("wrote", wrote);
    f("nr_to_write", nr_to_write);
  }
};
struct WritebackStart {
  static constexpr std::string_view kName = "writeback_start";
  std::string_view reason;
  std::uint64_t nr_pages = 0;
  void fields(auto&& f) const {
    f("nr_pages", nr_pages);
    f("reason", reason);
  }
};
struct BalanceDirtyPages {
  static constexpr std::string_view kName = "balance_dirty_pages";
  std::uint64_t limit = 0;
  std::uint64_t setpoint = 0;
  std::uint64_t dirty = 0;
  std::uint64_t dirty_ratelimit = 0;  // KiB/s
  std::uint64_t dirtied = 0;
  std::uint64_t pause = 0;  // ms
  void fields(auto&& f) const {
    f("limit", limit);
    f("setpoint", setpoint);
    f("dirty", dirty);
    f("dirty_ratelimit", dirty_ratelimit);
    f("dirtied", dirtied);
    f("pause", pause);
  }
};

}  // namespace quire::file
