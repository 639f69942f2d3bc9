/* Compiled with AVX-512 (see CMakeLists.txt); only called where the CPU has it. */
#if defined(__x86_64__)
#define LQ_DEVICE_ROWS_TABLE lq_device_rows_avx512
#include "kernels/device_rows_body.h"
#endif
