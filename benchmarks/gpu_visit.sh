#!/bin/sh
# The GPU benchmark on a machine that is lent by the minute, without make, network or installation:
#
#     sh benchmarks/gpu_visit.sh [MINUTES [SECTION ...]]    # 8.5 minutes and all sections by default
#
# It uses the wheels in build/wheels, if there are any, and continues the results in build/gpu-visit
# or, without them, in benchmarks/results/gpu. If OUT names a folder, the results are packed into
# $OUT/gpu.tar.gz every 15 seconds, so that a call that is stopped loses little.
# Environment: PYTHON (python3), DEVICE (cuda).
set -u
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-python3}
minutes=${1:-8.5}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] && set -- --section "$@"
folder=build/gpu-visit

if [ ! -d "$folder" ]; then
    mkdir -p "$folder"
    cp benchmarks/results/gpu/*.csv "$folder" 2>/dev/null
fi
path=$PWD/shared/dyt/src:$PWD/shared/matched/src
for package in packages/*/src; do path=$path:$PWD/$package; done
if ls build/wheels/*.whl >/dev/null 2>&1; then
    site=$(mktemp -d)
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
        --target "$site" build/wheels/*.whl || echo "the wheels cannot be used; going on without them"
    path=$path:$site
fi

pack() {
    [ -n "${OUT:-}" ] || return 0
    tar czf "$OUT/gpu.$1" -C "$folder" . && mv "$OUT/gpu.$1" "$OUT/gpu.tar.gz"
}
(while sleep 15; do pack part; done) >/dev/null 2>&1 &
packer=$!
status=$(mktemp)
trap 'kill $packer 2>/dev/null; rm -f "$status"' EXIT
{
    PYTHONUNBUFFERED=1 PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH} "$python" benchmarks/gpu.py \
        --device "${DEVICE:-cuda}" --minutes "$minutes" --out "$folder" "$@" 2>&1
    echo $? >"$status"
} | tee -a "$folder/log.txt"
kill $packer
pack last
[ -z "${OUT:-}" ] || rm -f "$OUT/gpu.part"
exit "$(cat "$status")"
