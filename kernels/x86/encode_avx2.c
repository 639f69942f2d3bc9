/* The encoders with eight lanes. */
#define LQ_LANES_AVX2
#include "kernels/search/encode_book.h"
#include "kernels/search/encode_grid.h"
#include "kernels/search/encode_k.h"
#include "kernels/search/encode_small.h"
