#include "engine/base/version.h"

const char lq_version[] = LQ_VERSION;
