/* The decoders with sixteen floats at a time. */
#define LQ_DECODE_AVX512
#include "kernels/x86/decode_body.h"
#include "kernels/x86/decode_book_body.h"
