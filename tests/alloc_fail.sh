#!/bin/sh
# Takes memory away from a small build and from what looks after the cache, at one allocation after
# another: never a crash, always a message, and what is in the cache afterwards is right.
#   alloc_fail.sh LQBUILD SHIM [STEP]      (every STEP-th allocation; 1 for all of them, default 23)
set -eu
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shim=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
step=${3:-23}
base=/tmp
[ -w /dev/shm ] && base=/dev/shm
work=$(mktemp -d "$base/lqalloc-XXXXXX")
trap 'rm -rf "$work"' EXIT
unset LQBUILD_CACHE_DIR MAKEFLAGS
export HOME="$work"
cd "$work"
cat > recipe.lq << 'END'
let name = "big"
command one { run = "seq 1 30000 > $out" outputs = ["out/one"] }
command two { run = "cat $in $in > $out" inputs = [one] outputs = ["out/{name}"] }
text t { path = "recipe.lq" }
END
"$program" -q -j1 --cache-dir clean
"$program" cache export two -o given.lqb --cache-dir clean > log 2>&1
mkdir wanted
cp out/* wanted/

fail() {
    echo "FAILED: $*"
    cat "$work/log"
    exit 1
}

# run WORDS...: the program with the shim; the command line may end with an error, not a signal.
total=0
refused=0
run() {
    code=0
    LD_PRELOAD="$shim" LQ_FAIL_AT="$at" "$program" "$@" > log 2>&1 || code=$?
    total=$((total + 1))
    [ "$code" -lt 128 ] || fail "allocation $at: signal $((code - 128)): $*"
    if [ "$code" -ne 0 ]; then
        refused=$((refused + 1))
        [ -s log ] || fail "allocation $at: exit $code without a word: $*"
    fi
}

count_of() {
    LD_PRELOAD="$shim" LQ_FAIL_COUNT=count "$program" "$@" > log 2>&1 || fail "$*"
    cat count
}

check() {
    "$program" cache verify --cache-dir cache > log 2>&1 || fail "allocation $at: $1"
    "$program" -q -j1 --cache-dir cache > log 2>&1 || fail "allocation $at: the next build"
    for file in out/*; do
        cmp -s "$file" "wanted/${file#out/}" || fail "allocation $at: $file after $1"
    done
}

most=$(count_of -q -j1 --cache-dir first)
at=1
while [ "$at" -le "$most" ]; do
    rm -rf cache out
    run -q -j1 --cache-dir cache
    check "a build"
    at=$((at + step))
done
echo "a build: every ${step}th of $most allocations"

# bundle_is_whole: an export that says that it went well has everything in it.
bundle_is_whole() {
    [ "$code" -ne 0 ] || cmp -s new.lqb good.lqb || fail "allocation $at: the bundle lacks something"
    rm -f new.lqb
}

for words in "cache gc --max-size 1" "cache ls" "cache verify" "cache pin two" "cache stats" \
    "cache export two -o new.lqb" "cache import given.lqb --trust-unsigned" "explain two" "log"; do
    rm -rf cache out
    "$program" -q -j1 --cache-dir cache
    "$program" cache export two -o good.lqb --cache-dir cache > log 2>&1
    most=$(count_of $words --cache-dir cache)
    at=1
    while [ "$at" -le "$most" ]; do
        run $words --cache-dir cache
        case $words in *new.lqb*) bundle_is_whole ;; esac
        at=$((at + step))
    done
    check "$words"
    echo "$words: every ${step}th of $most allocations"
done

# A damaged data file, whole again after every success, as it was after every failure.
rm -rf cache out
"$program" -q -j1 --cache-dir cache
dd if=/dev/zero of=cache/data.mdb bs=4096 count=1 conv=notrunc 2> log
cp cache/data.mdb damaged.mdb
most=$(count_of cache repair --cache-dir cache)
"$program" cache ls --cache-dir cache > listed
at=1
while [ "$at" -le "$most" ]; do
    cp damaged.mdb cache/data.mdb
    run cache repair --cache-dir cache
    if [ "$code" -eq 0 ]; then
        "$program" cache ls --cache-dir cache > log
        cmp -s log listed || fail "allocation $at: the repair left something out"
    else
        cmp -s cache/data.mdb damaged.mdb || fail "allocation $at: the file is another one"
    fi
    at=$((at + step))
done
"$program" cache repair --cache-dir cache > log 2>&1
check "cache repair"
echo "cache repair: every ${step}th of $most allocations"
echo "$total runs, $refused ended with an error"
