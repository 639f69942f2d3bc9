/* The version of lqbuild, "0.1.0", from CMakeLists.txt. Files that say what made them name it. */
#ifndef LQ_BASE_VERSION_H
#define LQ_BASE_VERSION_H

extern const char lq_version[];

#endif
