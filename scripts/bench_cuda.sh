#!/bin/sh
# What `make bench-cuda` runs on a machine with an NVIDIA GPU: a decoded token by kernel, products
# of a few tokens at true widths, select and attend. Tables for docs/CUDA.md; what it was run on
# comes first.
#
#   bench_cuda.sh BUILD_FOLDER
set -eu

build=${1:?usage: bench_cuda.sh BUILD_FOLDER}
root=$(cd "$(dirname "$0")/.." && pwd)
date -u +%Y-%m-%d
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$build/tests/cuda/time_token" "$root/models/tiny" 1024
"$build/tests/cuda/time_products"
for rows in 24576 262144; do
    for design in legacy packed fold; do
        "$build/tests/cuda/time_designs" $design $rows
    done
done
