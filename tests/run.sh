#!/bin/sh
# Installs what is missing, builds, runs every test, and ends with "N passed, M failed". Tests of
# one program are counted one by one.
set -eu
cd "$(dirname "$0")/.."
. tests/install-packages.sh
# shellcheck disable=SC2086  # lists of words
install_missing $LQ_BUILD_PACKAGES $LQ_TEST_PACKAGES

jobs=$(nproc)
cmake --preset release -DLQ_TESTS=ON > /dev/null
cmake --build build -j "$jobs"

log=build/Testing/Temporary/LastTest.log
rm -f "$log"
status=0
(cd build && ctest -j "$jobs" --output-on-failure --timeout 1200) || status=$?

# A Criterion program reports "Tested: 6 | Passing: 5 | Failing: 1 | Crashing: 0"; a shell test
# "# 6 passed, 0 failed"; whatever reports nothing counts as one.
awk '
    function close_test(ok, skipped) {
        if (ok == 0 && bad == 0) { bad = 1 }
        if (skipped) { skips++ }
        else if (good + bad == 0) { passed += ok; failed += !ok }
        else { passed += good; failed += bad }
        good = 0; bad = 0
    }
    /Synthesis: Tested:/ {
        match($0, /Passing: [0-9]+/); good += substr($0, RSTART + 9, RLENGTH - 9)
        match($0, /Failing: [0-9]+/); bad += substr($0, RSTART + 9, RLENGTH - 9)
        match($0, /Crashing: [0-9]+/); bad += substr($0, RSTART + 10, RLENGTH - 10)
    }
    /^# [0-9]+ passed, [0-9]+ failed$/ { good += $2; bad += $4 }
    /^Test Passed\.$/ { close_test(1, 0) }
    /^Test Failed\.$/ { close_test(0, 0) }
    /^Test (Skipped|Not Run)/ { close_test(1, 1) }
    END {
        if (skips > 0) { printf "%d skipped\n", skips }
        printf "%d passed, %d failed\n", passed, failed
    }
' "$log"
exit "$status"
