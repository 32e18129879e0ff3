# The Metal backend: C above device.h, kernels embedded as text, and Apple's device. The
# library has it on macOS; elsewhere the tests run the same files on tests/metal_emulator.

set(KVF_METAL_FOLDER ${PROJECT_SOURCE_DIR}/src/backend/metal)
file(GLOB KVF_METAL_C_SOURCES CONFIGURE_DEPENDS ${KVF_METAL_FOLDER}/*.c)
file(GLOB KVF_METAL_KERNELS CONFIGURE_DEPENDS ${KVF_METAL_FOLDER}/*.metal)

# Stores in `result` the C file that holds the kernels' text; made in the caller's folder.
function(kvf_metal_texts result)
  find_program(KVF_PYTHON python3 REQUIRED)
  file(GLOB headers CONFIGURE_DEPENDS ${KVF_METAL_FOLDER}/*.h ${PROJECT_SOURCE_DIR}/src/shared/*.h)
  set(texts ${CMAKE_CURRENT_BINARY_DIR}/metal_sources.c)
  add_custom_command(
    OUTPUT ${texts}
    COMMAND ${KVF_PYTHON} ${PROJECT_SOURCE_DIR}/scripts/embed_metal.py ${PROJECT_SOURCE_DIR}/src
            ${texts}
    DEPENDS ${PROJECT_SOURCE_DIR}/scripts/embed_metal.py ${KVF_METAL_FOLDER}/kernels.def
            ${KVF_METAL_KERNELS} ${headers}
    COMMENT "Embedding the Metal kernels"
    VERBATIM)
  set(${result} ${texts} PARENT_SCOPE)
endfunction()

# Adds the backend to the library's objects. OBJC must have been enabled.
function(kvf_metal_add_to target)
  kvf_metal_texts(texts)
  target_sources(${target} PRIVATE ${KVF_METAL_C_SOURCES} ${texts}
                                   ${KVF_METAL_FOLDER}/device_apple.m)
  set_source_files_properties(${KVF_METAL_FOLDER}/device_apple.m PROPERTIES COMPILE_OPTIONS
                                                                            -fno-objc-arc)
  target_compile_definitions(${target} PRIVATE KVF_METAL)
  target_link_libraries(kvfold_dependencies INTERFACE "-framework Metal" "-framework Foundation"
                        "-framework CoreGraphics" objc)
endfunction()
