#!/usr/bin/env bash
# Installs what the build and the tests need and this machine lacks: apt-get on Debian and
# Ubuntu, Homebrew on macOS. Does nothing, and needs no network, when all of it is there.
set -euo pipefail

debian_packages=(
    build-essential cmake ninja-build pkg-config python3
    libopenblas-pthread-dev libcjson-dev libcmocka-dev
    clang libclang-rt-dev
    libxxhash-dev libzstd-dev nettle-dev
    clang-format qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    clang-16
)
# Any of these compiles the kernels of the Metal emulator (tests/metal_emulator).
emulator_clangs=(16 17 18 19)
homebrew_formulae=(cmake ninja pkg-config cjson cmocka xxhash zstd nettle clang-format)

has_command() {
    command -v "$1" >/dev/null 2>&1
}

has_library() {
    has_command pkg-config && pkg-config --exists "$1"
}

# has_package NAME: is what the Debian package brings already there, from wherever?
has_package() {
    case $1 in
    clang) has_command clang ;;
    libclang-rt-dev)
        compgen -G "$(clang -print-resource-dir 2>/dev/null)/lib/linux/libclang_rt.fuzzer-*" >/dev/null
        ;;
    build-essential) has_command cc && has_command make && [ -e /usr/include/stdio.h ] ;;
    cmake | pkg-config | python3 | clang-format) has_command "$1" ;;
    ninja-build) has_command ninja ;;
    # Another variant of OpenBLAS is not enough: see cmake/KvfoldDependencies.cmake.
    libopenblas-pthread-dev) compgen -G '/usr/lib/*/openblas-pthread/libopenblas.so' >/dev/null ;;
    libcjson-dev) has_library libcjson ;;
    libcmocka-dev) has_library cmocka ;;
    libxxhash-dev) has_library libxxhash ;;
    libzstd-dev) has_library libzstd ;;
    nettle-dev) has_library nettle ;;
    qemu-user) has_command qemu-aarch64 ;;
    gcc-aarch64-linux-gnu) has_command aarch64-linux-gnu-gcc ;;
    clang-16) compgen -G '/usr/bin/clang++-1[6-9]' >/dev/null ;;
    libc6-dev-arm64-cross) [ -e /usr/aarch64-linux-gnu/include/stdio.h ] ;;
    esac
}

# The first of the clangs that this release has, for want of clang-16.
find_clang() {
    local version
    for version in "${emulator_clangs[@]}"; do
        apt-cache show "clang-$version" >/dev/null 2>&1 && echo "clang-$version" && return
    done
    echo 'No clang 16 to 19 in this release: without the Metal emulator and its tests.' >&2
}

install_debian() {
    local missing=() package as_root=()
    for package in "${debian_packages[@]}"; do
        case $(uname -m):$package in
        aarch64:qemu-user | aarch64:*-aarch64-* | aarch64:*-arm64-cross) continue ;; # native there
        esac
        has_package "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    printf 'Installing: %s\n' "${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo)
    fi
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || "${as_root[@]}" apt-get update -q
    for package in "${!missing[@]}"; do
        if [ "${missing[package]}" = clang-16 ]; then
            missing[package]=$(find_clang)
            [ -n "${missing[package]}" ] || unset "missing[package]"
        fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}" </dev/null
}

install_homebrew() {
    local missing=() formula
    for formula in "${homebrew_formulae[@]}"; do
        brew list --formula "$formula" >/dev/null 2>&1 || missing+=("$formula")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    printf 'Installing: %s\n' "${missing[*]}"
    brew install "${missing[@]}"
}

if has_command apt-get; then
    install_debian
elif has_command brew; then
    install_homebrew
else
    # The build says what it misses, if anything.
    echo 'Neither apt-get nor brew is here; nothing was installed.' >&2
    echo "Needed, by Debian's names: ${debian_packages[*]}" >&2
fi
