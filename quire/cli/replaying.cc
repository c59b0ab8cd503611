#include "quire/cli/replaying.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <utility>

#include "quire/cli/command.h"

namespace quire::cli {

Checked<Readers> open_traces(const std::vector<std::string>& paths) {
  Readers readers;
  for (const std::string& path : paths) {
    auto reader = trace::TraceReader::open(path);
    if (!reader) return user_error(reader.error());
    readers.push_back(std::move(*reader));
  }
  return readers;
}

std::uint64_t total_bytes(const std::vector<std::string>& paths) {
  std::uint64_t sum = 0;
  for (const std::string& path : paths) {
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    if (error) return 0;
    sum += size;
  }
  return sum;
}

Checked<engine::RunReport> replay_on(const kernel::MachineConfig& config, Readers readers,
                                     std::function<void(std::uint64_t)> progress) {
  const auto start = std::chrono::steady_clock::now();
  auto machine = kernel::Machine::boot(config);
  if (!machine) return std::unexpected(machine.error());
  engine::Replay replay(**machine);
  for (auto& reader : readers) {
    if (auto ok = replay.add(std::move(reader)); !ok) return std::unexpected(ok.error());
  }
  replay.on_progress(std::move(progress));
  if (auto ok = replay.run(); !ok) return std::unexpected(ok.error());
  const std::chrono::duration<double> host = std::chrono::steady_clock::now() - start;
  return engine::make_report(**machine, replay, host.count());
}

namespace {

// A trace that is damaged says so; one that has not been read to its end yet has nothing to say.
template <class Program>
int tell_damage_of(const std::vector<Program>& programs) {
  int status = 0;
  for (const Program& program : programs) {
    for (const std::string& warning : program.warnings) complain(warning);
    if (!program.whole && !program.warnings.empty()) status = kFailed;
  }
  return status;
}

}  // namespace

int tell_damage(const engine::RunReport& report) { return tell_damage_of(report.programs); }
int tell_damage(const engine::Replay& replay) { return tell_damage_of(replay.outcomes()); }

int tell_slab_reports(const engine::RunReport& report) {
  if (report.slab_problems == 0) return 0;
  for (const std::string& text : report.slab_reports) fmt::print(stderr, "{}\n", text);
  return complain(fmt::format("the debugging of kernel objects found {} problem{}, the first {} of which stand above",
                              report.slab_problems, report.slab_problems == 1 ? "" : "s", report.slab_reports.size()));
}

}  // namespace quire::cli
