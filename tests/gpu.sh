#!/bin/sh
# All that needs an NVIDIA GPU, for people and for machines that have one: builds the module for the
# GPU that is there, checks every encoder and decoder bit for bit against the reference, looks for
# wrong accesses of memory, compares a whole file with the CPU's, and times encoding.
#   gpu.sh [BUILD-FOLDER]      (build-gpu)
# Exits with 77 and a line with the reason where there is no GPU or no nvcc.
set -eu
cd "$(dirname "$0")/.."
build=${1:-build-gpu}

skip() {
    echo "SKIP gpu.sh: $1"
    exit 77
}

command -v nvidia-smi > /dev/null || skip "there is no nvidia-smi, so no NVIDIA driver"
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -n 1) || :
case $capability in
[0-9]*.[0-9]) ;;
*) skip "nvidia-smi finds no GPU" ;;
esac
PATH=$PATH:/usr/local/cuda/bin
command -v nvcc > /dev/null || skip "there is no nvcc"

echo "== build for $(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)"
mkdir -p "$build"
build=$(cd "$build" && pwd)
cmake -B "$build" -DCMAKE_BUILD_TYPE=Release -DLQ_CUDA=ON \
    -DLQ_CUDA_ARCHITECTURES="$(echo "$capability" | tr -d .)" > "$build/gpu.log"
cmake --build "$build" -j "$(nproc)" --target lqbuild lqbuild_cuda checkkern >> "$build/gpu.log"
LQBUILD_CUDA_MODULE=$build/liblqbuild_cuda.so
LQBUILD_CONFIG=
export LQBUILD_CUDA_MODULE LQBUILD_CONFIG
failed=0

echo "== every type against the reference"
"$build/tests/checkkern" --gpu --level none > "$build/gpu.check" || failed=1
cat "$build/gpu.check"
# A GPU that cannot be used is a failure here: nvidia-smi has seen one.
grep -q '^cuda: 27 types' "$build/gpu.check" || failed=1

echo "== accesses of memory"
if command -v compute-sanitizer > /dev/null; then
    compute-sanitizer --error-exitcode 1 --leak-check no "$build/tests/checkkern" \
        --gpu --quick --level none || failed=1
else
    echo "SKIP: there is no compute-sanitizer"
fi

echo "== a whole file"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for device in cpu cuda; do
    "$build/lqbuild" -q quantize examples/tiny-llama gguf -q Q4_K_M -o "$work/$device.gguf" \
        --device $device --cache-dir "$work/cache-$device" || failed=1
done
cmp "$work/cpu.gguf" "$work/cuda.gguf" && echo "the same bytes" || failed=1

echo "== speed, copies included"
"$build/tests/checkkern" --bench --gpu || failed=1

[ $failed = 0 ] && echo "gpu.sh: all passed" || echo "gpu.sh: FAILED"
exit $failed
