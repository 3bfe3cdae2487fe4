#!/bin/bash
# Converts an image, mounts the result by EROFS and by FUSE, and compares both, walked through the kernel by find, sha256sum and
# getfattr, with what umoci unpacks from the same layers. No code of ours is on umoci's side. Needs root, umoci and attr.
#
#   scripts/compare-umoci.sh LAZULI OCI-LAYOUT TAG
set -euo pipefail
export LC_ALL=C
[ $# = 3 ] || { sed -n '2,6p' "$0"; exit 2; }
[ "${COMPARE_INSIDE:-}" = 1 ] || exec env COMPARE_INSIDE=1 unshare --mount --propagation private timeout 600 "$0" "$@"
lazuli=$(realpath "$1")
layout=$(realpath "$2")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# shellcheck source=scripts/list-files.sh
. "$(dirname "$0")/list-files.sh"

umoci unpack --keep-dirlinks --image "$layout:$3" "$tmp/umoci" >/dev/null
list "$tmp/umoci/rootfs" "$tmp/want"
"$lazuli" convert -q --record none "oci:$layout:$3" "oci:$tmp/converted:x" >/dev/null
for mode in erofs fuse; do
    mkdir "$tmp/$mode"
    "$lazuli" mount --detach --mode $mode --cache "$tmp/cache-$mode" "oci:$tmp/converted:x" "$tmp/$mode"
    list "$tmp/$mode" "$tmp/got"
    "$lazuli" umount "$tmp/$mode"
    diff -u "$tmp/want" "$tmp/got" | head -n 40
    echo "$mode: $(grep -c . "$tmp/want") facts about the files of $2 equal umoci's"
done
