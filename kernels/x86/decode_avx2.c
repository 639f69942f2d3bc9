/* The decoders with eight floats at a time. */
#include "kernels/x86/decode_body.h"
#include "kernels/x86/decode_book_body.h"
