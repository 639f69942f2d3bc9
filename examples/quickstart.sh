#!/bin/sh
# The main job on the model that ships with lqbuild: builds the tool if that is needed, then the
# recipe beside this script, and shows its report. A second run finds everything in the cache.
#   quickstart.sh [lqbuild option...]
set -eu
cd "$(dirname "$0")/.."
. tests/install-packages.sh
# shellcheck disable=SC2086  # a list of words
install_missing $LQ_BUILD_PACKAGES

if [ ! -f build/CMakeCache.txt ]; then
    cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DLQ_TESTS=OFF > /dev/null
fi
cmake --build build -j "$(nproc)" --target lqbuild > build/quickstart.log || {
    cat build/quickstart.log
    exit 1
}
build/lqbuild -f examples/recipe.lq "$@"
