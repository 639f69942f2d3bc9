#!/bin/sh
# Compares what a build costs in which nothing changed: lqbuild and ninja on equal graphs of N copy
# steps, each with one source and one output, side by side in one run.
#   bench_noop.sh LQBUILD [N...]          (10000; 100000 takes minutes to build the first time)
# Prints, for each N, the best of several runs of both, the ratio, and lqbuild's memory a step.
# NOOP_DIR: where to work (a folder in /dev/shm); kept when it is given.
set -eu
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shift
[ $# -gt 0 ] || set -- 10000
if [ -n "${NOOP_DIR-}" ]; then
    mkdir -p "$NOOP_DIR"
    work=$NOOP_DIR
else
    work=$(mktemp -d -p /dev/shm lqbuild-noop-XXXXXX)
    trap 'rm -rf "$work"' EXIT
fi

generate() {
    mkdir -p "$1/src"
    cd "$1"
    seq "$2" | awk '
        BEGIN { print "rule cp\n  command = cp $in $out" > "build.ninja" }
        {
            printf "%s\n", $1 > ("src/" $1); close("src/" $1)
            printf "command c%s {\n    run = \"read -r a < src/%s; echo $a > $out\"\n    files = [\"src/%s\"]\n" \
                   "    outputs = [\"lq/%s\"]\n}\n", $1, $1, $1, $1 > "recipe.lq"
            printf "build ninja/%s: cp src/%s\n", $1, $1 > "build.ninja"
        }'
}

# The least wall time and user plus system time of some runs, in ms, and the least memory, in KiB.
measure() {
    for round in 1 2 3 4 5 6 7; do
        start=$(date +%s%N)
        used=$(/usr/bin/time -f '%U %S %M' "$@" 2>&1 >/dev/null | tail -1)
        echo "$(($(date +%s%N) - start)) $used"
    done | awk 'NR == 1 || $1 < wall { wall = $1 }
                NR == 1 || $2 + $3 < cpu { cpu = $2 + $3 }
                NR == 1 || $4 < kib { kib = $4 }
                END { printf "%.1f %d %d", wall / 1e6, cpu * 1000, kib }'
}

# What a process with an empty recipe needs.
base_memory() {
    mkdir -p "$1"
    cd "$1"
    : > recipe.lq
    measure "$program" -q --cache-dir cache | cut -d' ' -f3
}

base=$(base_memory "$work/empty")
for count in "$@"; do
    dir=$work/$count
    if [ ! -e "$dir/built" ]; then
        generate "$dir" "$count"
        (cd "$dir" && "$program" -q --cache-dir cache > /dev/null && ninja > /dev/null)
        touch "$dir/built"
    fi
    cd "$dir"
    "$program" -q --cache-dir cache
    set -- $(measure "$program" -q --cache-dir cache) $(measure ninja)
    echo "$count steps: lqbuild $1 ms wall, $2 ms CPU, $3 KiB; ninja $4 ms wall, $5 ms CPU, $6 KiB;" \
         "ratio $(awk "BEGIN { printf \"%.2f\", $1 / $4 }");" \
         "$(( ($3 - base) * 1024 / count )) bytes a step, the recipe is" \
         "$(( $(wc -c < recipe.lq) / count ))"
done
