#!/bin/bash
# Runs llama.cpp's tools and ours side by side on the synthetic model of 134 million parameters:
# importance matrix, and perplexity; ours with products in 32-bit floats and --products fast.
#   bench_model.sh LLAMA_BIN_DIR [BUILD_DIR]       (build)
# Prints wall and CPU seconds, tokens a second, and the ratios beside what is asked of them. Wall
# seconds mean something on a quiet machine only; CPU seconds mean something on a busy one, too.
# THREADS="2 1", ROUNDS=1 (the best of each is taken), CHUNKS=16: how much is measured.
# BENCH_DIR: where to work (a folder in /tmp); kept when it is given.
set -eu
llama=$(cd "$1" && pwd)
build=$(cd "${2-build}" && pwd)
source=$(cd "$(dirname "$0")/.." && pwd)
threads=${THREADS-2 1}
rounds=${ROUNDS-1}
chunks=${CHUNKS-16}
context=512
# The least number of samples that a recipe takes.
samples=128
sample=64
if [ -n "${BENCH_DIR-}" ]; then
    mkdir -p "$BENCH_DIR"
    work=$(cd "$BENCH_DIR" && pwd)
else
    work=$(mktemp -d /tmp/lqbuild-bench-XXXXXX)
    trap 'rm -rf "$work"' EXIT
fi
cd "$work"
export LD_LIBRARY_PATH=$llama${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ -f model.gguf ] || "$build/tests/make_model" 134m model.gguf
cp "$source/examples/text/eval.txt" text.txt
cat > recipe.lq <<END
model base { source = "model.gguf" }
text words { path = "text.txt" }
calibration calib { model = base  text = words  samples = $samples  sequence = $sample }
imatrix im { model = base  calibration = calib  path = "im.gguf" }
END

run_imatrix() { # KIND THREADS
    if [ "$1" = llama ]; then
        "$llama/llama-imatrix" -m model.gguf -f text.txt -o llama-im.gguf -c $sample \
            --chunks $samples -t "$2" -tb "$2" --no-ppl
    else
        rm -rf cache
        "$build/lqbuild" -q --cache-dir cache --products "$1" -j "$2" im
    fi
}

run_perplexity() {
    if [ "$1" = llama ]; then
        "$llama/llama-perplexity" -m model.gguf -f text.txt -c $context --chunks "$chunks" \
            -t "$2" -tb "$2"
    else
        rm -rf measured && mkdir measured
        "$build/tests/bench_perplexity" "$work/measured" "$work/model.gguf" "$work/text.txt" "$chunks" $context "$2" "$1"
    fi
}

# One line: WORK THREADS KIND TOKENS WALL USER SYS
TIMEFORMAT='%R %U %S'
measure() { # WORK THREADS KIND TOKENS
    local used
    used=$({ time "run_$1" "$3" "$2" > "$1.$3.out" 2> "$1.$3.err"; } 2>&1) || {
        tail -5 "$1.$3.err" >&2
        exit 1
    }
    echo "$1 $2 $3 $4 $used" | tee -a times >&2
}

: > times
for n in $threads; do
    for ((round = 0; round < rounds; round++)); do
        for kind in llama f32 fast; do measure imatrix "$n" $kind $((samples * sample)); done
        for kind in llama f32 fast; do measure perplexity "$n" $kind $((chunks * context)); done
    done
done

awk '
    { key = $1 " " $2 " " $3; cpu = $6 + $7 }
    !(key in wall) || $5 < wall[key] { wall[key] = $5 }
    !(key in used) || cpu < used[key] { used[key] = cpu }
    { tokens[key] = $4; if (!(key in seen)) { seen[key] = 1; order[++count] = key } }
    END {
        goal["imatrix f32"] = 3; goal["imatrix fast"] = 5
        goal["perplexity f32"] = 2; goal["perplexity fast"] = 3.5
        printf "%-11s %7s %-6s %8s %8s %9s %10s %10s %7s\n", "work", "threads", "by", "wall s",
            "CPU s", "tokens/s", "wall ratio", "CPU ratio", "asked"
        for (i = 1; i <= count; i++) {
            split(order[i], part, " ")
            base = part[1] " " part[2] " llama"
            printf "%-11s %7s %-6s %8.2f %8.2f %9.0f", part[1], part[2], part[3], wall[order[i]],
                used[order[i]], tokens[order[i]] / wall[order[i]]
            if (part[3] != "llama") {
                printf " %10.2f %10.2f %7.1f", wall[base] / wall[order[i]],
                    used[base] / used[order[i]], goal[part[1] " " part[3]]
            }
            printf "\n"
        }
    }' times
