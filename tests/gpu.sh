#!/bin/sh
# All that needs an NVIDIA GPU, for people and for machines that have one: builds the module for the
# GPU that is there, checks every encoder and decoder bit for bit against the reference and every
# operation of a model's passes against the CPU, runs models on both and compares, times all of it
# beside what the chip can do, and looks for wrong accesses of memory and races. A table comes last.
#   gpu.sh [BUILD-FOLDER]            (build-gpu)
#   gpu.sh --pack FOLDER [CAPABILITY]  builds for a GPU that is elsewhere (90: H100), and puts programs,
#                                    module and the libraries that they need into FOLDER
#   gpu.sh --packed FOLDER           does the rest with them, where nothing can be built
# A part that fails does not stop the others. LQ_GPU_LOG: a file that gets all that is printed (gpu.log
# in the folder). LQ_GPU_SECONDS: parts that would begin later, or last longer, are cut (570; the build
# does not count). LQ_GPU_TIMES=no leaves the timing out. What falls back to the CPU has failed. Where
# attention's own kernels fail, the rest goes on without them (LQBUILD_NO_FLASH).
# Exits with 77 and a line with the reason where there is no GPU or no nvcc.
set -eu
programs="lqbuild tests/checkkern tests/checkdevice tests/make_model"
tests="tests/test_gpu_passes tests/test_gpu"

# Once more, with everything in one log.
if [ -z "${LQ_GPU_INSIDE:-}" ]; then
    case ${1:-} in
    --packed) log=$2/gpu.log ;;
    --pack) log=$2/pack.log ;;
    *) log=${1:-build-gpu}/gpu.log ;;
    esac
    log=${LQ_GPU_LOG:-$log}
    mkdir -p "$(dirname "$log")"
    {
        code=0
        LQ_GPU_INSIDE=yes sh "$0" "$@" 2>&1 || code=$?
        echo "$code" > "$log.code"
    } | tee "$log"
    code=$(cat "$log.code")
    rm -f "$log.code"
    exit "$code"
fi

here=$PWD
cd "$(dirname "$0")/.."

from_here() { # PATH
    case $1 in
    /*) echo "$1" ;;
    *) echo "$here/$1" ;;
    esac
}

skip() {
    echo "SKIP gpu.sh: $1"
    exit 77
}

find_nvcc() {
    PATH=$PATH:/usr/local/cuda/bin
    command -v nvcc > /dev/null || skip "there is no nvcc"
}

build() { # FOLDER CAPABILITY
    mkdir -p "$1"
    cmake -S . -B "$1" -DCMAKE_BUILD_TYPE=Release -DLQ_CUDA=ON -DLQ_CUDA_ARCHITECTURES="$2" > "$1/build.log"
    # shellcheck disable=SC2046,SC2086 # lists of words
    cmake --build "$1" -j "${LQ_GPU_JOBS:-$(nproc)}" --target lqbuild_cuda gpu_fake \
        $(for name in $programs $tests; do basename "$name"; done) >> "$1/build.log"
}

pack() { # FOLDER CAPABILITY
    find_nvcc
    build "$1/build" "$2"
    mkdir -p "$1/tests" "$1/lib"
    for name in $programs $tests liblqbuild_cuda.so tests/libgpu_fake.so; do
        cp "$1/build/$name" "$1/$name"
        strip "$1/$name" 2> /dev/null || :
        # The C library is the other machine's own.
        ldd "$1/$name" | awk '$3 ~ /^\// { print $3 }' |
            grep -v -E '/(libc|libm|libdl|libpthread|librt|ld-linux[^/]*)\.so' |
            while read -r library; do cp -L "$library" "$1/lib/"; done
    done
    rm -rf "$1/build"
    du -sh "$1"
}

# cuBLAS comes with the toolkit, or with Python packages.
find_cublas() {
    if ldconfig -p 2> /dev/null | grep -q 'libcublasLt\.so\.1[23]'; then
        return
    fi
    found=$(find /usr/local /usr/lib /opt /root /home -name 'libcublasLt.so.1[23]' 2> /dev/null |
        sort -t. -k 3n | tail -n 1) || :
    if [ -n "$found" ]; then
        LD_LIBRARY_PATH=$(dirname "$found"):${LD_LIBRARY_PATH:-}
        export LD_LIBRARY_PATH
        echo "cuBLASLt: $found"
    else
        echo "cuBLASLt: not found"
    fi
}

built=build-gpu
packed=no
case ${1:-} in
--pack)
    pack "$(from_here "$2")" "${3:-90}"
    exit 0
    ;;
--packed)
    built=$(cd "$(from_here "$2")" && pwd)
    packed=yes
    LD_LIBRARY_PATH=$built/lib:${LD_LIBRARY_PATH:-}
    export LD_LIBRARY_PATH
    ;;
?*) built=$(from_here "$1") ;;
esac

command -v nvidia-smi > /dev/null || skip "there is no nvidia-smi, so no NVIDIA driver"
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -n 1) || :
case $capability in
[0-9]*.[0-9]) ;;
*) skip "nvidia-smi finds no GPU" ;;
esac
gpu_name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
if [ $packed = no ]; then
    find_nvcc
    echo "== build for $gpu_name"
    mkdir -p "$built"
    built=$(cd "$built" && pwd)
    build "$built" "$(echo "$capability" | tr -d .)"
fi
# From here on nothing ends the script but its end.
set +e
deadline=$(($(date +%s) + ${LQ_GPU_SECONDS:-570}))
echo "== machine"
nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem --format=csv
grep -m 1 'model name' /proc/cpuinfo
echo "$(nproc) CPUs; $(ldd --version 2> /dev/null | head -n 1)"
find_cublas
cuda_module=$built/liblqbuild_cuda.so
LQBUILD_CUDA_MODULE=$cuda_module
LQBUILD_CONFIG=
export LQBUILD_CUDA_MODULE LQBUILD_CONFIG
work=$(mktemp -d)
failed=0
table=$work/table
: > "$table"

# Whatever ends the script, the table comes.
finish() {
    trap - EXIT INT TERM HUP
    [ -z "${making:-}" ] || kill "$making" 2> /dev/null
    echo "== $gpu_name"
    cat "$table"
    [ "${whole:-no}" = yes ] || { echo "CUT      the rest" && failed=1; }
    rm -rf "$work"
    [ $failed = 0 ] && echo "gpu.sh: all passed" || echo "gpu.sh: FAILED"
    exit $failed
}
trap finish EXIT INT TERM HUP

note() { # TEXT
    [ -n "$1" ] || return 0
    echo "$1"
    echo "         $1" >> "$table"
}

# One line of the table at the end; any failure decides the exit code.
verdict() { # NAME STATUS
    case $2 in
    0) echo "passed   $1" >> "$table" ;;
    77) echo "skipped  $1" >> "$table" ;;
    124 | 137)
        echo "CUT      $1" >> "$table"
        failed=1
        ;;
    *)
        echo "FAILED   $1 ($2)" >> "$table"
        failed=1
        ;;
    esac
}

# The seconds that something may take that wants so many; 0 when it must not begin.
room_for() { # SECONDS
    left=$((deadline - $(date +%s)))
    if [ "$left" -lt 5 ]; then
        echo 0
    elif [ "$left" -lt "$1" ]; then
        echo "$left"
    else
        echo "$1"
    fi
}

# Runs a command, at most so many seconds; $work/log has what it prints.
run() { # SECONDS COMMAND...
    seconds=$(room_for "$1")
    shift
    : > "$work/log"
    [ "$seconds" != 0 ] || return 77
    timeout -k 5 "$seconds" "$@" > "$work/log" 2>&1
    ran=$? # what else failed stays in $status
    cat "$work/log"
    return $ran
}

# shellcheck disable=SC2317 # on_$device
on_cpu() {
    run "$@"
}

# What several commands come to, in $status: a failure, or else that one was cut, or not begun.
also() { # STATUS
    case $1/$status in
    0/*) ;;
    77/0 | 124/0 | 124/77 | 137/0 | 137/77) status=$1 ;;
    77/* | 124/* | 137/*) ;;
    *) status=1 ;;
    esac
}

# The same for what runs on the GPU: when the program goes on without it, that is a failure.
on_cuda() { # SECONDS COMMAND...
    run "$@" || return $?
    left_it=$(grep -m 1 'on the CPU' "$work/log") || return 0
    note "$left_it"
    return 1
}

# The same, with a line of the table.
check() { # NAME SECONDS COMMAND...
    name=$1
    shift
    echo "== $name"
    run "$@"
    status=$?
    verdict "$name" $status
    return $status
}

seconds_since() { # START, as of date +%s.%N
    date +%s.%N | awk -v start="$1" '{ printf "%.2f\n", $1 - start }'
}

# Lines of the log that match, behind the table's last line; the first so many of them.
notes_of() { # PATTERN [COUNT]
    grep -E "$1" "$work/log" | head -n "${2:-200}" | while read -r line; do echo "         $line" >> "$table"; done
}

# A model like 7B, four layers of it, is made meanwhile.
big=$work/7b.gguf
timed=${LQ_GPU_TIMES:-yes}
if [ "$timed" != no ]; then
    timeout 300 "$built/tests/make_model" 7b --layers 4 --imatrix "$work/7b-im.gguf" "$big" > "$work/made" 2>&1 &
    making=$!
fi

# ---- what is right ----

if ! check "every operation against the CPU" 120 "$built/tests/checkdevice"; then
    notes_of 'times the tolerance|cuda|GPU' 20
    LQBUILD_NO_FLASH=yes
    export LQBUILD_NO_FLASH
    if ! check "every operation, attention by products" 60 "$built/tests/checkdevice"; then
        unset LQBUILD_NO_FLASH # it is something else
    fi
fi
notes_of 'worst error'
check "every type against the reference" 120 "$built/tests/checkkern" --gpu --level none
# A GPU that cannot be used is a failure here: nvidia-smi has seen one.
grep -q '^cuda: 27 types' "$work/log" || verdict "27 types on the GPU" 1
notes_of '^cuda:|differences'

echo "== the same bits as the sources have on the CPU"
status=0
run 60 "$built/tests/checkdevice" --bits || also $?
cp "$work/log" "$work/bits.gpu"
LQBUILD_CUDA_MODULE=$built/tests/libgpu_fake.so timeout 60 "$built/tests/checkdevice" --bits > "$work/bits.cpu" ||
    also $?
# All but the first line, which has the name.
sed -i 1d "$work/bits.gpu" "$work/bits.cpu"
[ "$status" -gt 1 ] || diff "$work/bits.gpu" "$work/bits.cpu" || status=1
verdict "the same bits as the sources have on the CPU" "$status"
echo "== the same bits twice"
run 60 "$built/tests/checkdevice" --turns
verdict "the same bits twice" $?

# ---- the shipped model ----

echo "== a whole file"
status=0
for device in cpu cuda; do
    on_$device 60 "$built/lqbuild" -q quantize examples/tiny-llama gguf -q Q4_K_M -o "$work/$device.gguf" \
        --device $device --cache-dir "$work/cache-$device" || also $?
done
[ "$status" -gt 1 ] || cmp "$work/cpu.gguf" "$work/cuda.gguf" || status=1
verdict "a whole file has the same bytes" "$status"

echo "== importance matrix and perplexity of the shipped model"
status=0
for device in cpu cuda; do
    mkdir -p "$work/$device"
    cat > "$work/$device/recipe.lq" << END
model base { source = "$PWD/examples/tiny-llama" }
text words { path = "$PWD/examples/text/calibration.txt" }
calibration calib { model = base  text = words  samples = 128  sequence = 256 }
imatrix im { model = base  calibration = calib  path = "im.gguf" }
END
    on_$device 90 "$built/lqbuild" -q -C "$work/$device" --device $device --cache-dir "$work/cache-$device" im ||
        also $?
    # The cache has what the CPU quantized, so both compare the same file.
    on_$device 90 "$built/lqbuild" -q quality report examples/tiny-llama "$work/cpu.gguf" --calibration-samples 64 \
        --calibration-data examples/text/eval.txt --device $device --cache-dir "$work/cache-$device" \
        --format json || also $?
    cp "$work/log" "$work/report-$device"
done
figure_of() { # NAME DEVICE
    sed -n "s/.*\"$1\": *\\([-0-9.e]*\\).*/\\1/p" "$work/report-$2" | head -n 1
}
for name in perplexity_original perplexity_quantized kl_divergence_mean same_top_pct; do
    note "$(echo "$(figure_of $name cpu) $(figure_of $name cuda)" |
        awk -v name=$name 'NF == 2 { printf "%s: CPU %s, GPU %s, %.4f %%", name, $1, $2, 100 * ($2 / $1 - 1) }')"
done
if [ "$status" -le 1 ]; then # both have all of it
    echo "$(figure_of perplexity_original cpu) $(figure_of perplexity_original cuda)" |
        awk '{ off = $2 / $1 - 1 } END { exit !(NF == 2 && off < 0.01 && off > -0.01) }' || status=1
    run 30 "$built/lqbuild" imatrix compare "$work/cpu/im.gguf" "$work/cuda/im.gguf" --max-relative 0.01 || also $?
    tail -n 3 "$work/log" | while read -r line; do echo "         $line" >> "$table"; done
fi
verdict "importance matrix and perplexity within 1 %" "$status"

# ---- what is fast ----

make_big() {
    wait "$making"
    status=$?
    making=
    cat "$work/made"
    return $status
}

# 202 million weights a layer, 1.07 billion in all; reading and hashing the source come before.
time_files() {
    status=0
    for device in cuda cpu; do
        on_$device 150 "$built/lqbuild" -q quantize "$big" gguf -q Q8_0 --pure -o "$work/big-Q8_0.gguf" \
            --device $device --cache-dir "$work/cache-big-$device" || also $?
        for level in Q4_K IQ2_XS; do
            [ $device$level != cpuIQ2_XS ] || continue
            start=$(date +%s.%N)
            on_$device 120 "$built/lqbuild" -q quantize "$big" gguf -q $level --pure --imatrix "$work/7b-im.gguf" \
                -o "$work/big-$level.gguf" --device $device --cache-dir "$work/cache-big-$device" ||
                also $?
            note "$(echo "$(seconds_since "$start") $(wc -c < "$big") $(wc -c < "$work/big-$level.gguf")" |
                awk -v level=$level -v device=$device '{ printf "%s of 1.07 billion weights, %s: %.2f s, %.2f GB/s of files",
                    level, device, $1, ($2 + $3) / $1 * 1e-9 }')"
        done
        rm -rf "$work/cache-big-$device"
    done
    return "$status"
}

# More samples cost what samples cost: reading the model, which takes longer than computing, falls
# out of the difference.
time_imatrix() { # SAMPLES SEQUENCE
    cat > "$work/big.lq" << END
model base { source = "7b.gguf" }
text words { path = "long.txt" }
calibration calib { model = base  text = words  samples = $1  sequence = $2 }
imatrix im { model = base  calibration = calib  path = "7b-$1-$2.gguf" }
END
    run 60 "$built/lqbuild" -q -C "$work" -f big.lq --device cuda --cache-dir cache-7b calib || return $?
    start=$(date +%s.%N)
    on_cuda 150 "$built/lqbuild" -q -C "$work" -f big.lq --device cuda --cache-dir cache-7b im || return $?
    took=$(seconds_since "$start")
}

time_imatrices() {
    cat examples/text/*.txt > "$work/long.txt"
    for _ in 1 2 3 4; do # 16 times as long
        cp "$work/long.txt" "$work/half.txt"
        cat "$work/half.txt" >> "$work/long.txt"
    done
    # The first one hashes the model, and loads what is loaded once.
    time_imatrix 128 64 || return $?
    time_imatrix 128 2048 || return $?
    few=$took
    time_imatrix 512 2048 || return $?
    # 202 million weights a layer, and half of all pairs in attention.
    note "$(awk -v few="$few" -v many="$took" -v ceiling="${ceiling:-0}" 'BEGIN {
        flops = 4 * 384 * 2048 * (2 * 202.4e6 + 2 * 2048 * 4096) / (many - few) * 1e-12
        printf "4 layers, 128 samples of 2048: %.1f s; 384 more: %.2f s, %.0f TFLOP/s", few, many - few, flops
        if (ceiling > 0) printf ", %.0f %% of the largest product", 100 * flops / ceiling
    }')"
    note "$(awk -v few="$few" -v many="$took" 'BEGIN {
        printf "by that, 32 layers and 512 samples: %.0f s besides reading", 8 * 512 / 384 * (many - few)
    }')"
}

time_perplexity() {
    start=$(date +%s.%N)
    on_cuda 200 "$built/lqbuild" -q quality report "$big" "$work/big-Q4_K.gguf" --calibration-samples 256 \
        --calibration-data "$work/long.txt" --device cuda --cache-dir "$work/cache-7b" --format json || return $?
    note "$(seconds_since "$start" |
        awk '{ printf "report of two models of 4 layers, 256 chunks of 512: %s s, reading included", $1 }')"
}

if [ "$timed" != no ]; then
    check "speed of operations" 120 "$built/tests/checkdevice" --bench
    notes_of 'TFLOP/s|GB/s'
    ceiling=$(awk '/TFLOP\/s/ { for (i = 2; i <= NF; i++) if ($i == "TFLOP/s" && $(i - 1) > max) max = $(i - 1) }
        END { print max + 0 }' "$work/log")
    echo "== a model like 7B"
    if make_big; then
        time_imatrices
        verdict "importance matrix of a model like 7B" $?
        time_files
        verdict "whole files of a model like 7B" $?
        time_perplexity
        verdict "perplexity of a model like 7B" $?
    else
        verdict "a model like 7B is made" 1
    fi
    rm -rf "$big" "$work"/big-* "$work"/cache-*
    check "speed of types, copies included" 150 "$built/tests/checkkern" --bench --gpu
    notes_of '^cuda:|^encode'
fi

# ---- tests, and what takes long ----

for test in $tests; do
    if [ -x "$built/$test" ] && [ $packed = no ]; then
        LQ_TEST_CUDA_MODULE=$cuda_module check "$test" 200 "$built/$test"
    fi
done

PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
if command -v compute-sanitizer > /dev/null; then
    check "accesses of memory, operations" 90 compute-sanitizer --error-exitcode 1 --leak-check no \
        "$built/tests/checkdevice" --quick
    check "races, operations" 90 compute-sanitizer --tool racecheck --error-exitcode 1 \
        "$built/tests/checkdevice" --quick
    check "barriers, operations" 90 compute-sanitizer --tool synccheck --error-exitcode 1 \
        "$built/tests/checkdevice" --quick
    check "accesses of memory, types" 90 compute-sanitizer --error-exitcode 1 --leak-check no \
        "$built/tests/checkkern" --gpu --quick --level none
else
    verdict "accesses of memory (there is no compute-sanitizer)" 77
fi

# Not of the GPU, but of machines that have one: kernels that few other machines can run.
if grep -q avx512bw /proc/cpuinfo; then
    check "every type of the CPU's AVX-512 against the reference" 60 "$built/tests/checkkern" --level avx512
    [ "$timed" = no ] || check "speed of the CPU's kernels" 150 "$built/tests/checkkern" --bench
    notes_of ' avx512 '
else
    verdict "kernels of AVX-512 (this CPU does not have it)" 77
fi

whole=yes
finish
