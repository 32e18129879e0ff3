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

# And those that have kernels of cuda/vectors.metal.
file(STRINGS ${KVF_GPU_FOLDER}/cuda/overrides.def override_lines REGEX "^KVF_CUDA_OVERRIDE")
list(TRANSFORM override_lines REPLACE "^[^,]*,[^,]*, *([a-z0-9_]+),.*" "\\1"
     OUTPUT_VARIABLE KVF_CUDA_VARIANTS)
list(REMOVE_DUPLICATES KVF_CUDA_VARIANTS)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${KVF_GPU_FOLDER}/cuda/overrides.def)

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

# ---- CUDA ------------------------------------------------------------------------------

# auto: where nvcc is. The kernels are compiled for one architecture; `all` names any that
# nvcc knows, such as 90a or 100. No driver is needed to build, nor to start what was built.
set(KVF_CUDA auto CACHE STRING "The backend for NVIDIA's GPUs: auto, on or off")
set_property(CACHE KVF_CUDA PROPERTY STRINGS auto on off)
set(KVF_CUDA_ARCH 90a CACHE STRING "The architecture that kernels are compiled for")
set(KVF_CUDA_FOUND FALSE)
if(NOT KVF_CUDA STREQUAL "off" AND NOT KVF_SANITIZE AND NOT APPLE AND NOT CMAKE_CROSSCOMPILING)
  find_program(KVF_NVCC nvcc PATHS /usr/local/cuda/bin)
  find_library(KVF_CUDART cudart_static PATHS /usr/local/cuda/lib64)
  if(KVF_NVCC AND KVF_CUDART)
    set(KVF_CUDA_FOUND TRUE)
  elseif(KVF_CUDA STREQUAL "on")
    message(FATAL_ERROR "KVF_CUDA is on, but nvcc or libcudart_static.a was not found")
  endif()
endif()

# One source to one object by nvcc. Multiplications and additions are contracted where a kernel
# says so; division, square roots and subnormals are as IEEE has them. nvcc's stubs have local
# statics, which nobody initialises as kernels are launched by address: no C++ library is linked.
function(kvf_nvcc_object object source)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${KVF_NVCC} -std=c++17 -gencode=arch=compute_${KVF_CUDA_ARCH},code=sm_${KVF_CUDA_ARCH}
            -O3 -lineinfo -fmad=false -prec-div=true -prec-sqrt=true -ftz=false
            -Xcompiler -fPIC,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics
            -I${PROJECT_SOURCE_DIR}/include -I${PROJECT_SOURCE_DIR}/src
            -I${KVF_GPU_FOLDER}/cuda/include -c ${source} -o ${object} ${ARGN}
    DEPENDS ${source} ${KVF_GPU_HEADERS} ${KVF_CUDA_HEADERS}
    COMMENT "Building ${object} by nvcc"
    VERBATIM)
endfunction()

# Makes the library kvfold_cuda of kernels and driver, and adds the backend to the objects of
# `target`; kvf_cuda_link gives a program or library what the backend needs.
function(kvf_cuda_add_to target)
  set(folder ${PROJECT_BINARY_DIR}/cuda)
  set(script ${PROJECT_SOURCE_DIR}/scripts/gpu_kernels.py)
  file(MAKE_DIRECTORY ${folder})
  file(GLOB KVF_CUDA_HEADERS CONFIGURE_DEPENDS ${KVF_GPU_FOLDER}/cuda/*.h
       ${KVF_GPU_FOLDER}/cuda/include/*)
  set(objects)
  set(libraries)
  foreach(metal IN LISTS KVF_GPU_KERNELS ITEMS ${KVF_GPU_FOLDER}/cuda/vectors.metal)
    get_filename_component(file ${metal} NAME_WE)
    set(variants "-")
    if(file STREQUAL "products")
      set(variants ${KVF_GPU_VARIANTS})
    elseif(file STREQUAL "vectors")
      set(variants ${KVF_CUDA_VARIANTS})
    endif()
    foreach(variant IN LISTS variants)
      set(name ${file})
      set(library ${file}.metal)
      set(options)
      if(NOT variant STREQUAL "-")
        set(name ${file}_${variant})
        set(library ${file}.${variant}.metal)
        set(options --variant ${variant})
      endif()
      add_custom_command(
        OUTPUT ${folder}/${name}.cu
        COMMAND ${KVF_PYTHON} ${script} --cuda ${options} ${metal} ${folder}/${name}.cu
        DEPENDS ${metal} ${script} ${KVF_GPU_HEADERS}
        VERBATIM)
      kvf_nvcc_object(${folder}/${name}.o ${folder}/${name}.cu)
      list(APPEND objects ${folder}/${name}.o)
      list(APPEND libraries ${library})
    endforeach()
  endforeach()
  add_custom_command(
    OUTPUT ${folder}/libraries.cu
    COMMAND ${KVF_PYTHON} ${script} --cuda-list ${libraries} ${folder}/libraries.cu
    DEPENDS ${script} ${KVF_GPU_FOLDER}/variants.def
    VERBATIM)
  kvf_nvcc_object(${folder}/libraries.o ${folder}/libraries.cu)
  foreach(name driver graphs)
    kvf_nvcc_object(${folder}/${name}.o ${KVF_GPU_FOLDER}/cuda/${name}.cu)
  endforeach()
  list(APPEND objects ${folder}/libraries.o ${folder}/driver.o ${folder}/graphs.o)
  add_custom_target(kvfold_cuda_objects DEPENDS ${objects})
  set(KVF_CUDA_OBJECTS ${objects} PARENT_SCOPE)
  target_sources(${target} PRIVATE ${KVF_GPU_FOLDER}/cuda/cuda.c ${KVF_GPU_FOLDER}/cuda/overrides.c)
  target_compile_definitions(${target} PRIVATE KVF_CUDA)
  target_link_libraries(kvfold_dependencies INTERFACE ${KVF_CUDART} pthread rt ${CMAKE_DL_LIBS})
  set(KVF_PC_LIBS_PRIVATE "${KVF_PC_LIBS_PRIVATE} ${KVF_CUDART} -lpthread -lrt -ldl" PARENT_SCOPE)
endfunction()
