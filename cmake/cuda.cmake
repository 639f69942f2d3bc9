# The module for NVIDIA GPUs, liblqbuild_cuda.so: loaded at run time by a program that does not know
# CUDA, so nothing else of the build changes with it. Included before any compile option is set.
set(LQ_CUDA_ARCHITECTURES "80-real;90-real;100" CACHE STRING
    "GPUs the module is compiled for; the last one also as PTX, for those to come")

if(LQ_CUDA AND LQ_SANITIZE)
  message(STATUS "CUDA module: not built together with sanitizers")
  set(LQ_CUDA OFF)
endif()
if(LQ_CUDA)
  find_program(LQ_NVCC nvcc HINTS ENV CUDACXX PATHS /usr/local/cuda/bin /opt/cuda/bin)
  if(LQ_NVCC)
    set(CMAKE_CUDA_COMPILER ${LQ_NVCC})
    set(CMAKE_CUDA_ARCHITECTURES ${LQ_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    message(STATUS "CUDA module: built by nvcc ${CMAKE_CUDA_COMPILER_VERSION}"
                   " for ${LQ_CUDA_ARCHITECTURES}")
  else()
    message(STATUS "CUDA module: not built, there is no nvcc")
    set(LQ_CUDA OFF)
  endif()
endif()

function(lq_cuda_module)
  if(NOT LQ_CUDA)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
  add_library(lqbuild_cuda MODULE ${sources})
  target_include_directories(lqbuild_cuda PRIVATE ${CMAKE_SOURCE_DIR})
  # The same arithmetic as in C: nothing contracted, division and roots correctly rounded, and
  # denormal numbers kept.
  target_compile_options(lqbuild_cuda PRIVATE -std=c++20 --threads 0 -fmad=false -prec-div=true -prec-sqrt=true -ftz=false
                         --Werror all-warnings -Xcompiler=-Wall)
  # Where it runs only the driver and libc are needed.
  target_link_options(lqbuild_cuda PRIVATE -static-libgcc -static-libstdc++)
  set_target_properties(lqbuild_cuda PROPERTIES
                        CUDA_RUNTIME_LIBRARY Static
                        CUDA_VISIBILITY_PRESET hidden
                        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
  install(TARGETS lqbuild_cuda LIBRARY DESTINATION lib/lqbuild)
endfunction()
