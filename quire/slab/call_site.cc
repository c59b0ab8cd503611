#include "quire/slab/call_site.h"

#include <cxxabi.h>
#include <dwarf.h>
#include <elfutils/libdwfl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

namespace quire::slab {
namespace {

struct Frees {
  void operator()(void* p) const { std::free(p); }
};

std::string demangle(const char* symbol) {
  int status = 0;
  const std::unique_ptr<char, Frees> name(abi::__cxa_demangle(symbol, nullptr, nullptr, &status));
  return status == 0 ? name.get() : symbol;
}

// Functions of the slab floor allocate for whoever called them.
enum class Role : std::uint8_t { kUser, kAllocator };

// One function that a return address lies in, inlined or not.
struct Frame {
  std::string function;
  std::string place;  // "file.cc:12", or nothing
  Role role = Role::kUser;
};

// By where it is declared: short debugging information does not have the name in full.
Role role_of(Dwarf_Die* function) {
  const char* file = ::dwarf_decl_file(function);
  const bool ours = file != nullptr && std::string_view(file).find("quire/slab/") != std::string_view::npos;
  return ours ? Role::kAllocator : Role::kUser;
}

std::string base_name(std::string_view path) { return std::string(path.substr(path.rfind('/') + 1)); }

// The program's modules as they are mapped when this is made.
class Modules {
 public:
  Modules() {
    callbacks_.find_elf = dwfl_linux_proc_find_elf;
    callbacks_.find_debuginfo = dwfl_build_id_find_debuginfo;  // what lies on this host; nothing is fetched
    dwfl_ = ::dwfl_begin(&callbacks_);
    if (dwfl_ == nullptr) return;
    ::dwfl_linux_proc_report(dwfl_, ::getpid());
    ::dwfl_report_end(dwfl_, nullptr, nullptr);
  }
  ~Modules() { ::dwfl_end(dwfl_); }
  Modules(const Modules&) = delete;
  Modules& operator=(const Modules&) = delete;

  // The functions that the call before `address` stands in, innermost first.
  [[nodiscard]] std::vector<Frame> frames(const void* address) const {
    std::vector<Frame> frames;
    if (dwfl_ == nullptr || address == nullptr) return frames;
    const Dwarf_Addr pc = reinterpret_cast<Dwarf_Addr>(address) - 1;  // in the call, not behind it
    Dwfl_Module* module = ::dwfl_addrmodule(dwfl_, pc);
    if (module == nullptr) return frames;
    std::string place = place_of(module, pc);
    Dwarf_Addr bias = 0;
    const char* symbol = ::dwfl_module_addrname(module, pc);
    if (Dwarf_Die* unit = ::dwfl_module_addrdie(module, pc, &bias)) add_scopes(unit, pc - bias, symbol, place, frames);
    if (frames.empty() && symbol != nullptr) frames.push_back({demangle(symbol), place});
    return frames;
  }

 private:
  static std::string place_of(Dwfl_Module* module, Dwarf_Addr pc) {
    Dwfl_Line* line = ::dwfl_module_getsrc(module, pc);
    int number = 0;
    const char* file = line == nullptr ? nullptr : ::dwfl_lineinfo(line, nullptr, &number, nullptr, nullptr, nullptr);
    return file == nullptr ? std::string() : fmt::format("{}:{}", base_name(file), number);
  }

  // An inlined function says where it was called, which is the place of the one around it.
  static void add_scopes(Dwarf_Die* unit, Dwarf_Addr pc, const char* symbol, std::string place, std::vector<Frame>& frames) {
    Dwarf_Die* found = nullptr;
    const int inner = ::dwarf_getscopes(unit, pc, &found);
    if (inner <= 0) return;
    Dwarf_Die innermost = found[0];
    std::free(found);
    Dwarf_Die* scopes = nullptr;
    const int n = ::dwarf_getscopes_die(&innermost, &scopes);
    const std::unique_ptr<Dwarf_Die, Frees> hold(scopes);
    for (int i = 0; i < n; ++i) {
      const int tag = ::dwarf_tag(&scopes[i]);
      if (tag != DW_TAG_subprogram && tag != DW_TAG_inlined_subroutine) continue;
      const bool outermost = tag == DW_TAG_subprogram;
      frames.push_back({outermost && symbol != nullptr ? demangle(symbol) : full_name(&scopes[i]), place, role_of(&scopes[i])});
      if (outermost) return;
      place = call_place(unit, &scopes[i]);
    }
  }

  static std::string full_name(Dwarf_Die* die) {
    Dwarf_Attribute attribute;
    for (const unsigned name : {DW_AT_linkage_name, DW_AT_MIPS_linkage_name}) {
      if (::dwarf_attr_integrate(die, name, &attribute) == nullptr) continue;
      if (const char* mangled = ::dwarf_formstring(&attribute)) return demangle(mangled);
    }
    const char* plain = ::dwarf_diename(die);
    return plain == nullptr ? "an unknown function" : plain;
  }

  static std::string call_place(Dwarf_Die* unit, Dwarf_Die* inlined) {
    Dwarf_Attribute attribute;
    Dwarf_Word file = 0;
    Dwarf_Word line = 0;
    ::dwarf_formudata(::dwarf_attr(inlined, DW_AT_call_file, &attribute), &file);
    ::dwarf_formudata(::dwarf_attr(inlined, DW_AT_call_line, &attribute), &line);
    Dwarf_Files* files = nullptr;
    std::size_t n = 0;
    if (line == 0 || ::dwarf_getsrcfiles(unit, &files, &n) != 0 || file >= n) return {};
    const char* path = ::dwarf_filesrc(files, file, nullptr, nullptr);
    return path == nullptr ? std::string() : fmt::format("{}:{}", base_name(path), line);
  }

  Dwfl_Callbacks callbacks_{};
  Dwfl* dwfl_ = nullptr;
};

// Without arguments, which make a name long and say little.
std::string short_name(std::string_view function) {
  static constexpr std::string_view kUnnamed = "(anonymous namespace)";
  std::size_t from = 0;
  while (true) {
    const std::size_t bracket = function.find('(', from);
    if (bracket == std::string_view::npos) return std::string(function);
    if (!function.substr(bracket).starts_with(kUnnamed)) return std::string(function.substr(0, bracket));
    from = bracket + kUnnamed.size();
  }
}

std::string tell(const Frame& frame) {
  return frame.place.empty() ? short_name(frame.function) : fmt::format("{} ({})", short_name(frame.function), frame.place);
}

}  // namespace

std::string call_site_name(const void* address, const void* parent) {
  // Reading it takes long, and nothing else of the process needs it: once for each thread, as libdw knows no locks.
  thread_local const Modules modules;
  const std::vector<Frame> near = modules.frames(address);
  std::vector<Frame> both = near;
  std::ranges::copy(modules.frames(parent), std::back_inserter(both));
  const auto user = std::ranges::find_if(both, [](const Frame& frame) { return frame.role == Role::kUser; });
  if (user != both.end()) return tell(*user);
  return near.empty() ? "an unknown function" : tell(near.front());
}

}  // namespace quire::slab
