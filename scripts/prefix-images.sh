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
