/* The encoders with one lane: the reference. */
#include "kernels/search/encode_book.h"
#include "kernels/search/encode_grid.h"
#include "kernels/search/encode_k.h"
#include "kernels/search/encode_small.h"
