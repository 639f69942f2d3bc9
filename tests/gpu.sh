#!/bin/sh
# All that needs an NVIDIA GPU, for people and for machines that have one: builds the module for the
# GPU that is there, checks every encoder and decoder bit for bit against the reference and every
# operation of a model's passes against the CPU, looks for wrong accesses of memory and races, runs
# models on both and compares, and times all of it. Some eight minutes, most of them the build.
#   gpu.sh [BUILD-FOLDER]            (build-gpu)
#   gpu.sh --pack FOLDER [CAPABILITY]  builds for a GPU that is elsewhere (90: H100), and puts programs,
#                                    module and the libraries that they need into FOLDER
#   gpu.sh --packed FOLDER           does the rest with them, where nothing can be built
# LQ_GPU_TIMES=no leaves the timing out.
# Exits with 77 and a line with the reason where there is no GPU or no nvcc.
set -eu
cd "$(dirname "$0")/.."
programs="lqbuild tests/checkkern tests/checkdevice tests/make_model"
tests="tests/test_gpu_passes tests/test_gpu"

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
    cmake -S . -B "$1" -DCMAKE_BUILD_TYPE=Release -DLQ_CUDA=ON -DLQ_CUDA_ARCHITECTURES="$2" > "$1/gpu.log"
    # shellcheck disable=SC2046,SC2086 # lists of words
    cmake --build "$1" -j "${LQ_GPU_JOBS:-$(nproc)}" --target lqbuild_cuda gpu_fake \
        $(for name in $programs $tests; do basename "$name"; done) >> "$1/gpu.log"
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
    if ldconfig -p 2> /dev/null | grep -q libcublasLt.so; then
        return
    fi
    found=$(find /usr/local /usr/lib /opt /root /home -name 'libcublasLt.so.1[23]' 2> /dev/null | sort | tail -n 1)
    if [ -n "$found" ]; then
        LD_LIBRARY_PATH=$(dirname "$found"):${LD_LIBRARY_PATH:-}
        export LD_LIBRARY_PATH
        echo "cuBLASLt: $found"
    fi
}

built=build-gpu
packed=no
case ${1:-} in
--pack)
    pack "$2" "${3:-90}"
    exit 0
    ;;
--packed)
    built=$(cd "$2" && pwd)
    packed=yes
    LD_LIBRARY_PATH=$built/lib:${LD_LIBRARY_PATH:-}
    export LD_LIBRARY_PATH
    ;;
?*) built=$1 ;;
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
find_cublas
cuda_module=$built/liblqbuild_cuda.so
LQBUILD_CUDA_MODULE=$cuda_module
LQBUILD_CONFIG=
export LQBUILD_CUDA_MODULE LQBUILD_CONFIG
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
table=$work/table
: > "$table"

# One line of the table at the end; the first failure decides the exit code.
verdict() { # NAME STATUS
    if [ "$2" = 0 ]; then
        echo "passed   $1" >> "$table"
    elif [ "$2" = 77 ]; then
        echo "skipped  $1" >> "$table"
    else
        echo "FAILED   $1" >> "$table"
        failed=1
    fi
}

# Runs a command, at most so many seconds, and keeps its end in the log.
check() { # NAME SECONDS COMMAND...
    name=$1
    seconds=$2
    shift 2
    echo "== $name"
    status=0
    timeout "$seconds" "$@" > "$work/log" 2>&1 || status=$?
    tail -n 40 "$work/log"
    verdict "$name" $status
}

check "every type against the reference" 120 "$built/tests/checkkern" --gpu --level none
# A GPU that cannot be used is a failure here: nvidia-smi has seen one.
grep -q '^cuda: 27 types' "$work/log" || verdict "27 types on the GPU" 1
check "every operation against the CPU" 120 "$built/tests/checkdevice"
check "the same bits twice" 120 "$built/tests/checkdevice" --turns

echo "== the same bits as the sources have on the CPU"
status=0
"$built/tests/checkdevice" --bits > "$work/bits.gpu" || status=1
LQBUILD_CUDA_MODULE=$built/tests/libgpu_fake.so "$built/tests/checkdevice" --bits > "$work/bits.cpu" || status=1
# All but the first line, which has the name.
sed -i 1d "$work/bits.gpu" "$work/bits.cpu"
diff "$work/bits.gpu" "$work/bits.cpu" && cat "$work/bits.gpu" || status=1
verdict "the same bits as the sources have on the CPU" $status

if command -v compute-sanitizer > /dev/null; then
    check "accesses of memory, types" 120 compute-sanitizer --error-exitcode 1 --leak-check no \
        "$built/tests/checkkern" --gpu --quick --level none
    check "accesses of memory, operations" 120 compute-sanitizer --error-exitcode 1 \
        --leak-check no "$built/tests/checkdevice" --quick
    check "races, operations" 120 compute-sanitizer --tool racecheck --error-exitcode 1 \
        "$built/tests/checkdevice" --quick
else
    verdict "accesses of memory (there is no compute-sanitizer)" 77
fi

echo "== a whole file"
status=0
for device in cpu cuda; do
    "$built/lqbuild" -q quantize examples/tiny-llama gguf -q Q4_K_M -o "$work/$device.gguf" \
        --device $device --cache-dir "$work/cache-$device" || status=1
done
cmp "$work/cpu.gguf" "$work/cuda.gguf" || status=1
verdict "a whole file has the same bytes" $status

echo "== importance matrix and perplexity of the shipped model"
status=0
for device in cpu cuda; do
    mkdir "$work/$device"
    cat > "$work/$device/recipe.lq" << END
model base { source = "$PWD/examples/tiny-llama" }
text words { path = "$PWD/examples/text/calibration.txt" }
calibration calib { model = base  text = words  samples = 128  sequence = 256 }
imatrix im { model = base  calibration = calib  path = "im.gguf" }
END
    "$built/lqbuild" -q -C "$work/$device" --device $device --cache-dir "$work/cache-$device" im ||
        status=1
    "$built/lqbuild" -q quality report examples/tiny-llama "$work/cpu.gguf" --calibration-samples 64 \
        --calibration-data examples/text/eval.txt --device $device --cache-dir "$work/cache-$device" \
        --format json > "$work/report-$device" || status=1
    sed -n 's/.*"perplexity_original": *\([0-9.]*\).*/\1/p' "$work/report-$device" >> "$work/perplexities"
done
awk 'NR == 1 { cpu = $1 } NR == 2 { printf "perplexity: CPU %s, GPU %s, %.4f %%\n", cpu, $1, 100 * ($1 / cpu - 1)
    off = $1 / cpu - 1; good = off < 0.01 && off > -0.01 } END { exit !good }' "$work/perplexities" || status=1
"$built/lqbuild" imatrix compare "$work/cpu/im.gguf" "$work/cuda/im.gguf" --max-relative 0.01 \
    > "$work/compared" || status=1
tail -n 5 "$work/compared"
verdict "importance matrix and perplexity within 1 %" $status
for test in $tests; do
    if [ -x "$built/$test" ] && [ $packed = no ]; then
        LQ_TEST_CUDA_MODULE=$cuda_module check "$test" 200 "$built/$test"
    fi
done

finish() {
    echo "== $gpu_name"
    cat "$table"
    [ $failed = 0 ] && echo "gpu.sh: all passed" || echo "gpu.sh: FAILED"
    exit $failed
}
[ "${LQ_GPU_TIMES:-}" != no ] || finish

check "speed of types, copies included" 150 "$built/tests/checkkern" --bench --gpu
check "speed of operations" 120 "$built/tests/checkdevice" --bench

# Four layers of a 7B model. More samples cost what samples cost: reading the model, which takes
# longer than computing, falls out of the difference.
echo "== importance matrix of a model like 7B"
status=0
"$built/tests/make_model" 7b --layers 4 "$work/7b.gguf" > /dev/null || status=1
cat examples/text/*.txt > "$work/long.txt"
for _ in 1 2 3 4; do # 16 times as long
    cp "$work/long.txt" "$work/half.txt"
    cat "$work/half.txt" >> "$work/long.txt"
done
seconds_of() { # SAMPLES
    cat > "$work/big.lq" << END
model base { source = "7b.gguf" }
text words { path = "long.txt" }
calibration calib { model = base  text = words  samples = $1  sequence = 2048 }
imatrix im { model = base  calibration = calib  path = "7b-$1.gguf" }
END
    "$built/lqbuild" -q -C "$work" -f big.lq --device cuda --cache-dir cache-7b calib
    start=$(date +%s.%N)
    timeout 150 "$built/lqbuild" -q -C "$work" -f big.lq --device cuda --cache-dir cache-7b im
    date +%s.%N | awk -v start="$start" '{ print $1 - start }'
}
if [ $status = 0 ] && few=$(seconds_of 128) && many=$(seconds_of 256); then
    # 202 million weights a layer, and half of all pairs in attention.
    awk -v few="$few" -v many="$many" 'BEGIN {
        flops = 4 * 128 * 2048 * (2 * 202.4e6 + 2 * 2048 * 4096)
        printf "4 layers, 128 samples: %.1f s; 128 more: %.2f s, %.0f TFLOP/s\n", few, many - few,
            flops / (many - few) * 1e-12
        printf "by that, 32 layers and 512 samples of 2048: %.0f s besides reading\n", 32 * (many - few)
    }'
else
    status=1
fi
verdict "importance matrix of a model like 7B" $status

finish
