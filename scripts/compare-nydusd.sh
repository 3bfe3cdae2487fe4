#!/bin/bash
# Converts an image into every form of Nydus, lets the real nydusd mount each, and compares the files with what umoci unpacks from the
# same layers. Needs root, FUSE, nydusd, umoci, jq and attr.
#
#   scripts/compare-nydusd.sh LAZULI NYDUSD OCI-LAYOUT TAG
set -euo pipefail
export LC_ALL=C
[ $# = 4 ] || { sed -n '2,5p' "$0"; exit 2; }
[ "${COMPARE_INSIDE:-}" = 1 ] || exec env COMPARE_INSIDE=1 unshare --mount --propagation private timeout 900 "$0" "$@"
lazuli=$(realpath "$1")
nydusd=$(realpath "$2")
layout=$(realpath "$3")
tmp=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill "$daemon"; rm -rf "$tmp"' EXIT
# shellcheck source=scripts/list-files.sh
. "$(dirname "$0")/list-files.sh"

# place LAYOUT DIR: puts the blobs of a layout's only image, and the layers that they refer to, into DIR/blobs by their ids, and the
# bootstrap into DIR/image.
place() {
    local manifest blobs=$1/blobs/sha256
    manifest=$blobs/$(jq -r '.manifests[0].digest' "$1/index.json" | cut -d: -f2)
    mkdir -p "$2/blobs" "$2/cache" "$2/mnt"
    jq -r '.layers[:-1][] | .digest, .annotations["containerd.io/snapshot/nydus-ref"] // empty' "$manifest" | cut -d: -f2 |
        while read -r id; do ln -sf "$blobs/$id" "$2/blobs/$id"; done
    tar -xzf "$blobs/$(jq -r '.layers[-1].digest' "$manifest" | cut -d: -f2)" -C "$2"
}

# mounted DIR: starts nydusd and waits until it has mounted DIR/mnt.
mounted() {
    jq -n --arg d "$1" '{version: 2, id: "compare", backend: {type: "localfs", localfs: {dir: ($d + "/blobs")}},
        cache: {type: "blobcache", filecache: {work_dir: ($d + "/cache")}}, rafs: {mode: "direct", enable_xattr: true}}' >"$1/config.json"
    "$nydusd" --config "$1/config.json" --bootstrap "$1/image/image.boot" --mountpoint "$1/mnt" --log-level error \
        --rlimit-nofile 4096 >"$1/log" 2>&1 &
    daemon=$!
    for _ in $(seq 100); do
        mountpoint -q "$1/mnt" && return
        sleep 0.1
    done
    cat "$1/log"
    return 1
}

umoci unpack --keep-dirlinks --image "$layout:$4" "$tmp/umoci" >/dev/null
list "$tmp/umoci/rootfs" "$tmp/want"
while read -r name flags; do
    # shellcheck disable=SC2086 # flags are words
    "$lazuli" convert -q --record none $flags "oci:$layout:$4" "oci:$tmp/$name-image:x" >/dev/null
    place "$tmp/$name-image" "$tmp/$name"
    mounted "$tmp/$name"
    list "$tmp/$name/mnt" "$tmp/got"
    umount "$tmp/$name/mnt"
    wait "$daemon" || true # it ends with its mount
    daemon=
    diff -u "$tmp/want" "$tmp/got" | head -n 40
    echo "$name: $(grep -c . "$tmp/want") facts about the files equal umoci's, as nydusd shows them"
    rm -rf "${tmp:?}/$name-image"
done <<'END'
zstd
lz4 --compression lz4 --digest sha256
none --compression none
small-chunks --chunk-size 4KiB
batch --batch-size 256KiB
ref --format nydus-ref
ref-fine --format nydus-ref --option spacing=64KiB --chunk-size 64KiB
v5 --fs-version 5
END
