#!/bin/sh
# What `make check-cuda` runs on a machine with an NVIDIA GPU: the conformance suite by every ISA
# of the GPU's, goldens and verify by the best one; a sample of the suite under compute-sanitizer,
# where it is. Status 77 where there is no GPU.
#
#   check_cuda.sh BUILD_FOLDER [--no-sanitizers]
set -u

build=${1:?usage: check_cuda.sh BUILD_FOLDER [--no-sanitizers]}
shift
sanitizers=yes
for argument in "$@"; do
    case $argument in
    --no-sanitizers) sanitizers=no ;;
    *) echo "check_cuda.sh: unknown $argument" >&2 && exit 2 ;;
    esac
done
root=$(cd "$(dirname "$0")/.." && pwd)
conformance="$build/tests/test_conformance --backend cuda"
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

$conformance --skip none >/dev/null 2>&1
if [ $? = 77 ]; then
    $conformance --skip none
    exit 77
fi
# shellcheck disable=SC2086
run conformance $conformance
run goldens "$build/tests/test_model_goldens" cuda 1100
run verify "$build/kvfold" verify -m "$root/models/tiny" --backend cuda --ctx 1k,8k
if [ $sanitizers = yes ] && command -v compute-sanitizer >/dev/null; then
    # Each of so many cases: all operations and types are among them.
    for tool in memcheck racecheck synccheck; do
        # shellcheck disable=SC2086
        run "conformance, $tool" compute-sanitizer --error-exitcode 9 --tool $tool \
            $conformance --every "${KVF_SANITIZED_CASES:-12}"
    done
fi
[ $failed = 0 ] && echo "== all good"
exit $failed
