// Which tunables were written on the running machine: those that are not what Linux computes, or its default. To know what
// Linux computes, the machine is booted.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "quire/kernel/machine.h"
#include "quire/kernel/sysctl.h"
#include "quire/like/lines.h"
#include "quire/like/parts.h"

namespace quire::like {

namespace {

class Tunables {
 public:
  Tunables(const Evidence& evidence, RecordedMachine& machine) : evidence_(evidence), machine_(machine) {}

  Checked<void> take() {
    take_plain();
    take_lists();
    if (auto ok = take_min_free(); !ok) return ok;
    return take_moments();
  }

 private:
  using Booted = std::unique_ptr<kernel::Machine>;

  [[nodiscard]] phys::RecordedBoot& recorded() { return *machine_.config.recorded; }
  [[nodiscard]] std::optional<std::uint64_t> value(const std::string& name) const {
    const auto it = evidence_.sysctl.find(name);
    return it == evidence_.sysctl.end() ? std::nullopt : decimal(it->second);
  }
  void note(std::string_view name, std::string_view recorded, std::string_view usual) {
    machine_.notes.push_back(fmt::format("vm.{} was set to {} (usual: {})", name, recorded, usual));
  }
  [[nodiscard]] Checked<Booted> boot() const {
    auto machine = kernel::Machine::boot(machine_.config);
    if (!machine) {
      return user_error(
          fmt::format("{}: the machine that it describes does not boot: {}", evidence_.folder.path, machine.error().sentence));
    }
    return machine;
  }

  // Those that stand in the machine's own table.
  void take_plain() {
    for (const kernel::SysctlRow& row : kernel::sysctl_rows()) {
      const std::string name(row.name.substr(3));
      const auto it = evidence_.sysctl.find(name);
      if (it == evidence_.sysctl.end() || name == "min_free_kbytes") continue;
      const auto number = decimal(it->second);
      if (!number) continue;
      const auto signed_number = static_cast<std::int64_t>(*number);
      if (signed_number == row.initial) continue;
      if (!kernel::check_sysctl(row.name, signed_number)) {
        machine_.notes.push_back(
            fmt::format("vm.{} was {}, which no machine here can have; it stays at {}", name, it->second, row.initial));
        continue;
      }
      note(name, it->second, std::to_string(row.initial));
      if (name == "watermark_scale_factor") {
        recorded().watermark_scale_factor = static_cast<std::uint32_t>(*number);
      } else {
        machine_.config.sysctl["vm." + name] = signed_number;
      }
    }
  }

  void take_lists() {
    if (const auto fraction = value("percpu_pagelist_high_fraction"); fraction && *fraction != 0) {
      recorded().percpu_pagelist_high_fraction = static_cast<std::uint32_t>(*fraction);
      note("percpu_pagelist_high_fraction", std::to_string(*fraction), "0");
    }
    const auto ratios = evidence_.sysctl.find("lowmem_reserve_ratio");
    if (ratios == evidence_.sysctl.end()) return;
    std::vector<std::uint32_t> list;
    for (const std::string_view word : words_of(ratios->second))
      list.push_back(static_cast<std::uint32_t>(decimal(word).value_or(0)));
    constexpr std::array<std::uint32_t, 5> kUsual = {256, 256, 32, 0, 0};
    list.resize(kUsual.size(), 0);
    if (std::ranges::equal(list, kUsual)) return;
    recorded().lowmem_reserve_ratio = list;
    note("lowmem_reserve_ratio", ratios->second, "256 256 32 0 0");
  }

  // With huge pages or without; else somebody wrote it.
  Checked<void> take_min_free() {
    const auto min_free = value("min_free_kbytes");
    if (!min_free) return {};
    std::uint64_t computed = 0;
    using Huge = phys::HugePagesAtBoot;
    for (const auto huge : {Huge::kAuto, Huge::kNever, Huge::kOff, Huge::kOn}) {
      recorded().huge_pages = huge;
      const auto machine = boot();
      if (!machine) return std::unexpected(machine.error());
      if (huge == Huge::kAuto) computed = (*machine)->phys().min_free_kbytes();
      if ((*machine)->phys().min_free_kbytes() != *min_free) continue;
      if (huge != Huge::kAuto) {
        machine_.notes.push_back(
            fmt::format("min_free_kbytes says that huge pages were {} at boot", huge == Huge::kOn ? "on" : "off"));
      }
      return {};
    }
    recorded().huge_pages = Huge::kAuto;
    recorded().min_free_kbytes = *min_free;
    note("min_free_kbytes", std::to_string(*min_free), std::to_string(computed));
    return {};
  }

  // Whether every zone's `figure` is the recorded one.
  template <class Figure>
  [[nodiscard]] bool agree(kernel::Machine& machine, Figure&& figure) const {
    return std::ranges::all_of(evidence_.zones, [&](const ZoneFigures& zone) {
      const auto type = zone_type(zone.name);
      if (!type || !zone.populated() || zone.nid >= machine.phys().nodes().size()) return true;
      return figure(zone, machine.phys().node(Nid(static_cast<int>(zone.nid))).zone(static_cast<phys::ZoneType>(*type)));
    });
  }
  [[nodiscard]] bool watermarks_agree(kernel::Machine& machine) const {
    return agree(machine, [](const ZoneFigures& was, const phys::Zone& is) {
      return was.min == is.watermark(phys::Watermark::kMin) && was.low == is.watermark(phys::Watermark::kLow);
    });
  }
  [[nodiscard]] bool protection_agrees(kernel::Machine& machine) const {
    return agree(machine, [](const ZoneFigures& was, const phys::Zone& is) {
      for (const std::string_view name : {"DMA", "DMA32", "Normal", "Movable"}) {
        const std::size_t i = *protection_index(name);
        const auto here = static_cast<std::uint64_t>(is.lowmem_reserve(static_cast<phys::ZoneType>(*zone_type(name))));
        if (i < was.protection.size() && was.protection[i] != here) return false;
      }
      return true;
    });
  }

  // Writing a tunable makes Linux compute again, even when the value stays: then the figures follow from the final `managed`.
  Checked<void> take_moments() {
    if (evidence_.zones.empty()) return {};
    auto machine = boot();
    if (!machine) return std::unexpected(machine.error());
    const bool watermarks = watermarks_agree(**machine);
    const bool protection = protection_agrees(**machine);
    if (watermarks && protection) return {};
    recorded().watermarks_again = !watermarks;
    recorded().protection_again = !protection;
    machine = boot();
    if (!machine) return std::unexpected(machine.error());
    recorded().watermarks_again = !watermarks && watermarks_agree(**machine);
    recorded().protection_again = !protection && protection_agrees(**machine);
    if (recorded().watermarks_again || recorded().protection_again) {
      machine_.notes.push_back(fmt::format("{} were computed again after boot (a tunable was written, or memory came or went)",
                                           recorded().protection_again ? "watermarks and protection" : "watermarks"));
    }
    return {};
  }

  const Evidence& evidence_;
  RecordedMachine& machine_;
};

}  // namespace

Checked<void> take_tunables(const Evidence& evidence, RecordedMachine& machine) { return Tunables(evidence, machine).take(); }

}  // namespace quire::like
