#!/usr/bin/env bash
# usage: bootstrap.sh [demo|check|all]
# Installs what a target of the Makefile needs and this machine lacks: apt-get on Debian and
# Ubuntu, Homebrew on macOS. Does nothing, and needs no network, when all of it is there.
#   demo    the command (the default)
#   check   and its tests
#   all     and what tests other builds: sanitizers under clang, ARM, the emulated GPU, peers
set -euo pipefail

# A package that differs between releases: `one|other|..`, the first that the release has.
debian_demo=(gcc libc6-dev make cmake ninja-build pkg-config python3
    libcjson-dev libxxhash-dev libzstd-dev nettle-dev libmicrohttpd-dev)
debian_check=(libcmocka-dev)
debian_all=(libopenblas-pthread-dev clang libclang-rt-dev clang-format
    qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    'clang-16|clang-17|clang-18|clang-19' # the emulator's compiler: tests/metal_emulator
    nodejs npm)                           # npm brings llama.cpp's libraries: tests/oracle
homebrew_demo=(cmake ninja pkg-config cjson xxhash zstd nettle libmicrohttpd)
homebrew_check=(cmocka)
homebrew_all=(clang-format)

has_command() {
    command -v "$1" >/dev/null 2>&1
}

has_library() {
    has_command pkg-config && pkg-config --exists "$1"
}

# has_package NAME: is what the Debian package brings already there, from wherever?
has_package() {
    case $1 in
    gcc) has_command cc ;;
    libc6-dev) [ -e /usr/include/stdio.h ] ;;
    make | cmake | pkg-config | python3 | clang | clang-format | npm) has_command "$1" ;;
    nodejs) has_command node ;;
    ninja-build) has_command ninja ;;
    libcjson-dev) has_library libcjson ;;
    libxxhash-dev) has_library libxxhash ;;
    libzstd-dev) has_library libzstd ;;
    nettle-dev) has_library nettle ;;
    libmicrohttpd-dev) has_library libmicrohttpd ;;
    libcmocka-dev) has_library cmocka ;;
    # Another variant of OpenBLAS is not enough: see bench/CMakeLists.txt.
    libopenblas-pthread-dev) compgen -G '/usr/lib/*/openblas-pthread/libopenblas.so' >/dev/null ;;
    libclang-rt-dev)
        compgen -G "$(clang -print-resource-dir 2>/dev/null)/lib/linux/libclang_rt.fuzzer-*" >/dev/null
        ;;
    qemu-user) has_command qemu-aarch64 ;;
    gcc-aarch64-linux-gnu) has_command aarch64-linux-gnu-gcc ;;
    libc6-dev-arm64-cross) [ -e /usr/aarch64-linux-gnu/include/stdio.h ] ;;
    clang-16*) compgen -G '/usr/bin/clang++-1[6-9]' >/dev/null ;;
    *) return 1 ;;
    esac
}

# Prints the first of one|other|.. that this release has.
choose_package() {
    local name names
    IFS='|' read -ra names <<<"$1"
    for name in "${names[@]}"; do
        apt-cache show "$name" >/dev/null 2>&1 && echo "$name" && return
    done
    # The tests that need it say that they are skipped.
    echo "This release has none of ${names[*]}" >&2
}

install_debian() {
    local missing=() chosen=() as_root=() package
    for package in "$@"; do
        case $(uname -m):$package in
        aarch64:qemu-user | aarch64:*-aarch64-* | aarch64:*-arm64-cross) continue ;; # native there
        esac
        has_package "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    if [ "$(id -u)" -ne 0 ]; then
        has_command sudo || {
            echo "Needed, to be installed by root: ${missing[*]}" >&2
            return 1
        }
        as_root=(sudo)
    fi
    # Lists that are there may be too old for the archive: then they are read anew, below.
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || "${as_root[@]}" apt-get update -q
    for package in "${missing[@]}"; do
        case $package in
        *\|*) package=$(choose_package "$package") ;;
        esac
        [ -z "$package" ] || chosen+=("$package")
    done
    [ ${#chosen[@]} -gt 0 ] || return 0
    printf 'Installing: %s\n' "${chosen[*]}"
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
        apt-get install -q -y --no-install-recommends "${chosen[@]}")
    "${install[@]}" </dev/null || { "${as_root[@]}" apt-get update -q && "${install[@]}" </dev/null; }
}

install_homebrew() {
    local missing=() formula
    for formula in "$@"; do
        brew list --formula "$formula" >/dev/null 2>&1 || missing+=("$formula")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    printf 'Installing: %s\n' "${missing[*]}"
    brew install "${missing[@]}"
}

set_name=${1:-demo}
debian=("${debian_demo[@]}") homebrew=("${homebrew_demo[@]}")
case $set_name in
demo) ;;
check)
    debian+=("${debian_check[@]}") homebrew+=("${homebrew_check[@]}")
    ;;
all)
    debian+=("${debian_check[@]}" "${debian_all[@]}")
    homebrew+=("${homebrew_check[@]}" "${homebrew_all[@]}")
    ;;
*)
    echo "usage: bootstrap.sh [demo|check|all], not '$set_name'" >&2
    exit 2
    ;;
esac

if has_command apt-get; then
    install_debian "${debian[@]}"
elif has_command brew; then
    install_homebrew "${homebrew[@]}"
else
    # The build says what it misses, if anything.
    echo 'Neither apt-get nor brew is here; nothing was installed.' >&2
    echo "Needed, by Debian's names: ${debian[*]}" >&2
fi
