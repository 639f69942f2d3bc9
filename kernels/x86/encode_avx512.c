/* The encoders with sixteen lanes. */
#define LQ_LANES_AVX512
#include "kernels/search/encode_book.h"
#include "kernels/search/encode_grid.h"
#include "kernels/search/encode_k.h"
#include "kernels/search/encode_small.h"
