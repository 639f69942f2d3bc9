#!/bin/sh
# Quantizes one synthetic model with llama-quantize and with lqbuild (an empty cache each time), both on
# two threads with the same importance matrix, and prints what each took: wall seconds, CPU seconds
# (user and system), peak resident memory. llama.cpp then reads lqbuild's file.
#   bench_quantize.sh LLAMA_BIN_DIR [SIZE]     SIZE as of make_model (1b)
# LQBUILD: the build folder (build). LEVELS: which ("Q8_0 F16 Q4_K_M IQ2_XS IQ1_M").
# QUANTIZE_DIR: where to work, kept when given; 1b needs 8 GB. On a busy machine CPU seconds are the honest figure.
set -eu
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
llama=$(cd "$1" && pwd)
size=${2:-1b}
build=$(cd "${LQBUILD:-build}" && pwd)
levels=${LEVELS:-Q8_0 F16 Q4_K_M IQ2_XS IQ1_M}
if [ -n "${QUANTIZE_DIR-}" ]; then
    mkdir -p "$QUANTIZE_DIR"
    work=$QUANTIZE_DIR
else
    work=$(mktemp -d "${TMPDIR:-/tmp}/lqbuild-quantize-XXXXXX")
    trap 'rm -rf "$work"' EXIT
fi
cd "$work"
export LD_LIBRARY_PATH="$llama${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export LQBUILD_CONFIG=
[ -e model.gguf ] || "$build/tests/make_model" --imatrix im.gguf "$size" model.gguf
yes 'the quick brown fox jumps over the lazy dog while rain falls on the old town' | head -200 > text

# measure NAME COMMAND...: "wall cpu MiB"; the source is in the page cache for both.
measure() {
    name=$1
    shift
    cat model.gguf im.gguf > /dev/null
    /usr/bin/time -o "$name.time" -f '%e %U %S %M' "$@" > "$name.log" 2>&1 || {
        tail -5 "$name.log" >&2
        echo "bench_quantize: $name failed" >&2
        exit 1
    }
    tail -1 "$name.time" | awk '{ printf "%.2f %.2f %.0f", $1, $2 + $3, $4 / 1024 }'
}

# That llama.cpp loads the file and computes with it.
accepted() {
    "$llama/llama-perplexity" -m "$1" -f text -c 64 --chunks 1 -t 2 > accepted.log 2>&1 &&
        grep -q 'Final estimate: PPL = [0-9]' accepted.log && echo yes || echo NO
}

printf '%-8s %28s   %28s   %21s  %s\n' '' llama-quantize lqbuild 'theirs / ours' ''
printf '%-8s' level
for who in 1 2; do
    printf ' %9s %9s %8s  ' 'wall s' 'CPU s' 'MiB'
done
printf ' %6s %6s %7s  %s\n' wall CPU memory loads
for level in $levels; do
    rm -rf cache ours.gguf ours.gguf.* theirs.gguf
    theirs=$(measure theirs "$llama/llama-quantize" --imatrix im.gguf model.gguf theirs.gguf "$level" 2)
    rm -f theirs.gguf
    ours=$(measure ours "$build/lqbuild" -q -j2 --cache-dir cache quantize -q "$level" \
        --imatrix im.gguf -o ours.gguf model.gguf gguf)
    echo "$level $theirs $ours $(accepted ours.gguf)" | awk '{
        printf "%-8s %9.2f %9.2f %8d   %9.2f %9.2f %8d   %5.1fx %5.1fx %6.1fx  %s\n",
            $1, $2, $3, $4, $5, $6, $7, $2 / $5, $3 / $6, $4 / $7, $8 }'
done
