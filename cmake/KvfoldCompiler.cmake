# How every source of the project is compiled, and which sources get an instruction set.

include(CheckCCompilerFlag)

# What keeps the bits: no contraction (fma only where written), no errno from sqrtf and fmaf.
add_library(kvfold_compiler INTERFACE)
target_compile_options(kvfold_compiler INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes
  -Werror=switch # a new row format, kind of layer .. must be thought of wherever they are told apart
  -ffp-contract=off -fno-math-errno -fvisibility=hidden
  "SHELL:-include ${PROJECT_SOURCE_DIR}/src/arithmetic.h")

# A user's flags come before these, and the last one counts: what would let the compiler
# reorder sums, drop NaN or the sign of zero, compute in other types than those written, or
# call other functions than those of libm, is switched off again.
set(arithmetic_options
  -fno-fast-math -fno-unsafe-math-optimizations -fno-finite-math-only -fno-associative-math
  -fno-reciprocal-math -fsigned-zeros -fno-single-precision-constant
  -fexcess-precision=standard -fno-approx-func -fdenormal-fp-math=ieee -fveclib=none)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND arithmetic_options -mfpmath=sse)
endif()
foreach(option IN LISTS arithmetic_options)
  string(MAKE_C_IDENTIFIER "KVF_HAS${option}" known)
  check_c_compiler_flag(${option} ${known})
  if(${known})
    target_compile_options(kvfold_compiler INTERFACE ${option})
  endif()
endforeach()
# The same when linking: it decides whether a program starts with subnormals flushed to zero.
# (What is linked by somebody else may do it still: src/shared/fp_environment.h.)
target_link_options(kvfold_compiler INTERFACE -fno-fast-math -fno-unsafe-math-optimizations)
check_c_compiler_flag(-mno-daz-ftz KVF_HAS_mno_daz_ftz)
if(KVF_HAS_mno_daz_ftz)
  target_link_options(kvfold_compiler INTERFACE -mno-daz-ftz)
endif()
# src/assertion.h; a sanitizer's build has it below
target_compile_definitions(kvfold_compiler INTERFACE $<$<CONFIG:Debug>:KVF_ASSERTIONS>)
if(KVF_WERROR)
  target_compile_options(kvfold_compiler INTERFACE -Werror)
endif()

set(KVF_SANITIZE_OPTIONS "")
if(KVF_SANITIZE)
  set(KVF_SANITIZE_OPTIONS -fsanitize=${KVF_SANITIZE} -fno-sanitize-recover=all
                           -fno-omit-frame-pointer)
  target_compile_options(kvfold_compiler INTERFACE ${KVF_SANITIZE_OPTIONS})
  target_compile_definitions(kvfold_compiler INTERFACE KVF_ASSERTIONS)
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
          # -O3: the templates count on their register blocks being unrolled. With -O2 products of bf16
          # with many tokens are slower by 15%.
          set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
                                                           "${KVF_FLAGS_${suffix}};$<$<CONFIG:Release>:-O3>")
        endif()
      endforeach()
    endforeach()
  endif()
  set(${result} ${sources} PARENT_SCOPE)
endfunction()
