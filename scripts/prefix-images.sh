# shellcheck shell=bash
# Sourced by the scripts that compare disks.

# prefixes LAYOUT TAG DIR: makes a layout of the images that have the layers 0..k of an image, for every k, with k as their tags, and
# prints how many there are.
prefixes() {
    local blobs=$1/blobs/sha256 manifest config n k
    mkdir -p "$3/blobs"
    cp -rl "$blobs" "$3/blobs/" 2>/dev/null || cp -r "$blobs" "$3/blobs/"
    cp "$1/oci-layout" "$3/"
    manifest=$(jq -r --arg t "$2" '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $t).digest' "$1/index.json")
    manifest=$blobs/${manifest#*:}
    config=$blobs/$(jq -r .config.digest "$manifest" | cut -d: -f2)
    n=$(jq '.layers | length' "$manifest")
    echo '{"schemaVersion": 2, "manifests": []}' >"$3/index.json"
    for k in $(seq 0 $((n - 1))); do
        jq -c --argjson k "$k" 'del(.history) | .rootfs.diff_ids |= .[:$k + 1]' "$config" >"$3/config"
        jq -c --argjson k "$k" '.layers |= .[:$k + 1]' "$manifest" >"$3/manifest"
        tagged "$3" "$k"
    done
    echo "$n"
}

# tagged LAYOUT TAG: makes LAYOUT/manifest with LAYOUT/config the image TAG of the layout.
tagged() {
    local d
    d=$(add_blob "$1" "$1/config")
    jq -c --arg d "$d" --argjson s "$(stat -c %s "$1/blobs/sha256/${d#*:}")" '.config.digest = $d | .config.size = $s' "$1/manifest" >"$1/manifest.new"
    d=$(add_blob "$1" "$1/manifest.new")
    jq --arg d "$d" --arg t "$2" --argjson s "$(stat -c %s "$1/blobs/sha256/${d#*:}")" '.manifests += [{mediaType: "application/vnd.oci.image.manifest.v1+json",
        digest: $d, size: $s, annotations: {"org.opencontainers.image.ref.name": $t}}]' "$1/index.json" >"$1/index.new"
    mv "$1/index.new" "$1/index.json"
    rm -f "$1/config" "$1/manifest" "$1/manifest.new"
}

# add_blob LAYOUT FILE: puts a copy of a file into a layout and prints its digest.
add_blob() {
    local d
    d=$(sha256sum "$2" | cut -d' ' -f1)
    cp "$2" "$1/blobs/sha256/$d.new" && mv "$1/blobs/sha256/$d.new" "$1/blobs/sha256/$d"
    echo "sha256:$d"
}

# odd_image LAYOUT: makes an image, tag odd, whose layers are rarer: after a few files come a layer of nothing, one that only removes, one
# that is the same again, one that empties a directory, and one of a single small file.
odd_image() {
    local d=$1/work k layer diff
    mkdir -p "$1/blobs/sha256" "$d/0/d/e" "$d/1" "$d/2/d" "$d/4/d" "$d/5/d"
    head -c 300000 /dev/urandom >"$d/0/d/noise"
    head -c 8192 /dev/zero >"$d/0/d/zeros"
    echo text >"$d/0/d/e/text"
    : >"$d/0/d/nothing"
    : >"$d/2/d/.wh.noise"
    cp -r "$d/0" "$d/3"
    : >"$d/4/d/.wh..wh..opq"
    echo small >"$d/5/d/small"
    find "$d" -exec touch -hd @1700000000 {} +
    echo '{"imageLayoutVersion": "1.0.0"}' >"$1/oci-layout"
    echo '{"schemaVersion": 2, "manifests": []}' >"$1/index.json"
    echo '{"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}' >"$1/config"
    echo '{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json"}, "layers": []}' >"$1/manifest"
    for k in 0 1 2 3 4 5; do
        find "$d/$k" -mindepth 1 -printf '%P\n' | sort |
            tar --no-recursion --owner=0 --group=0 --format=ustar -C "$d/$k" -b 2 -cf "$d/$k.tar" -T -
        gzip -nk "$d/$k.tar"
        diff=sha256:$(sha256sum "$d/$k.tar" | cut -d' ' -f1)
        layer=$(add_blob "$1" "$d/$k.tar.gz")
        jq --arg d "$diff" '.rootfs.diff_ids += [$d]' "$1/config" >"$1/new" && mv "$1/new" "$1/config"
        jq --arg d "$layer" --argjson s "$(stat -c %s "$d/$k.tar.gz")" \
            '.layers += [{mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: $d, size: $s}]' "$1/manifest" >"$1/new"
        mv "$1/new" "$1/manifest"
    done
    rm -r "$d"
    tagged "$1" odd
}
