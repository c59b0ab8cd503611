// Memory that comes when the machine has booted: how a person says it, and plugging it in.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "quire/base/size.h"
#include "quire/kernel/machine.h"
#include "quire/phys/device_memory.h"
#include "quire/phys/memory_hotplug.h"

namespace quire::kernel {

namespace {

using phys::OnlineType;

constexpr std::string_view kForm =
    "write SIZE[,at=ADDRESS][,node=N][,online=movable|kernel|no], or pmemN for SIZE[,at=ADDRESS] as in pmem0,node=1";

std::optional<unsigned> number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Checked<void> take_option(std::string_view text, std::string_view name, std::string_view value, PlugSpec& spec) {
  const auto wrong = [&](std::string_view expected) {
    return user_error(fmt::format("plug '{}': {}={}: {}", text, name, value, expected));
  };
  if (name == "at" && !spec.region) {
    const auto address = parse_size(value);
    if (!address) return wrong(address.error().sentence);
    spec.at = *address;
  } else if (name == "node") {
    const auto node = number(value);
    if (!node || *node >= kMaxNodes) return wrong(fmt::format("write a node's number, from 0 to {}", kMaxNodes - 1));
    spec.node = *node;
  } else if (name == "online") {
    if (value == "movable") {
      spec.online = OnlineType::kMovable;
    } else if (value == "kernel") {
      spec.online = OnlineType::kKernel;
    } else if (value == "no") {
      spec.online = std::nullopt;
    } else {
      return wrong("write movable, kernel or no");
    }
  } else {
    return user_error(fmt::format("plug '{}': unknown option '{}'; {}", text, name, kForm));
  }
  return {};
}

std::string count(std::size_t n, std::string_view thing) {
  if (n == 0) return fmt::format("no {}", thing);
  return fmt::format("{} {}{}", n, thing, n == 1 ? "" : "s");
}

std::string sentence_of(Errno error, const PlugSpec& spec, Range<PhysAddr> range) {
  const std::string where =
      fmt::format("plug '{}': {:#x}-{:#x}: ", plug_text(spec), range.begin.value(), range.end.value() - 1);
  switch (error) {
    case Errno::kExist: return where + "something is there already (see --show iomem); choose another at=";
    case Errno::kTooBig: return where + "beyond the room for memory that comes later; leave at= out, or give a lower one";
    case Errno::kNoMem: return where + "no memory for its struct Pages, 64 bytes for each 4 KiB; give the machine more RAM";
    case Errno::kBusy: return where + "in use already";
    default: return where + std::string(errno_name(error));
  }
}

}  // namespace

Checked<PlugSpec> parse_plug_spec(std::string_view text) {
  PlugSpec spec;
  std::string_view first = text.substr(0, text.find(','));
  if (first.starts_with("pmem")) {
    spec.region = number(first.substr(4));
    if (!spec.region) return user_error(fmt::format("plug '{}': {}", text, kForm));
  } else {
    const auto bytes = parse_size(first);
    if (!bytes) return user_error(fmt::format("plug '{}': {}; {}", text, bytes.error().sentence, kForm));
    if (*bytes == 0 || *bytes > 16 * kTiB) return user_error(fmt::format("plug '{}': the size is from 128M to 16T", text));
    spec.bytes = *bytes;
  }
  for (std::size_t at = first.size(); at < text.size();) {
    const std::string_view rest = text.substr(at + 1);
    const std::string_view option = rest.substr(0, rest.find(','));
    const std::size_t equals = option.find('=');
    const std::string_view value = equals == std::string_view::npos ? "" : option.substr(equals + 1);
    if (auto ok = take_option(text, option.substr(0, equals), value, spec); !ok) return std::unexpected(ok.error());
    at += 1 + option.size();
  }
  return spec;
}

std::string plug_text(const PlugSpec& spec) {
  std::string text = spec.region ? fmt::format("pmem{}", *spec.region) : format_size(spec.bytes);
  if (spec.at) text += ",at=" + format_size(*spec.at);
  if (spec.node != 0) text += fmt::format(",node={}", spec.node);
  if (spec.online != OnlineType::kMovable) text += spec.online ? ",online=kernel" : ",online=no";
  return text;
}

Checked<void> Machine::plug_all() {
  PhysAddr next = align_up(std::max(PhysAddr(4 * kGiB), phys_->firmware_map().end_of_ram()), kGiB);
  for (const PlugSpec& spec : config_.plug) {
    if (spec.node >= phys_->nodes().size()) {
      return user_error(
          fmt::format("plug '{}': there is no node {}, the machine has {}; give it one more, as with --node ram=0",
                      plug_text(spec), spec.node, count(phys_->nodes().size(), "node")));
    }
    auto range = spec.region ? plug_region(spec) : plug_module(spec, next);
    if (!range) return std::unexpected(range.error());
    if (!spec.region) next = range->end;
    if (!spec.online) continue;
    if (Status online = phys_->hotplug().online(range->begin, range->size(), *spec.online); !online) {
      return user_error(sentence_of(online.error(), spec, *range));
    }
  }
  return {};
}

Checked<Range<PhysAddr>> Machine::plug_module(const PlugSpec& spec, PhysAddr next) {
  const std::uint64_t block = phys_->hotplug().memory_block_size();
  const PhysAddr start = spec.at ? PhysAddr(*spec.at) : align_up(next, block);
  if (spec.bytes % block != 0 || start.value() % block != 0) {
    return user_error(
        fmt::format("plug '{}': memory comes in whole memory blocks; make the size and at= multiples of {} on this machine",
                    plug_text(spec), format_size(block)));
  }
  const Range<PhysAddr> range{start, start + spec.bytes};
  const Status added = phys_->hotplug().add_memory(Nid(static_cast<int>(spec.node)), start, spec.bytes);
  if (!added) return user_error(sentence_of(added.error(), spec, range));
  return range;
}

Checked<Range<PhysAddr>> Machine::plug_region(const PlugSpec& spec) {
  phys::DeviceMemory& device = phys_->device_memory();
  if (*spec.region >= device.regions().size()) {
    return user_error(fmt::format("plug '{}': the machine has {}; --cmdline memmap=SIZE!START makes one", plug_text(spec),
                                  count(device.regions().size(), "persistent region")));
  }
  const Range<PhysAddr> whole = device.regions()[*spec.region].range;
  const Status added = device.dax_kmem_add(whole, Nid(static_cast<int>(spec.node)));
  if (!added && added.error() == Errno::kInval) {
    return user_error(fmt::format("plug '{}': the region holds no whole memory block of {}", plug_text(spec),
                                  format_size(phys_->hotplug().memory_block_size())));
  }
  if (!added) return user_error(sentence_of(added.error(), spec, whole));
  return device.regions()[*spec.region].kmem;
}

}  // namespace quire::kernel
