# What the library links: threads, the math library, zstd for compressed snapshots. xxHash is a
# header that is compiled in.
#   kvfold_dependencies   of the library itself
#   kvfold_cjson          of the model layer
#   kvfold_microhttpd     of the server
# KVF_ZSTD_DEFINITIONS    for src/snapshot/codec.c
# KVF_PC_LIBS_PRIVATE     the same dependencies, for kvfold.pc

find_package(PkgConfig)

find_package(Threads REQUIRED)

add_library(kvfold_dependencies INTERFACE)
target_link_libraries(kvfold_dependencies INTERFACE Threads::Threads m)
set(KVF_PC_LIBS_PRIVATE "${CMAKE_THREAD_LIBS_INIT} -lm")
if(KVF_METAL)
  string(APPEND KVF_PC_LIBS_PRIVATE " -framework Metal -framework Foundation -framework CoreGraphics -lobjc")
endif()
# Checksums are xxHash's header, inlined: nothing to link. A cross build takes the header of
# the machine that builds, alone in a folder, so that no other header comes along.
if(PkgConfig_FOUND)
  pkg_check_modules(PC_XXHASH QUIET libxxhash)
endif()
find_path(KVF_XXHASH_INCLUDE xxhash.h HINTS ${PC_XXHASH_INCLUDEDIR} NO_CMAKE_FIND_ROOT_PATH)
if(NOT KVF_XXHASH_INCLUDE)
  message(FATAL_ERROR "xxHash is missing; run scripts/bootstrap.sh (Debian: libxxhash-dev)")
endif()
configure_file(${KVF_XXHASH_INCLUDE}/xxhash.h ${PROJECT_BINARY_DIR}/xxhash/xxhash.h COPYONLY)
target_include_directories(kvfold_dependencies SYSTEM INTERFACE
                           $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/xxhash>)

set(KVF_ZSTD_DEFINITIONS "")
if(KVF_ZSTD STREQUAL "none")
  list(APPEND KVF_ZSTD_DEFINITIONS KVF_ZSTD_NONE)
elseif(NOT KVF_ZSTD STREQUAL "system")
  message(FATAL_ERROR "KVF_ZSTD is \"${KVF_ZSTD}\"; expected system or none")
else()
  if(PkgConfig_FOUND)
    pkg_check_modules(PC_ZSTD QUIET libzstd)
  endif()
  find_library(KVF_ZSTD_LIBRARY zstd HINTS ${PC_ZSTD_LIBRARY_DIRS})
  find_path(KVF_ZSTD_INCLUDE zstd.h HINTS ${PC_ZSTD_INCLUDEDIR})
  if(NOT KVF_ZSTD_LIBRARY OR NOT KVF_ZSTD_INCLUDE)
    message(FATAL_ERROR "zstd is missing; run scripts/bootstrap.sh (Debian: libzstd-dev), "
                        "or configure with -DKVF_ZSTD=none")
  endif()
  target_include_directories(kvfold_dependencies SYSTEM INTERFACE
                             $<BUILD_INTERFACE:${KVF_ZSTD_INCLUDE}>)
  target_link_libraries(kvfold_dependencies INTERFACE ${KVF_ZSTD_LIBRARY})
  get_filename_component(zstd_folder ${KVF_ZSTD_LIBRARY} DIRECTORY)
  string(PREPEND KVF_PC_LIBS_PRIVATE "-L${zstd_folder} -lzstd ")
endif()

if(KVF_CLI)
  if(PkgConfig_FOUND)
    pkg_check_modules(PC_CJSON QUIET libcjson)
  endif()
  find_library(KVF_CJSON_LIBRARY cjson HINTS ${PC_CJSON_LIBRARY_DIRS})
  find_path(KVF_CJSON_INCLUDE cjson/cJSON.h HINTS ${PC_CJSON_INCLUDEDIR})
  if(NOT KVF_CJSON_LIBRARY OR NOT KVF_CJSON_INCLUDE)
    message(FATAL_ERROR "cJSON is missing; run scripts/bootstrap.sh (Debian: libcjson-dev)")
  endif()
  add_library(kvfold_cjson INTERFACE)
  target_include_directories(kvfold_cjson SYSTEM INTERFACE ${KVF_CJSON_INCLUDE})
  target_link_libraries(kvfold_cjson INTERFACE ${KVF_CJSON_LIBRARY})

  # HTTP for `serve`, which says so where it is not there.
  #   kvfold_microhttpd   KVF_HTTP_FOUND: whether it is more than a name
  add_library(kvfold_microhttpd INTERFACE)
  if(KVF_HTTP STREQUAL "system")
    if(PkgConfig_FOUND)
      pkg_check_modules(PC_MICROHTTPD QUIET libmicrohttpd)
    endif()
    find_library(KVF_MICROHTTPD_LIBRARY microhttpd HINTS ${PC_MICROHTTPD_LIBRARY_DIRS})
    find_path(KVF_MICROHTTPD_INCLUDE microhttpd.h HINTS ${PC_MICROHTTPD_INCLUDEDIR})
  elseif(NOT KVF_HTTP STREQUAL "none")
    message(FATAL_ERROR "KVF_HTTP is \"${KVF_HTTP}\"; expected system or none")
  endif()
  set(KVF_HTTP_FOUND OFF)
  if(KVF_HTTP STREQUAL "system" AND KVF_MICROHTTPD_LIBRARY AND KVF_MICROHTTPD_INCLUDE)
    set(KVF_HTTP_FOUND ON)
    target_include_directories(kvfold_microhttpd SYSTEM INTERFACE ${KVF_MICROHTTPD_INCLUDE})
    target_link_libraries(kvfold_microhttpd INTERFACE ${KVF_MICROHTTPD_LIBRARY})
  else()
    message(STATUS "without libmicrohttpd: there is no kvfold serve (Debian: libmicrohttpd-dev)")
    target_compile_definitions(kvfold_microhttpd INTERFACE KVF_HTTP_NONE)
  endif()

  # SHA-256 for `inspect --sha256`, which says so where it is not there.
  add_library(kvfold_nettle INTERFACE)
  if(KVF_NETTLE STREQUAL "system")
    if(PkgConfig_FOUND)
      pkg_check_modules(PC_NETTLE QUIET nettle)
    endif()
    find_library(KVF_NETTLE_LIBRARY nettle HINTS ${PC_NETTLE_LIBRARY_DIRS})
    find_path(KVF_NETTLE_INCLUDE nettle/sha2.h HINTS ${PC_NETTLE_INCLUDEDIR})
  elseif(NOT KVF_NETTLE STREQUAL "none")
    message(FATAL_ERROR "KVF_NETTLE is \"${KVF_NETTLE}\"; expected system or none")
  endif()
  if(KVF_NETTLE STREQUAL "system" AND KVF_NETTLE_LIBRARY AND KVF_NETTLE_INCLUDE)
    target_include_directories(kvfold_nettle SYSTEM INTERFACE ${KVF_NETTLE_INCLUDE})
    target_link_libraries(kvfold_nettle INTERFACE ${KVF_NETTLE_LIBRARY})
  else()
    message(STATUS "without nettle: inspect has no --sha256 (Debian: nettle-dev)")
    target_compile_definitions(kvfold_nettle INTERFACE KVF_NETTLE_NONE)
  endif()
endif()
