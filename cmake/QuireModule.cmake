# One CMake target per floor of the house.
#
#   quire_module(phys SOURCES a.cc b.cc DEPENDS base sim arch LIBRARIES fmt::fmt)
#
# makes the static library quire_phys. A module's headers are reachable only through a link tree of its own
# (BUILD/include/phys/quire/phys → quire/phys), so that `#include "quire/vm/mm.h"` in phys does not compile: phys does not
# link vm, and the checkout itself is on nobody's include path.

add_library(quire_options INTERFACE)
target_compile_options(quire_options INTERFACE
  -Wall -Wextra -Wpedantic -Werror -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wno-gnu-zero-variadic-macro-arguments
  -fno-omit-frame-pointer)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  target_compile_options(quire_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)  # as ccache asks
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  # A precompiled header must not carry the hour of its making, or the compiler cache never sees the same one twice.
  target_compile_options(quire_options INTERFACE "SHELL:$<$<COMPILE_LANGUAGE:CXX>:-Xclang -fno-pch-timestamp>")
  # libstdc++ 12 hides std::expected from clang unless the concepts level it asks for is claimed.
  target_compile_options(quire_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wthread-safety> -Wno-builtin-macro-redefined
    $<$<COMPILE_LANGUAGE:CXX>:-D__cpp_concepts=202002L>)
endif()
if(QUIRE_SANITIZE)
  target_compile_options(quire_options INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all)
  target_link_options(quire_options INTERFACE -fsanitize=address,undefined)
endif()
if(QUIRE_FUZZ)  # so that the fuzzer sees which branches of the library it reaches
  target_compile_options(quire_options INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(quire_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(QUIRE_DEBUG)
  target_compile_definitions(quire_options INTERFACE QUIRE_DEBUG)
endif()

function(quire_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LIBRARIES" ${ARGN})
  set(tree ${CMAKE_BINARY_DIR}/include/${name})
  file(MAKE_DIRECTORY ${tree}/quire)
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/quire/${name} ${tree}/quire/${name} SYMBOLIC)
  if(ARG_SOURCES)
    add_library(quire_${name} STATIC ${ARG_SOURCES})
    set(scope PUBLIC)
  else()
    add_library(quire_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(quire::${name} ALIAS quire_${name})
  target_include_directories(quire_${name} ${scope} ${tree})
  target_link_libraries(quire_${name} ${scope} quire_options ${ARG_LIBRARIES})
  foreach(below ${ARG_DEPENDS})
    target_link_libraries(quire_${name} ${scope} quire_${below})
  endforeach()
endfunction()
