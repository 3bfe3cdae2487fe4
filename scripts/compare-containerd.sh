#!/bin/bash
# Runs an unmodified containerd beside "lazuli differ": converts images in it, from and to it, pulls images of every format with
# containerd's own snapshotters, and compares what is unpacked, by find, sha256sum and getfattr, with what umoci unpacks of the source.
# Then garbage is collected, namespaces, archives by pipes and Docker's engine are tried, and a conversion is killed.
#
#   scripts/compare-containerd.sh [LAZULI]        build/lazuli if not given
#
# containerd and a registry are built by Go's module proxy into build/clients, once for each version. Everything runs in namespaces of
# its own, with all files in their memory: nothing is left behind. Needs root, runc, umoci, attr, jq and a Debian system, some of whose
# packages are one of the images. Docker is tried where "docker" and "dockerd" are in PATH, or the latter in build/clients/bin, from
# github.com/moby/moby/v2/cmd/dockerd. ONLY=TEXT tries what has that in its name.
set -euo pipefail
cd "$(dirname "$0")/.."
lazuli=$(realpath "${1:-build/lazuli}")
script_arguments=("$lazuli")
# shellcheck source=scripts/clients.bash
. scripts/clients.bash
# shellcheck source=scripts/list-files.sh
. scripts/list-files.sh

registry=localhost:5000
formats=(nydus nydus-ref overlaybd turbo-oci)

build_all() { programs registry olareg containerd; }

# lazy COMMAND...: ours, without a record of what was converted before unless that is given.
lazy() { limited "$lazuli" "$@" --progress none; }

# --- Images ---------------------------------------------------------------------------------------------------------------------

images() {
    local name format
    mkdir -p "$work"/changed/usr/share/perl5 "$work"/more/{made,usr/share}
    pack "$work/layer-0" base-files libc6 dash coreutils libselinux1 libpcre2-8-0 libacl1 libattr1 libgmp10
    pack "$work/layer-1" perl-base dpkg debconf
    touch "$work/changed/usr/share/.wh.dpkg" "$work/changed/usr/share/perl5/.wh..wh..opq"
    echo changed >"$work/changed/usr/share/file"
    tar -C "$work/changed" -cf "$work/layer-2" usr
    echo more >"$work/more/made/file"
    ln "$work/more/made/file" "$work/more/made/link"
    ln -s file "$work/more/made/symlink"
    setfattr -n user.key -v value "$work/more/made/file"
    tar -C "$work/more" --xattrs -cf "$work/layer-3" made
    layout_of "$work/debian" "$work"/layer-{0,1,2,3}
    layout_of "$work/short" "$work"/layer-{0,1} # the lower layers of debian
    cp -r internal/imagetest/testdata/edge/oci "$work/edge"
    for name in debian short edge; do
        umoci unpack --keep-dirlinks --image "$work/$name:$(jq -r '.manifests[0].annotations["org.opencontainers.image.ref.name"]' "$work/$name/index.json")" "$work/umoci-$name" >/dev/null
        list "$work/umoci-$name/rootfs" "$work/want-$name"
        lazy copy "oci:$work/$name" "$registry/$name:oci"
        for format in "${formats[@]}"; do
            lazy convert --record none -f "$format" "oci:$work/$name" "$registry/$name:$format"
        done
    done
}

# --- Conversions ----------------------------------------------------------------------------------------------------------------

# converts NAME: from anywhere to anywhere.
converts() {
    local name=$1 format way
    pull "$registry/$name:oci"
    for format in "${formats[@]}"; do
        lazy convert --record none -f "$format" "$registry/$name:oci" "containerd:$registry/$name:from-registry-$format"
        lazy convert --record none -f "$format" "containerd:$registry/$name:oci" "containerd:$registry/$name:inside-$format"
        lazy convert --record none -f "$format" "containerd:$registry/$name:oci" "oci:$work/out:$name-$format"
        for way in "containerd:$registry/$name:from-registry-$format" "containerd:$registry/$name:inside-$format" "oci:$work/out:$name-$format"; do
            equals "$way" "oci:$work/$name"
        done
        is "$(ctr image ls "name==$registry/$name:inside-$format" | awk 'NR > 1 {print $3}')" \
            "$(ctr image ls "name==$registry/$name:from-registry-$format" | awk 'NR > 1 {print $3}')"
    done
    is "$(ctr leases ls -q)" ""
}

# converts_once: the second time, no layer is read.
converts_once() {
    local run
    for run in false true; do
        lazy convert --json --record "sqlite:$work/record.db" containerd:$registry/debian:oci containerd:$registry/debian:once >"$work/result"
        is "$(jq -c '[.images[].layers[].reused] | unique' "$work/result")" "[$run]"
    done
}

# --- Pulling --------------------------------------------------------------------------------------------------------------------

# pull IMAGE [FLAG...]: for this machine.
pull() { limited ctr image pull --plain-http --platform "linux/$machine" "${@:2}" "$1" | tail -n 2; }

# unpacked NAME IMAGE SNAPSHOTTER LIST: compares a snapshot's files with a list.
unpacked() {
    local name=$1 image=$2 snapshotter=$3 dir=$work/mounted
    mkdir -p "$dir"
    limited ctr image mount --snapshotter "$snapshotter" --platform "linux/$machine" "$image" "$dir" >/dev/null
    list "$dir" "$work/got"
    limited ctr image unmount --rm --snapshotter "$snapshotter" "$dir" >/dev/null
    diff -u <(without_links "$3" "$work/$4") <(without_links "$3" "$work/got") | head -n 40
}

# without_links SNAPSHOTTER LIST: prints a list, for overlayfs without the numbers of links: a file keeps that of its layer when its other
# names vanish.
without_links() {
    if [ "$1" = overlayfs ]; then
        sed -E 's/^([^\t]*\t[^\t]\t[^\t]*\t[^\t]*\t)[0-9]+\t/\1\t/' "$2" | awk -F'\t' '$2 != "link of " $1'
    else
        cat "$2"
    fi
}

# as_alone TAG NAME SNAPSHOTTER: prints with what an image is compared: layers as they are in the source with what a containerd without
# ours makes of them, which is not what umoci makes of odd ones; others with what umoci unpacks.
as_alone() {
    local alone=alone-$2-$3
    if [ "$1" != oci ] && [ "$1" != nydus-ref ]; then
        echo "want-$2"
        return
    fi
    if [ ! -e "$work/$alone" ]; then
        export CONTAINERD_ADDRESS=$work/alone.sock
        pull "$registry/$2:oci" --snapshotter "$3"
        mkdir -p "$work/mounted"
        limited ctr image mount --snapshotter "$3" --platform "linux/$machine" "$registry/$2:oci" "$work/mounted"
        list "$work/mounted" "$work/$alone-list"
        limited ctr image unmount --rm --snapshotter "$3" "$work/mounted"
        mv "$work/$alone-list" "$work/$alone"
    fi >&2
    echo "$alone"
}

# pulls NAME TAG SNAPSHOTTER: with the unpacking of "ctr image pull", and, from the content alone, of "ctr image mount".
pulls() {
    local image=$registry/$1:$2
    export CONTAINERD_NAMESPACE=pulls
    pull "$image" --snapshotter "$3"
    unpacked "$1" "$image" "$3" "$(as_alone "$2" "$1" "$3")"
    ctr image rm --sync "$image"
    is "$(ctr snapshot --snapshotter "$3" ls | wc -l)" 1
    is "$(contents)" 0
}

# runs TAG: a container from a pulled image.
runs() {
    local image=$registry/debian:$1
    pull "$image"
    is "$(limited ctr run --rm --net-host --cgroup "/$(basename "$work")" "$image" "try-$1" /usr/bin/cat /made/link)" more
    ctr image rm --sync "$image"
}

contents() { ctr content ls -q | wc -l; }

# by_lower_layers TAG: an image that has the lower layers of another one finds their snapshots complete.
by_lower_layers() {
    local name
    for name in debian short; do
        pull "$registry/$name:$1"
    done
    for name in short debian; do
        unpacked $name "$registry/$name:$1" overlayfs want-$name
        ctr image rm --sync "$registry/$name:$1"
    done
}

# --- Keeping and losing ---------------------------------------------------------------------------------------------------------

# collect: collects garbage now.
collect() {
    ctr leases create --id collect >/dev/null
    ctr leases rm --sync collect
}

# collects: what is referred to stays, and nothing else.
collects() {
    local format
    lazy copy "oci:$work/debian" containerd:collect/$registry/debian:oci
    export CONTAINERD_NAMESPACE=collect
    for format in "${formats[@]}"; do
        lazy convert --record none -f "$format" containerd:$registry/debian:oci "containerd:$registry/debian:$format"
    done
    ctr image rm --sync $registry/debian:oci
    for format in "${formats[@]}"; do equals "containerd:$registry/debian:$format" "oci:$work/debian"; done
    for format in "${formats[@]}"; do ctr image rm --sync "$registry/debian:$format"; done
    is "$(contents)" 0
    lazy convert --record none --attach index "oci:$work/debian" containerd:$registry/debian:index
    lazy convert --record none --attach referrer "oci:$work/debian" containerd:$registry/debian:referrer
    collect
    equals containerd:$registry/debian:index "oci:$work/debian"
    lazy copy --referrers containerd:$registry/debian:referrer "oci:$work/referred:v1"
    is "$(jq '.manifests | length' "$work/referred/index.json")" 2
    ctr image rm --sync $registry/debian:index $registry/debian:referrer
    is "$(contents)" 0
}

namespaces() {
    lazy convert --record none "oci:$work/edge" containerd:one/$registry/edge:v1
    fails "there is a containerd:one/$registry/edge:v1" lazy inspect containerd:two/$registry/edge:v1
    lazy convert --record none --containerd-namespace two "oci:$work/edge" containerd:$registry/edge:v1
    is "$(ctr -n one image ls -q)" "$(ctr -n two image ls -q)"
    lazy copy containerd:one/$registry/edge:v1 containerd:three/$registry/edge:v1
    CONTAINERD_NAMESPACE=three equals containerd:$registry/edge:v1 "oci:$work/edge"
    fails 'no containerd answers there' lazy inspect --containerd-address "$work/none" containerd:$registry/edge:v1
}

# killed: what a killed conversion leaves is held by a lease that expires, and is garbage then.
killed() {
    local process expires turn
    export CONTAINERD_NAMESPACE=killed
    "$lazuli" convert -q --record none --jobs 1 "oci:$work/slow:v1" containerd:$registry/debian:killed &
    process=$!
    for turn in {1..200}; do
        [ "$(ctr content active 2>/dev/null | wc -l)" -lt 2 ] || break
        sleep 0.05
    done
    kill -KILL $process
    wait $process || true
    is "$(ctr leases ls -q | wc -l)" 1
    expires=$(ctr leases ls | grep -o 'containerd.io/gc.expire=[^, ]*' | cut -d= -f2)
    [ "$(date -d "$expires" +%s)" -gt "$(date +%s)" ]
    [ "$(date -d "$expires" +%s)" -le $(($(date +%s) + 86400)) ]
    is "$(ctr image ls -q)" ""
    ctr leases rm --sync "$(ctr leases ls -q)"
    is "$(contents)" 0
}

# interrupted: Ctrl-C leaves no ingest.
interrupted() {
    local process turn status=0
    export CONTAINERD_NAMESPACE=interrupted
    "$lazuli" convert -q --record none --jobs 1 "oci:$work/slow:v1" containerd:$registry/debian:interrupted &
    process=$!
    for turn in {1..200}; do
        [ "$(ctr content active 2>/dev/null | wc -l)" -lt 2 ] || break
        sleep 0.05
    done
    kill -TERM $process
    wait $process || status=$?
    is $status 130
    is "$(ctr content active | wc -l)" 1
    is "$(ctr image ls -q)" ""
}

# slow_image: one whose layer takes a while.
slow_image() {
    head -c 300000000 /dev/urandom >"$work/random"
    tar -C "$work" -cf "$work/layer-slow" random
    rm "$work/random"
    layout_of "$work/slow" "$work/layer-slow"
    rm "$work/layer-slow" "$work/layer-slow.gz"
}

# discarded: of an image whose layers were discarded after unpacking, the message says what to do.
discarded() {
    local digest
    export CONTAINERD_NAMESPACE=discarded
    lazy copy "oci:$work/edge" containerd:$registry/edge:v1
    digest=$(lazy inspect --json containerd:$registry/edge:v1 | jq -r '.blobs[0].digest')
    ctr content rm "$digest"
    fails 'ctr content fetch' lazy convert --record none containerd:$registry/edge:v1 containerd:$registry/edge:v2
    ctr content fetch --plain-http $registry/edge:oci
    lazy convert --record none containerd:$registry/edge:v1 containerd:$registry/edge:v2
}

# one_platform: of an index, what was pulled is converted. containerd fetches the manifests of other platforms, too, but no layers.
one_platform() {
    local other=arm64 name
    [ "$machine" != arm64 ] || other=amd64
    export CONTAINERD_NAMESPACE=platforms
    layout=$work/both
    mkdir -p "$layout/blobs/sha256"
    echo other >"$work/more/made/file"
    tar -C "$work/more" -cf "$work/layer-other" made
    machine=$other layout_of "$work/other" "$work/layer-other"
    for name in debian other; do cp "$work/$name"/blobs/sha256/* "$layout/blobs/sha256/"; done
    layout=$work/both
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s,%s]}' \
        "$(entry other $other)" "$(entry debian "$machine")" >"$work/index"
    printf '{"schemaVersion":2,"manifests":[%s]}' "$(blob index.v1+json "$work/index")" >"$layout/index.json"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
    lazy copy "oci:$layout" $registry/both:v1
    pull $registry/both:v1
    lazy convert --record none containerd:$registry/both:v1 containerd:$registry/both:nydus 2>"$work/said"
    grep -F "the image for linux/$other is left out" "$work/said"
    equals containerd:$registry/both:nydus "oci:$work/debian"
    fails "the content is not in the store" lazy convert --record none --platform "linux/$other" containerd:$registry/both:v1 containerd:$registry/both:other
}

# entry NAME ARCHITECTURE: of a layout's image, for an index.
entry() { jq -c ".manifests[0] | .platform = {os: \"linux\", architecture: \"$2\"} | del(.annotations)" "$work/$1/index.json"; }

# --- Archives -------------------------------------------------------------------------------------------------------------------

# archives: what containerd exports and imports goes through pipes.
archives() {
    local format
    export CONTAINERD_NAMESPACE=archives
    lazy copy "oci:$work/debian" containerd:$registry/debian:oci
    # Without --local, ctr ends before everything is written, now and then.
    ctr image export --local - $registry/debian:oci | lazy convert --record none oci-archive:- "oci:$work/piped:oci"
    equals "oci:$work/piped:oci" "oci:$work/debian"
    # The manifest.json in it is what "docker save" writes.
    ctr image export --local - $registry/debian:oci | lazy convert --record none docker-archive:- "oci:$work/piped:docker"
    equals "oci:$work/piped:docker" "oci:$work/debian"
    for format in nydus overlaybd; do
        lazy convert --record none -f $format "oci:$work/debian" oci-archive:- | limited ctr image import --local --base-name "$registry/imported-$format" --digests --no-unpack -
        equals "containerd:$(ctr image ls -q | grep "imported-$format@")" "oci:$work/debian"
    done
}

# --- Docker ---------------------------------------------------------------------------------------------------------------------

# start_docker: Docker's engine on our containerd, without a network for its containers.
start_docker() {
    export DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/home
    cat >"$work/docker.json" <<EOM
{
  "data-root": "$work/docker", "exec-root": "$work/docker-run", "pidfile": "$work/docker.pid", "hosts": ["$DOCKER_HOST"],
  "containerd": "$work/containerd.sock", "storage-driver": "overlayfs", "features": {"containerd-snapshotter": true},
  "cgroup-parent": "/$(basename "$work")", "exec-opts": ["native.cgroupdriver=cgroupfs"],
  "bridge": "none", "iptables": false, "ip6tables": false, "userland-proxy": false
}
EOM
    start dockerd --config-file "$work/docker.json"
    await docker version
}

# docker_saves: "docker save" through a pipe, of an image that was loaded from one.
docker_saves() {
    local format
    lazy copy "oci:$work/debian:v1" oci-archive:-:docker.io/library/debian:latest | limited docker load
    for format in nydus overlaybd; do
        docker save debian | lazy convert --record none -f $format docker-archive:- "oci:$work/saved:docker-$format"
        docker save debian | lazy convert --record none -f $format oci-archive:- "oci:$work/saved:oci-$format"
        equals "oci:$work/saved:docker-$format" "oci:$work/debian"
        equals "oci:$work/saved:oci-$format" "oci:$work/debian"
    done
}

# docker_pulls TAG: the engine unpacks images by its containerd, and makes containers from them, which a runc of before 1.2 cannot run.
docker_pulls() {
    local image=$registry/debian:$1 container
    limited docker pull --quiet "$image"
    container=$(limited docker create "$image" true)
    is "$(limited docker cp "$container:/made/link" - | tar -xO)" more
    CONTAINERD_NAMESPACE=moby unpacked debian "$image" overlayfs want-debian
    docker rm "$container"
    if runc features | jq -e '.linux.namespaces | index("time")' >/dev/null; then
        is "$(limited docker run --rm --network none --security-opt seccomp=unconfined "$image" /usr/bin/cat /made/link)" more
    fi
    docker image rm "$image"
}

# --- Main -----------------------------------------------------------------------------------------------------------------------

# configure NAME: prints the configuration of a containerd, which has ours only if that is its name.
configure() {
    local platform snapshotter
    platform=linux/$machine
    cat <<EOM
version = 3
root = "$work/$1"
state = "$work/$1-run"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]

[grpc]
  address = "$work/$1.sock"

[ttrpc]
  address = "$work/$1.ttrpc"
EOM
    [ "$1" = containerd ] || return 0
    cat <<EOM

[proxy_plugins.lazuli]
  type = "diff"
  address = "$work/differ.sock"

[plugins."io.containerd.service.v1.diff-service"]
  default = ["lazuli", "walking"]

[plugins."io.containerd.transfer.v1.local"]
EOM
    for snapshotter in overlayfs native; do
        printf '  [[plugins."io.containerd.transfer.v1.local".unpack_config]]\n    platform = "%s"\n    snapshotter = "%s"\n    differ = "lazuli"\n' \
            "$platform" $snapshotter
    done
}

run_all() {
    local format snapshotter name
    export CONTAINERD_ADDRESS=$work/containerd.sock
    loopback
    start_olareg 5000
    for name in alone containerd; do
        configure $name >"$work/$name.toml"
        start containerd --config "$work/$name.toml"
        await ctr --address "$work/$name.sock" version
    done
    start "$lazuli" differ --address "$work/differ.sock" --registry $registry
    await test -S "$work/differ.sock"
    images >"$work/images.log"

    for name in debian edge; do try "convert $name from, to and in containerd" converts $name; done
    try 'layers are converted once' converts_once
    for format in oci "${formats[@]}"; do
        for snapshotter in overlayfs native; do
            for name in debian edge; do try "pull $name:$format with $snapshotter" pulls $name "$format" $snapshotter; done
        done
        try "run debian:$format" runs "$format"
        [ "$format" = oci ] || try "images with common layers of $format" by_lower_layers "$format"
    done
    try 'garbage collection' collects
    try 'namespaces' namespaces
    try 'one platform of an index' one_platform
    try 'discarded layers' discarded
    try 'archives by pipes' archives
    if type dockerd docker >/dev/null 2>&1; then
        start_docker
        try 'docker save' docker_saves
        for format in oci "${formats[@]}"; do try "docker pull debian:$format" docker_pulls "$format"; done
    else
        echo "not run    docker: there is no dockerd, or no docker"
    fi
    slow_image
    try 'a killed conversion' killed
    try 'an interrupted conversion' interrupted
}

in_namespaces 1800
