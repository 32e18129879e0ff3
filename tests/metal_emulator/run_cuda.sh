#!/bin/sh
# Builds the kernels for an NVIDIA GPU and runs their tests there, plain and under
# compute-sanitizer, then prints what each kernel took.
#
#   run_cuda.sh [--build-only] [--no-sanitizers] [SOURCES.c]
#
# Needs nvcc, gcc, g++ and python3; no CMake, no cmocka. SOURCES.c: the file with the
# embedded kernel sources that backend.c links (any will do: nvcc's objects are what runs);
# without it, or without src/backend/gpu/backend.c, the conformance suite is left out.
# CUDA_ARCH (default sm_90) can be set.
set -eu

build_only=no
sanitizers=yes
sources=
for argument in "$@"; do
    case $argument in
    --build-only) build_only=yes ;;
    --no-sanitizers) sanitizers=no ;;
    *) sources=$argument ;;
    esac
done

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
arch=${CUDA_ARCH:-sm_90}
cuda=$(dirname "$(dirname "$(command -v nvcc)")")
includes="-I$root/include -I$root/src -I$here -I$here/cuda -I$here/cuda/include"
# fma only where the source says so; division, square roots and subnormals as IEEE has them.
nvcc_flags="-std=c++17 -arch=$arch -O2 -lineinfo -fmad=false -prec-div=true -prec-sqrt=true -ftz=false"
link="-L$cuda/lib64 -L$cuda/lib -lcudart_static -lpthread -ldl -lrt -lm"

# Compiles run side by side: a line of $build/jobs each.
job() {
    echo "$*" >>"$build/jobs"
}
run_jobs() {
    tr '\n' '\0' <"$build/jobs" | xargs -0 -P "$(nproc)" -I '{}' sh -c '{}'
    rm "$build/jobs"
}

echo "== kernels, $arch"
for metal in "$here"/kernels/*.metal "$root"/src/backend/gpu/*.metal; do
    name=$(basename "$metal" .metal)
    python3 "$here/gpu_kernels.py" --cuda "$metal" "$build/$name.cu"
    job nvcc $nvcc_flags $includes -c "$build/$name.cu" -o "$build/kernels_$name.o"
done
job nvcc $nvcc_flags $includes -c "$here/cuda/device_cuda.cu" -o "$build/device_cuda.o"
run_jobs
# shellcheck disable=SC2086
g++ -std=c++17 -O1 -Wall -Wextra $includes "$here/cuda/test_cuda.cc" "$here/test_rig.cc" \
    "$here/test_values.cc" "$build/kernels_values.o" "$build/kernels_bugs.o" \
    "$build/device_cuda.o" $link -o "$build/test_cuda"

# The library with backends ref and metal, and the conformance suite, by plain compiler calls.
conformance=
if [ -n "$sources" ] && [ -e "$root/src/backend/gpu/backend.c" ]; then
    echo "== conformance"
    mkdir "$build/c"
    c_flags="-std=gnu11 -O2 -ffp-contract=off -fno-math-errno -DKVF_METAL"
    c_flags="$c_flags -I$root/tests/cross -I$root/tests/conformance $includes"
    # Of cache/ only what names profiles: no session, no file.
    for c in "$root/src/error.c" "$root"/src/format/*.c "$root/src/cache/profile.c" \
        "$root"/src/backend/*.c \
        "$root"/src/backend/ref/*.c "$root"/src/backend/cpu/*.c "$root"/src/backend/cpu/x86/*.c \
        "$root"/src/backend/gpu/*.c "$root"/tests/conformance/*.c "$root/tests/cross/cmocka.c" \
        "$here/cuda/time_designs.c" "$sources"; do
        isa=
        avx512="-mavx2 -mfma -mf16c -mbmi2 -mavx512f -mavx512bw -mavx512dq -mavx512vl"
        case $c in
        *_avx2.c) isa="-mavx2 -mfma -mf16c -mbmi2" ;;
        *_avx512.c) isa=$avx512 ;;
        *_avx512vnni.c) isa="$avx512 -mavx512vnni" ;;
        esac
        object=$(echo "${c#"$root"/}" | tr / _)
        job gcc $c_flags $isa -c "$c" -o "$build/c/$object.o"
    done
    run_jobs
    kernels=$(find "$build" -name 'kernels_*.o' ! -name kernels_bugs.o ! -name kernels_values.o)
    # shellcheck disable=SC2086
    library=$(find "$build/c" -name 'src_*.o' -o -name "$(echo "${sources#"$root"/}" | tr / _).o")
    # shellcheck disable=SC2086
    g++ $library "$build"/c/tests_con*.o "$build"/c/tests_cross*.o $kernels "$build/device_cuda.o" \
        -pthread $link -o "$build/test_conformance"
    # shellcheck disable=SC2086
    g++ $library "$build"/c/*time_designs.c.o $kernels "$build/device_cuda.o" -pthread $link \
        -o "$build/time_designs"
    conformance="$build/test_conformance --backend metal"
else
    echo "== no conformance: backend.c or the embedded sources are not there"
fi
[ "$build_only" = no ] || exit 0

failed=0
# run NAME COMMAND..: the command has to succeed.
run() {
    name=$1
    shift
    echo "== $name"
    "$@" || {
        echo "FAILED: $name"
        failed=1
    }
}
# must_find NAME COMMAND..: a sanitizer has to complain.
must_find() {
    name=$1
    shift
    if "$@" >"$build/log" 2>&1; then
        echo "FAILED: $name was not found"
        failed=1
    else
        echo "== found: $name"
    fi
}

export KVF_CUDA_TIMES=1
run "values" "$build/test_cuda"
# shellcheck disable=SC2086
[ -z "$conformance" ] || run "conformance" $conformance
if [ -n "$conformance" ]; then
    for rows in 24576 262144; do
        for design in legacy packed fold; do
            run "one step of $design" "$build/time_designs" $design $rows
        done
    done
fi
unset KVF_CUDA_TIMES

if [ "$sanitizers" = yes ] && command -v compute-sanitizer >/dev/null; then
    check="compute-sanitizer --error-exitcode 9 --tool"
    must_find "an access past a buffer" $check memcheck "$build/test_cuda" write_beyond 8192
    must_find "a race" $check racecheck "$build/test_cuda" missing_barrier 1
    for tool in memcheck racecheck synccheck; do
        run "values, $tool" $check $tool "$build/test_cuda"
        # shellcheck disable=SC2086
        [ -z "$conformance" ] || run "conformance, $tool" $check $tool $conformance
    done
fi
[ $failed = 0 ] && echo "== all good"
exit $failed
