# How every source of the project is compiled, and which sources get an instruction set.

# What keeps the bits: no contraction (fma only where written), no errno from sqrtf and
# fmaf, and no option that lets the compiler reorder sums.
add_library(kvfold_compiler INTERFACE)
target_compile_options(kvfold_compiler INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes
  -ffp-contract=off -fno-math-errno -fvisibility=hidden)
if(KVF_WERROR)
  target_compile_options(kvfold_compiler INTERFACE -Werror)
endif()

set(KVF_SANITIZE_OPTIONS "")
if(KVF_SANITIZE)
  set(KVF_SANITIZE_OPTIONS -fsanitize=${KVF_SANITIZE} -fno-sanitize-recover=all
                           -fno-omit-frame-pointer)
  target_compile_options(kvfold_compiler INTERFACE ${KVF_SANITIZE_OPTIONS})
  target_link_options(kvfold_compiler INTERFACE ${KVF_SANITIZE_OPTIONS})
endif()

# A kernel file's suffix names the instruction set it is compiled for; which one runs is
# decided at run time. Everything else is compiled for the architecture's baseline.
set(KVF_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi2)
set(KVF_FLAGS_avx512 ${KVF_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
set(KVF_FLAGS_avx512vnni ${KVF_FLAGS_avx512} -mavx512vnni)
set(KVF_FLAGS_neon -march=armv8.2-a+dotprod)

# Stores in `result` the sources of this architecture below `parent`, their flags set.
function(kvf_isa_sources result parent)
  set(folder "")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(folder ${parent}/x86)
    set(suffixes avx2 avx512 avx512vnni)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(folder ${parent}/arm)
    set(suffixes neon)
  endif()
  set(sources "")
  if(folder)
    file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.c)
    foreach(source IN LISTS sources)
      foreach(suffix IN LISTS suffixes)
        if(source MATCHES "_${suffix}\\.c$")
          # -O3: the templates count on their register blocks being unrolled.
          set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
                                                           "${KVF_FLAGS_${suffix}};$<$<CONFIG:Release>:-O3>")
        endif()
      endforeach()
    endforeach()
  endif()
  set(${result} ${sources} PARENT_SCOPE)
endfunction()
