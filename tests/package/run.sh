#!/bin/sh
# usage: run.sh CMAKE BUILD_FOLDER CC
# Installs the build into an empty prefix, then builds and runs consumer.c against it four
# ways: CMake package and pkg-config, shared and static library each.
set -eu
cmake=$1 build=$2 cc=$3
source=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
version=$(sed -n 's/^Version: //p' "$build/kvfold.pc")
expected="kvfold $version, row unchanged, session bytes 44759436" # docs/FORMAT.md 8

# check NAME PROGRAM: runs it and looks which libkvfold it loads, if any.
check() {
    found=$("$2")
    if [ "$found" != "$expected" ]; then
        printf '%s printed "%s", expected "%s"\n' "$1" "$found" "$expected" >&2
        exit 1
    fi
    if command -v ldd >/dev/null; then
        case $1 in
        *shared) ldd "$2" | grep -q "$prefix/.*libkvfold" ;;
        *static) ! ldd "$2" | grep -q libkvfold ;;
        esac || { printf '%s is not linked as its name says:\n' "$1" >&2; ldd "$2" >&2; exit 1; }
        # The products are the library's own: no BLAS comes along, nor a runtime for threads.
        if ldd "$2" | grep -Ei 'blas|lapack|omp\.so|omp5'; then
            printf '%s loads what the library does not need, see above\n' "$1" >&2
            exit 1
        fi
    fi
    printf '%s: %s\n' "$1" "$found"
}

"$cmake" --install "$build" --prefix "$prefix" >"$work/install.log"
test -x "$prefix/bin/kvfold"
for text in LICENSE NOTICE; do
    cmp "$source/../../$text" "$prefix/share/doc/kvfold/$text"
done
if grep -rilI openblas "$prefix/include" "$prefix"/lib*; then
    echo 'names OpenBLAS, which the library does not link' >&2
    exit 1
fi

"$cmake" -S "$source" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" \
    >"$work/configure.log" || { cat "$work/configure.log" >&2; exit 1; }
"$cmake" --build "$work/cmake" >"$work/build.log" || { cat "$work/build.log" >&2; exit 1; }
check cmake_shared "$work/cmake/consumer_shared"
check cmake_static "$work/cmake/consumer_static"

pc=$(find "$prefix" -name kvfold.pc)
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
libdir=$(pkg-config --variable=libdir kvfold)
cflags=$(pkg-config --cflags kvfold)
# Word splitting of the flags is wanted.
# shellcheck disable=SC2046,SC2086
$cc "$source/consumer.c" -o "$work/pc_shared" $cflags $(pkg-config --libs kvfold) \
    "-Wl,-rpath,$libdir"
check pc_shared "$work/pc_shared"
static_libs=$(pkg-config --static --libs kvfold | sed "s|-lkvfold|$libdir/libkvfold.a|")
# shellcheck disable=SC2086
$cc "$source/consumer.c" -o "$work/pc_static" $cflags $static_libs
check pc_static "$work/pc_static"
