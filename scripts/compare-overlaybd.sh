#!/bin/bash
# Lets overlaybd's own tools read the disk of an image that LAZULI made, and lay one more layer over it: of the native image and of both
# kinds of turbo-oci. e2fsck looks at the disks, and the files, mounted by the kernel, are compared with umoci's of the same layers.
# Called by compare-disks.sh. OVERLAYBD_BIN is the directory of the tools, which have their configuration in /etc/overlaybd.
# Needs what that script needs, and python3.
#
#   scripts/compare-overlaybd.sh LAZULI SOURCE-LAYOUT:TAG
set -euo pipefail
export LC_ALL=C
[ $# = 2 ] || { sed -n '2,8p' "$0"; exit 2; }
[ "${COMPARE_INSIDE:-}" = 1 ] || exec env COMPARE_INSIDE=1 unshare --mount --propagation private timeout 3600 "$0" "$@"
lazuli=$(realpath "$1")
layout=$(realpath "${2%:*}")
tag=${2##*:}
scripts=$(dirname "$(realpath "$0")")
tmp=$(mktemp -d)
trap 'umount -q "$tmp/mnt" || true; rm -rf "$tmp"' EXIT
mkdir -p "$tmp/mnt" "$tmp/cache" "$tmp/extra/made/by/others"
# shellcheck source=scripts/list-files.sh
. "$scripts/list-files.sh"
# shellcheck source=scripts/prefix-images.sh
. "$scripts/prefix-images.sh"
service=(--service_config_path "$tmp/service.json")
cat >"$tmp/service.json" <<END
{"registryFsVersion": "v2", "logPath": "", "logLevel": 1, "cacheConfig": {"cacheType": "file", "cacheDir": "$tmp/cache", "cacheSizeGB": 4},
 "gzipCacheConfig": {"enable": false}, "credentialConfig": {"mode": "file", "path": ""}, "ioEngine": 0, "download": {"enable": false}, "enableAudit": false}
END

# blob DIGEST: the path in the layout that is in hand.
blob() { echo "$1/blobs/sha256/${2#*:}"; }

# manifest_of LAYOUT TAG
manifest_of() {
    blob "$1" "$(jq -r --arg t "$2" '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $t).digest' "$1/index.json")"
}

# expand LSMT IMAGE: the disk that one layer is, by a reader of LSMT that has nothing of ours.
expand() {
    python3 - "$1" "$2" <<'END'
import struct, sys
f, out = open(sys.argv[1], 'rb'), open(sys.argv[2], 'wb')
f.seek(-4096, 2)
at, count, size = struct.unpack_from('<QQQ', f.read(4096), 32)
out.truncate(size)
f.seek(at)
index = f.read(count * 16)
for i in range(count):
    a, b = struct.unpack_from('<QQ', index, i * 16)
    offset, length, source, zero = a & (1 << 50) - 1, a >> 50, b & (1 << 55) - 1, b >> 55 & 1
    if offset != (1 << 50) - 1 and not zero:
        f.seek(source * 512)
        out.seek(offset * 512)
        out.write(f.read(length * 512))
END
}

# compare WHAT MOUNTED: with $tmp/want.
compare() {
    list "$2" "$tmp/listed"
    grep -v '\./lost+found\>' "$tmp/listed" >"$tmp/got"
    grep -q '^\.[[:space:]]d' "$tmp/want" || sed -i '/^\.[[:space:]]d/d' "$tmp/got"
    diff -u "$tmp/want" "$tmp/got" >"$tmp/diff" || { echo "$1:"; head -n 40 "$tmp/diff"; return 1; }
    echo "$1: $(grep -c . "$tmp/want") facts about the files equal umoci's"
}

# merged WHAT CONFIG: merges native layers by overlaybd-merge into one disk, and looks at that.
merged() {
    rm -f "$tmp"/merged.*
    "$OVERLAYBD_BIN/overlaybd-merge" "${service[@]}" "$2" "$tmp/merged.zfile" >"$tmp/log" 2>&1 || { tail "$tmp/log"; return 1; }
    "$OVERLAYBD_BIN/overlaybd-zfile" -x "$tmp/merged.zfile" "$tmp/merged.lsmt" >"$tmp/log" 2>&1 || { tail "$tmp/log"; return 1; }
    expand "$tmp/merged.lsmt" "$tmp/merged.disk"
    e2fsck -fn "$tmp/merged.disk" >"$tmp/log" 2>&1 || { cat "$tmp/log"; return 1; }
    mount -o ro,loop,noload "$tmp/merged.disk" "$tmp/mnt"
    compare "$1" "$tmp/mnt"
    umount "$tmp/mnt"
}

# mounted WHAT LAYOUT TAG: our own reader's disk.
mounted() {
    "$lazuli" mount --detach --mode disk --cache "" "oci:$2:$3" "$tmp/mnt"
    if [ "$(findmnt -no FSTYPE "$tmp/mnt")" = ext4 ]; then
        e2fsck -fn "$(findmnt -no SOURCE "$tmp/mnt")" >"$tmp/log" 2>&1 || { cat "$tmp/log"; return 1; }
    fi
    compare "$1" "$tmp/mnt"
    "$lazuli" umount "$tmp/mnt"
}

# add_layer LAYOUT FROM TO FILE MEDIA-TYPE DIFF-ID ANNOTATIONS: image TO is image FROM with one more layer.
add_layer() {
    local manifest d
    manifest=$(manifest_of "$1" "$2")
    d=$(add_blob "$1" "$4")
    jq -c --arg d "$6" 'del(.history) | .rootfs.diff_ids += [$d]' "$(blob "$1" "$(jq -r .config.digest "$manifest")")" >"$1/config"
    jq -c --arg d "$d" --arg m "$5" --argjson s "$(stat -c %s "$4")" --argjson a "$7" '.layers += [{mediaType: $m, digest: $d, size: $s, annotations: ($a +
        {"containerd.io/snapshot/overlaybd/blob-digest": $d, "containerd.io/snapshot/overlaybd/blob-size": ($s | tostring)})}]' "$manifest" >"$1/manifest"
    tagged "$1" "$3"
}

digest_of() { echo "sha256:$(sha256sum | cut -d' ' -f1)"; }

# run PROGRAM...: one of overlaybd's.
run() {
    "$OVERLAYBD_BIN/$1" "${@:2}" >"$tmp/log" 2>&1 || { echo "$*:"; tail "$tmp/log"; return 1; }
}

# The layer that is laid over: more new files than a directory's block holds, one that takes the place of another, a removed one.
dir=$tmp/extra/made/by/others
for i in $(seq 300); do echo "$i" >"$dir/a-file-with-a-rather-long-name-$i"; done
head -c 300000 /dev/urandom >"$dir/noise"
ln -s ../others "$dir/link"
ln "$dir/noise" "$dir/noise-too"
umoci unpack --keep-dirlinks --image "$layout:$tag" "$tmp/below" >/dev/null
(cd "$tmp/below/rootfs" && find . -type f -links 1 ! -name '*[^a-zA-Z0-9._-]*' -printf '%P\n' | sort) >"$tmp/files"
rm -rf "$tmp/below"
first=$(head -n 1 "$tmp/files")
last=$(tail -n 1 "$tmp/files")
members=(made "$first")
mkdir -p "$tmp/extra/$(dirname "$first")" "$tmp/extra/$(dirname "$last")"
echo "in its place" >"$tmp/extra/$first"
if [ "$first" != "$last" ]; then # turboOCI-apply refuses to remove what is not there
    members+=("$(dirname "$last")/.wh.$(basename "$last")")
    : >"$tmp/extra/${members[2]}"
fi
find "$tmp/extra" -exec touch -hd @1700000000 {} +
# Directories on the way have no entries, and so stay as they are.
tar -cf "$tmp/extra.tar" --format=ustar --owner=0 --group=0 --sort=name -C "$tmp/extra" "${members[@]}"
gzip -nk "$tmp/extra.tar"
cp -rl "$layout" "$tmp/source"
cp --remove-destination "$layout/index.json" "$tmp/source/index.json"
add_layer "$tmp/source" "$tag" extended "$tmp/extra.tar.gz" application/vnd.oci.image.layer.v1.tar+gzip "$(digest_of <"$tmp/extra.tar")" '{}'
for t in "$tag" extended; do
    umoci unpack --keep-dirlinks --image "$tmp/source:$t" "$tmp/umoci" >/dev/null
    list "$tmp/umoci/rootfs" "$tmp/want-$t"
    rm -rf "$tmp/umoci"
done

made=$tmp/made
"$lazuli" convert -q --record none -f overlaybd "oci:$layout:$tag" "oci:$made:native" >/dev/null
for kind in ext4 erofs; do
    "$lazuli" convert -q --record none -f turbo-oci --fs $kind "oci:$layout:$tag" "oci:$made:$kind" >/dev/null
done

# Native layers: read, and extended.
jq -c --arg b "$made/blobs/sha256/" '{repoBlobUrl: "", lowers: [.layers[] | {file: ($b + (.digest | ltrimstr("sha256:")))}], resultFile: ""}' \
    "$(manifest_of "$made" native)" >"$tmp/config.json"
cp "$tmp/want-$tag" "$tmp/want"
merged "overlaybd-merge reads our layers" "$tmp/config.json"
mkdir "$tmp/upper"
run overlaybd-create "$tmp/upper/data" "$tmp/upper/index" 0 -s
jq -c --arg d "$tmp/upper" '.upper = {data: ($d + "/data"), index: ($d + "/index")} | .resultFile = $d + "/result"' "$tmp/config.json" >"$tmp/apply.json"
run overlaybd-apply "${service[@]}" "$tmp/extra.tar" "$tmp/apply.json"
run overlaybd-commit "$tmp/upper/data" "$tmp/upper/index" "$tmp/upper/commit" -z -t
jq -c --arg f "$tmp/upper/commit" '.lowers += [{file: $f}]' "$tmp/config.json" >"$tmp/extended.json"
cp "$tmp/want-extended" "$tmp/want"
merged "overlaybd-apply lays a layer over ours, overlaybd-merge" "$tmp/extended.json"
add_layer "$made" native native-extended "$tmp/upper/commit" application/vnd.oci.image.layer.v1.tar "$(digest_of <"$tmp/upper/commit")" \
    '{"containerd.io/snapshot/overlaybd/version": "0.1.0"}'
mounted "overlaybd-apply lays a layer over ours, lazuli" "$made" native-extended

# Layers of turboOCI with either metadata.
for kind in ext4 erofs; do
    rm -rf "$tmp/turbo" "$tmp/upper"
    mkdir "$tmp/turbo" "$tmp/upper"
    manifest=$(manifest_of "$made" $kind)
    jq -r '.layers[] | .digest + " " + .annotations["containerd.io/snapshot/overlaybd/turbo-oci/target-digest"]' "$manifest" | while read -r d target; do
        mkdir "$tmp/turbo/${d#*:}"
        tar -xzf "$(blob "$made" "$d")" -C "$tmp/turbo/${d#*:}"
        jq -nc --arg d "$tmp/turbo/${d#*:}" --arg f "$(blob "$made" "$target")" --arg t "$target" --arg k $kind \
            '{file: ($d + "/" + $k + ".fs.meta"), gzipIndex: ($d + "/gzip.meta"), targetFile: $f, targetDigest: $t}'
    done | jq -sc --arg d "$tmp/upper" --arg t "$tmp/extra.tar.gz" '{repoBlobUrl: "", lowers: ., resultFile: ($d + "/result"),
        upper: {data: ($d + "/data"), index: ($d + "/index"), target: $t}}' >"$tmp/apply.json"
    run overlaybd-create "$tmp/upper/data" "$tmp/upper/index" 64 -s --turboOCI
    run turboOCI-apply "${service[@]}" "$tmp/extra.tar.gz" "$tmp/apply.json" --gz_index_path "$tmp/upper/gzip.meta" --fstype $kind
    run overlaybd-commit "$tmp/upper/data" "$tmp/upper/index" "$tmp/upper/$kind.fs.meta" -z --fastoci
    : >"$tmp/upper/.turbo.ociv1"
    tar -cf "$tmp/upper/layer.tar" -C "$tmp/upper" $kind.fs.meta .turbo.ociv1 gzip.meta
    gzip -nk "$tmp/upper/layer.tar"
    target=$(add_blob "$made" "$tmp/extra.tar.gz")
    add_layer "$made" $kind $kind-extended "$tmp/upper/layer.tar.gz" application/vnd.oci.image.layer.v1.tar+gzip "$(digest_of <"$tmp/upper/layer.tar")" \
        "$(jq -nc --arg t "$target" '{"containerd.io/snapshot/overlaybd/version": "0.1.0-turbo.ociv1", "containerd.io/snapshot/overlaybd/turbo-oci/target-digest": $t,
            "containerd.io/snapshot/overlaybd/turbo-oci/target-media-type": "application/vnd.oci.image.layer.v1.tar+gzip"}')"
    # It gives the root another mode where the layer has no entry of it.
    cp "$tmp/want-extended" "$tmp/want"
    [ $kind = ext4 ] || sed -i '/^\.[[:space:]]d/d' "$tmp/want"
    mounted "turboOCI-apply ($kind) lays a layer over ours, lazuli" "$made" $kind-extended
done
