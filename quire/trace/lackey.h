// Valgrind lackey text → trace, for small programs recorded elsewhere:
//
//   valgrind --tool=lackey --trace-mem=yes --log-file=t.lackey program
//
// "I  addr,size" is an instruction, " L", " S", " M" a load, a store, a load and store. Other lines (valgrind's "==pid==")
// are skipped. The result is one task with no areas or system calls: replay maps what it touches.
#pragma once

#include <cstdint>
#include <expected>
#include <istream>
#include <string>

#include "quire/trace/writer.h"

namespace quire::trace {

struct LackeyStatistics {
  std::uint64_t lines = 0;
  std::uint64_t instructions = 0;
  std::uint64_t accesses = 0;  // written, after the window
};

// window: as in recording, 0 = keep all. An error names the line. Does not finish the writer.
std::expected<LackeyStatistics, std::string> import_lackey(std::istream& text, const std::string& name, TraceWriter& writer,
                                                           std::uint64_t window);

}  // namespace quire::trace
