# One CMake target per floor of the house.
#
#   quire_module(phys SOURCES a.cc b.cc DEPENDS base sim arch LIBRARIES fmt::fmt ALONE b.cc)
#
# makes the static library quire_phys. A module's headers are reachable only through a link tree of its own
# (BUILD/include/phys/quire/phys → quire/phys), so that `#include "quire/vm/mm.h"` in phys does not compile: phys does not
# link vm, and the checkout itself is on nobody's include path. Files that are ALONE share local names with others of the module
# and are compiled by themselves.

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

# Compiles a target's files eight at a time: most of a file's time is the headers that all of them read. The debug preset
# compiles each by itself, and so finds a file that does not include what it uses.
function(quire_batches target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${QUIRE_BATCHES} UNITY_BUILD_BATCH_SIZE 8)
endfunction()

function(quire_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LIBRARIES;ALONE" ${ARGN})
  set(tree ${CMAKE_BINARY_DIR}/include/${name})
  file(MAKE_DIRECTORY ${tree}/quire)
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/quire/${name} ${tree}/quire/${name} SYMBOLIC)
  if(ARG_SOURCES)
    add_library(quire_${name} STATIC ${ARG_SOURCES})
    quire_batches(quire_${name})
    set_source_files_properties(${ARG_ALONE} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
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
