# The GPU backend: C above driver.h, kernels embedded as text, and drivers. The library has
# Apple's on macOS and CUDA's where nvcc is; tests run the same files on tests/metal_emulator.

set(KVF_GPU_FOLDER ${PROJECT_SOURCE_DIR}/src/backend/gpu)
file(GLOB KVF_GPU_C_SOURCES CONFIGURE_DEPENDS ${KVF_GPU_FOLDER}/*.c)
file(GLOB KVF_GPU_KERNELS CONFIGURE_DEPENDS ${KVF_GPU_FOLDER}/*.metal)
file(GLOB KVF_GPU_HEADERS CONFIGURE_DEPENDS ${KVF_GPU_FOLDER}/*.h ${KVF_GPU_FOLDER}/*.def
     ${PROJECT_SOURCE_DIR}/src/shared/*.h ${PROJECT_SOURCE_DIR}/src/shared/*.def)

# Types of weights that have kernels of products.metal of their own.
file(STRINGS ${KVF_GPU_FOLDER}/variants.def variant_lines REGEX "^KVF_GPU_VARIANT")
list(TRANSFORM variant_lines REPLACE "^KVF_GPU_VARIANT\\(([a-z0-9_]+),.*" "\\1"
     OUTPUT_VARIABLE KVF_GPU_VARIANTS)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${KVF_GPU_FOLDER}/variants.def)

# Stores in `result` the C file that holds the kernels' text; made in the caller's folder.
function(kvf_gpu_texts result)
  find_program(KVF_PYTHON python3 REQUIRED)
  set(texts ${CMAKE_CURRENT_BINARY_DIR}/gpu_sources.c)
  add_custom_command(
    OUTPUT ${texts}
    COMMAND ${KVF_PYTHON} ${PROJECT_SOURCE_DIR}/scripts/embed_kernels.py ${PROJECT_SOURCE_DIR}/src
            ${texts}
    DEPENDS ${PROJECT_SOURCE_DIR}/scripts/embed_kernels.py ${KVF_GPU_KERNELS} ${KVF_GPU_HEADERS}
    COMMENT "Embedding the GPU kernels"
    VERBATIM)
  set(${result} ${texts} PARENT_SCOPE)
endfunction()

# What all drivers share, once, for the library's objects.
function(kvf_gpu_add_to target)
  kvf_gpu_texts(texts)
  target_sources(${target} PRIVATE ${KVF_GPU_C_SOURCES} ${texts})
endfunction()

# Adds the backend metal to the library's objects. OBJC must have been enabled.
function(kvf_metal_add_to target)
  target_sources(${target} PRIVATE ${KVF_GPU_FOLDER}/metal/metal.c
                                   ${KVF_GPU_FOLDER}/metal/device_apple.m)
  set_source_files_properties(${KVF_GPU_FOLDER}/metal/device_apple.m
                              PROPERTIES COMPILE_OPTIONS -fno-objc-arc)
  target_compile_definitions(${target} PRIVATE KVF_METAL)
  target_link_libraries(kvfold_dependencies INTERFACE "-framework Metal" "-framework Foundation"
                        "-framework CoreGraphics" objc)
endfunction()
