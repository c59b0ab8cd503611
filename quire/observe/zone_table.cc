#include "quire/observe/zone_table.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace quire::observe {

namespace {

using phys::Watermark;

std::string protection(const phys::PhysMem& phys, const phys::Zone& zone) {
  std::string text;
  phys.for_each_zone_type(
      [&](phys::ZoneType type) { text += fmt::format("{}{}", text.empty() ? "(" : ", ", zone.lowmem_reserve(type)); });
  return text + ")";
}

}  // namespace

std::string zone_table(phys::PhysMem& phys) {
  std::string text = fmt::format("{:>4} {:<8} {:>11} {:>11} {:>11} {:>11} {:>8} {:>8} {:>8}  {}\n", "node", "zone", "spanned",
                                 "present", "managed", "free", "min", "low", "high", "protection");
  phys.for_each_populated_zone([&](phys::Zone& zone) {
    text += fmt::format("{:>4} {:<8} {:>11} {:>11} {:>11} {:>11} {:>8} {:>8} {:>8}  {}\n", zone.node().nid().value(),
                        zone.name(), zone.spanned_pages(), zone.present_pages(), zone.managed_pages(), zone.free_pages(),
                        zone.watermark(Watermark::kMin), zone.watermark(Watermark::kLow), zone.watermark(Watermark::kHigh),
                        protection(phys, zone));
  });
  return text;
}

nlohmann::json zones_json(phys::PhysMem& phys) {
  nlohmann::json zones = nlohmann::json::array();
  phys.for_each_populated_zone([&](phys::Zone& zone) {
    nlohmann::json reserve = nlohmann::json::array();
    phys.for_each_zone_type([&](phys::ZoneType type) { reserve.push_back(zone.lowmem_reserve(type)); });
    zones.push_back({{"node", zone.node().nid().value()},
                     {"zone", zone.name()},
                     {"start_pfn", zone.start_pfn().value()},
                     {"spanned", zone.spanned_pages()},
                     {"present", zone.present_pages()},
                     {"managed", zone.managed_pages()},
                     {"free", zone.free_pages()},
                     {"min", zone.watermark(Watermark::kMin)},
                     {"low", zone.watermark(Watermark::kLow)},
                     {"high", zone.watermark(Watermark::kHigh)},
                     {"protection", std::move(reserve)}});
  });
  return zones;
}

}  // namespace quire::observe
