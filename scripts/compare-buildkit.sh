#!/bin/bash
# Builds images by lazuli-buildkitd with an unmodified buildctl, pushes them to real registries, and compares them with what BuildKit
# itself exports of the same builds, by "lazuli check --source".
#
#   scripts/compare-buildkit.sh [LAZULI [LAZULI-BUILDKITD]]        build/lazuli and build/lazuli-buildkitd if not given
#
# buildctl, the registries and containerd are built by Go's module proxy into build/clients, once for each version. Needs root, FUSE, runc,
# curl, jq and a Debian system, some of whose packages are the base images. MEASURE=1 measures exports instead.
set -euo pipefail
cd "$(dirname "$0")/.."
lazuli=$(realpath "${1:-build/lazuli}")
buildkitd=$(realpath "${2:-build/lazuli-buildkitd}")
script_arguments=("$lazuli" "$buildkitd")
# shellcheck source=scripts/clients.bash
. scripts/clients.bash

registry=localhost:5000 # lists referrers
plain=localhost:5001    # does not
private=localhost:5002  # for those who have the password
nydus="linux(+nydus.remoteimage.v1)/$machine" # the platform of those who take nydus

build_all() { programs registry buildkit containerd distribution olareg; }

# blob_of IMAGE DIGEST
blob_of() {
    local name=${1#*/}
    limited curl -sSfL "http://${1%%/*}/v2/${name%:*}/blobs/$2"
}

# --- Builds ---------------------------------------------------------------------------------------------------------------------

# builds NAME KEYS [FLAG...]: exports a context, and compares it with its OCI export.
builds() {
    local name=$1 keys=$2 image
    shift 2
    image=${keys#*name=}
    image=${image%%,*}
    bctl "$name" --output "$keys" "$@"
    bctl "$name" --output "type=oci,dest=$work/$name.tar" "$@"
    equals "$image" "oci-archive:$work/$name.tar"
}

# is_app IMAGE: compares an image of the context app, as it is built now.
is_app() {
    bctl app --output "type=oci,dest=$work/app.tar" 2>/dev/null
    equals "$1" "oci-archive:$work/app.tar"
}

layer_types() { manifest "$1" "${2:-}" | jq -r '[.layers[] | if .annotations["containerd.io/snapshot/nydus-blob"] then "blob" elif .annotations["containerd.io/snapshot/nydus-bootstrap"] then "bootstrap" else .mediaType end] | join(" ")'; }

hello() {
    printf 'FROM %s/base\nRUN echo hello >/hello && mkdir /made && cp -r /etc /made/\n' "$registry" >/tmp/hello/Dockerfile
    # The line of the first nydus exporter's documentation.
    buildctl build --frontend=dockerfile.v0 --local context=/tmp/hello --local dockerfile=/tmp/hello \
      --output type=nydus,name=localhost:5000/hello
    is "$(layer_types localhost:5000/hello)" "blob blob bootstrap"
    buildctl build --frontend=dockerfile.v0 --local context=/tmp/hello --local dockerfile=/tmp/hello \
      --output type=oci,dest=- >"$work/hello.tar"
    equals localhost:5000/hello "oci-archive:$work/hello.tar"
}

hello_mounts() {
    mkdir -p "$work/mnt"
    limited "$lazuli" mount --detach --cache "$work/mnt-cache" localhost:5000/hello "$work/mnt"
    is "$(cat "$work/mnt/hello")" hello
    cmp "$work/mnt/usr/bin/dash" /usr/bin/dash
    "$lazuli" umount "$work/mnt"
}

keys_right() {
    local keys
    bctl app --output "type=nydus,name=$registry/dict"
    for keys in registry.insecure= registry.insecure=true registry.insecure=false oci-mediatypes=true oci-mediatypes= oci-mediatypes=false \
        compression=zstd compression=lz4 compression=none,level= compression=zstd,level=9 chunk-size=256KiB batch-size=128KiB fs-version=5 fs-version=6 \
        digest=sha256 digest=blake3 '"prefetch=/usr/bin,/etc"' merge-manifest=false attach=tag push=true push= source-date-epoch=0 \
        source-date-epoch=0,rewrite-timestamp=true annotation.org.example=x "chunk-dict=$registry/dict" force-compression=true; do
        echo "== $keys ($SECONDS)"
        bctl app --output "type=nydus,name=$registry/keys,$keys" || return 1
        if [[ $keys = *rewrite-timestamp* ]]; then
            bctl app --output "type=oci,dest=$work/rewritten.tar,$keys"
            equals "$registry/keys" "oci-archive:$work/rewritten.tar"
            continue
        fi
        is_app "$registry/keys"
    done
    manifest "$registry/keys" >/dev/null
    bctl app --output "type=nydus,name=$registry/keys:annotated,annotation.org.example=x"
    is "$(manifest "$registry/keys:annotated" | jq -r '.annotations["org.example"]')" x
    bctl app --output "type=nydus,\"name=$registry/keys:one,$registry/keys:two\""
    is "$(manifest "$registry/keys:one")" "$(manifest "$registry/keys:two")"
    bctl app --output "type=nydus,name=$registry/keys:absent,push=false" --metadata-file "$work/metadata"
    fails 404 manifest "$registry/keys:absent"
    is "$(jq -r '."containerimage.digest"' "$work/metadata")" "$(digest_of "$registry/keys:one")"
    is "$(jq -r '."image.name"' "$work/metadata")" "$registry/keys:absent"
    bctl app --output type=nydus,push=false
    bctl app --output "type=nydus,name=$registry/bydigest,push-by-digest=true"
    fails 404 manifest "$registry/bydigest"
    manifest "$registry/bydigest" "$(jq -r '."containerimage.digest"' "$work/metadata")" >/dev/null
}

keys_wrong() {
    local keys
    while IFS='|' read -r keys text; do
        echo "== $keys ($SECONDS)"
        fails "$text" bctl app --output "type=nydus,name=$registry/wrong,$keys"
    done <<'END'
registry.insecure=maybe|non-bool value specified for registry.insecure
oci-mediatypes=maybe|non-bool value specified for oci-mediatypes
merge-manifest=maybe|non-bool value specified for merge-manifest
push=maybe|non-bool value specified for push
attach=else|tag, index and referrer are possible
compression=brotli|compression
chunk-size=1MB|chunk-size
chunk-size=5000|chunk
batch-size=x|batch-size
fs-version=7|version
level=high|level
digest=md5|digest
fs=ext4|unknown key "fs"
colour=blue|unknown key "colour"
merge-manifest=true,attach=index|merge-manifest
chunk-dict=localhost:5000/absent|chunk-dict
name=UPPER|name=
push=true,name=|name is needed
END
    fails 'could not be found' bctl app --output "type=zydus,name=$registry/wrong"
    fails 'name is needed' bctl app --output type=nydus
    fails 404 manifest "$registry/wrong"
}

two_platforms() {
    context multi "FROM scratch AS files
COPY files /files
FROM files
ARG TARGETARCH
COPY files/sub/file /of-\$TARGETARCH"
    bctl multi --opt platform=linux/amd64,linux/arm64 --output "type=nydus,name=$registry/multi"
    is "$(manifest "$registry/multi" | jq -r '[.manifests[].platform.architecture] | join(" ")')" "amd64 arm64"
    bctl multi --opt platform=linux/amd64,linux/arm64 --output "type=oci,dest=$work/multi.tar"
    equals "$registry/multi" "oci-archive:$work/multi.tar" --platform linux/amd64
    equals "$registry/multi" "oci-archive:$work/multi.tar" --platform linux/arm64
}

# attested TAG KEYS: every attestation in the index is about an image that is there, in all that it says.
attested() {
    local image=$registry/attested:$1 att digest layer
    bctl app --opt attest:provenance=mode=max --opt "attest:sbom=generator=$registry/scanner" --output "type=nydus,name=$image$2"
    manifest "$image" >"$work/index"
    jq -r '.manifests[] | select(.annotations["vnd.docker.reference.type"] == "attestation-manifest") | .digest + " " + .annotations["vnd.docker.reference.digest"]' \
        <"$work/index" >"$work/attestations"
    [ -s "$work/attestations" ]
    while read -r att digest; do
        manifest "$image" "$digest" >/dev/null
        manifest "$image" "$att" >"$work/attestation"
        if [ "$(jq -r '.subject.digest // empty' <"$work/attestation")" ]; then is "$(jq -r .subject.digest <"$work/attestation")" "$digest"; fi
        for layer in $(jq -r '.layers[].digest' <"$work/attestation"); do
            blob_of "$image" "$layer" >"$work/statement"
            is "sha256:$(sha256sum <"$work/statement" | cut -d' ' -f1)" "$layer"
            is "$(jq -r '[.subject[].digest.sha256] | unique | join(" ")' <"$work/statement")" "${digest#sha256:}"
            jq -r .predicateType <"$work/statement"
        done
    done <"$work/attestations"
    is_app "$image"
}

provenance() {
    context scanner "FROM $registry/base
COPY --chmod=755 <<'END' /scan
#!/bin/dash
echo '{\"_type\":\"https://in-toto.io/Statement/v0.1\",\"predicateType\":\"https://spdx.dev/Document\",\"predicate\":{\"name\":\"scanned\"}}' >\$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json
END
ENTRYPOINT [\"/usr/bin/dash\", \"/scan\"]"
    bctl scanner --output "type=image,name=$registry/scanner,push=true"
    attested plain '' | tee "$work/predicates"
    grep -q slsa.dev/provenance "$work/predicates"
    grep -q spdx.dev "$work/predicates"
    attested images ,oci-artifact=false # attestations as images
    attested build ,merge-manifest=build
}

cached() {
    local kind to from
    for kind in registry local; do
        if [ $kind = registry ]; then
            to="type=registry,ref=$registry/cache,mode=max" from="type=registry,ref=$registry/cache"
        else
            to="type=local,dest=$work/cache,mode=max" from="type=local,src=$work/cache"
        fi
        bctl app --output "type=nydus,name=$registry/cached:$kind" --export-cache "$to"
        limited buildctl prune --all >/dev/null
        bctl app --output "type=nydus,name=$registry/cached:imported" --import-cache "$from" 2>&1 | tee "$work/progress"
        grep -q CACHED "$work/progress"
        is_app "$registry/cached:imported"
    done
    limited buildctl prune --all >/dev/null
    bctl app --output "type=nydus,name=$registry/cached:inline" --export-cache type=inline
    is_app "$registry/cached:inline"
}

two_outputs() {
    limited buildctl prune --all >/dev/null
    bctl app --output "type=nydus,name=$registry/both:nydus" --output "type=image,name=$registry/both:oci,push=true"
    equals "$registry/both:nydus" "$registry/both:oci"
    is "$(manifest "$registry/both:oci" | jq -r '[.layers[].mediaType] | unique | join(" ")')" application/vnd.oci.image.layer.v1.tar+gzip
    bctl app --output "type=nydus,name=$registry/both:one" --output "type=overlaybd,name=$registry/both:two"
    equals "$registry/both:one" "$registry/both:oci"
    equals "$registry/both:two" "$registry/both:oci"
    # Both formats, and the plain image, under one name.
    bctl app --output "type=nydus,name=$registry/both:index,attach=index" --output "type=overlaybd,name=$registry/both:index,attach=index"
    is "$(manifest "$registry/both:index" | jq '.manifests | length')" 3
    is "$(manifest "$registry/both:index" | jq -r '.manifests[0].digest')" "$(digest_of "$registry/both:oci")"
}

merged() {
    local image oci
    for image in "$registry/merged" "$plain/merged"; do
        bctl app --output "type=image,name=$image,push=true"
        oci=$(digest_of "$image")
        for _ in 1 2 3; do
            bctl app --output "type=nydus,name=$image,merge-manifest=true"
            is "$(manifest "$image" | jq -r '[.manifests[] | .platform.os + "/" + .platform.architecture + ((.platform["os.features"] // []) | join("+"))] | join(" ")')" \
                "linux/$machine linux/${machine}nydus.remoteimage.v1"
            is "$(manifest "$image" | jq -r '.manifests[0].digest')" "$oci"
        done
        manifest "$image" | jq -r '.manifests[1]'
        # On its own, where nothing is there; and beside the plain image of the same build.
        bctl app --output "type=nydus,name=$image:alone,merge-manifest="
        is "$(manifest "$image:alone" | jq '.manifests | length')" 1
        bctl app --output "type=nydus,name=$image:build,merge-manifest=build"
        is "$(manifest "$image:build" | jq -r '.manifests[0].digest')" "$oci"
        equals "$image:build" "$image@$oci"
    done
}

referred() {
    local image subject
    for image in "$registry/referred" "$plain/referred"; do
        bctl app --output "type=nydus,name=$image,attach=referrer"
        bctl app --output "type=overlaybd,name=$image,attach=referrer"
        is "$(manifest "$image" | jq -r '.layers[-1].mediaType')" application/vnd.oci.image.layer.v1.tar+gzip
        subject=$(digest_of "$image")
        if [ "$image" = "$registry/referred" ]; then
            limited curl -sSf "http://$registry/v2/referred/referrers/$subject" >"$work/referrers"
            fails 404 manifest "$image" "${subject/:/-}"
        else
            manifest "$image" "${subject/:/-}" >"$work/referrers"
        fi
        is "$(jq '.manifests | length' <"$work/referrers")" 2
        is "$(manifest "$image" "$(jq -r '.manifests[0].digest' <"$work/referrers")" | jq -r .subject.digest)" "$subject"
    done
}

every_format() {
    local keys
    for keys in nydus nydus-ref overlaybd turbo-oci nydus-ref,chunk-size=2MiB overlaybd,compression=zstd,vsize=8 turbo-oci,fs=erofs overlaybd,base-layer=true; do
        echo "== $keys ($SECONDS)"
        bctl app --output "type=${keys%%,*},name=$registry/format:${keys%%,*}${keys#"${keys%%,*}"}" || return 1
        is_app "$registry/format:${keys%%,*}"
    done
}

credentials() {
    export DOCKER_CONFIG=$work/home/docker
    mkdir -p "$DOCKER_CONFIG"
    printf '{"auths":{"%s":{"auth":"%s"}}}' "$private" "$(printf 'user:secret' | base64)" >"$DOCKER_CONFIG/config.json"
    bctl app --output "type=nydus,name=$private/app"
    bctl app --output "type=nydus,name=$private/app,merge-manifest=true"
    bctl app --output "type=nydus,name=$private/dict,chunk-dict=$private/app"
    bctl app --output "type=nydus,name=$private/referred,attach=referrer"
    is_app "$private/dict"
    unset DOCKER_CONFIG
    fails 401 bctl app --output "type=nydus,name=$private/nobody"
}

# converted FILE: how many layers were converted, and how many taken as they were before.
converted() { printf '%d %d' "$(grep -c 'converting layer.*done' "$1" || true)" "$(grep -c 'reusing layer.*done' "$1" || true)"; }

converts_once() {
    limited buildctl prune --all >/dev/null
    context once "FROM $registry/debian
COPY files/large /large
COPY files/sub /sub
RUN echo made >/made"
    bctl once --output "type=nydus,name=$registry/once" 2>&1 | tee "$work/progress"
    is "$(converted "$work/progress")" '6 0'
    limited buildctl prune --keep-duration 1h >/dev/null # collects garbage
    limited curl -sSf -o /dev/null http://127.0.0.1:6060/debug/gc
    bctl once --output "type=nydus,name=$registry/once" 2>&1 | tee "$work/progress"
    is "$(converted "$work/progress")" '0 6'
    context once "FROM $registry/debian
COPY files/large /large
COPY files/sub /sub
RUN echo changed >/made"
    bctl once --output "type=nydus,name=$registry/once" 2>&1 | tee "$work/progress"
    is "$(converted "$work/progress")" '1 5'
    # Other options are other layers.
    bctl once --output "type=nydus,name=$registry/once,compression=lz4" 2>&1 | tee "$work/progress"
    is "$(converted "$work/progress")" '6 0'
}

# from_formats: images of all formats are what builds begin with, as the plain image is.
from_formats() {
    local format referrer
    bctl app --output "type=image,name=$registry/from:plain,push=true"
    for format in nydus nydus-ref overlaybd turbo-oci; do bctl app --output "type=$format,name=$registry/from:$format"; done
    bctl app --output "type=nydus,name=$registry/from:merged,merge-manifest=build"
    bctl app --output "type=nydus,name=$registry/referrer:plain,attach=referrer"
    referrer=$(limited curl -sSf "http://$registry/v2/referrer/referrers/$(digest_of "$registry/referrer:plain")" | jq -r '.manifests[0].digest')
    for format in plain nydus nydus-ref overlaybd turbo-oci merged referrer; do
        echo "== $format"
        base=$registry/from:$format
        if [ $format = referrer ]; then base=$registry/referrer@$referrer; fi
        limited buildctl prune --all >/dev/null
        context "from-$format" "FROM scratch
COPY --from=$base / /"
        bctl "from-$format" --output "type=oci,dest=$work/from-$format.tar"
        [ $format = plain ] || equals "oci-archive:$work/from-$format.tar" "oci-archive:$work/from-plain.tar"
        context "on-$format" "FROM $base
RUN cat /made /files/link && test ! -e /files/large && echo again >/again"
        bctl "on-$format" --output "type=image,name=$registry/on:$format,push=true" --output "type=nydus,name=$registry/on:$format-nydus" \
            --opt attest:provenance=mode=min
        equals "$registry/on:$format-nydus" "$registry/on:$format"
    done
    # Those whose plain image is in the repository are read as that.
    for format in nydus-ref merged referrer; do
        is "$(layers_below "$format")" "$(layers_below plain)"
    done
    is "$(manifest "$registry/on:nydus" "$(manifest "$registry/on:nydus" | jq -r '.manifests[0].digest')" | jq -r '[.layers[].mediaType] | unique | join(" ")')" \
        application/vnd.oci.image.layer.v1.tar+gzip
}

# layers_below FORMAT: the layers that an image has of the image that it was built on.
layers_below() {
    manifest "$registry/on:$1" "$(manifest "$registry/on:$1" | jq -r '.manifests[0].digest')" | jq -r '[.layers[:-1][].digest] | join(" ")'
}

# start_containerd: with what unpacks our formats for its own snapshotter.
start_containerd() {
    cat >"$work/containerd.toml" <<EOM
version = 3
root = "$work/containerd/root"
state = "$work/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = "$work/containerd.sock"
[proxy_plugins.lazuli]
  type = "diff"
  address = "$work/differ.sock"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/$machine"
  snapshotter = "overlayfs"
  differ = "walking"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "$nydus"
  snapshotter = "overlayfs"
  differ = "lazuli"
EOM
    export CONTAINERD_ADDRESS=$work/containerd.sock
    start containerd --config "$work/containerd.toml"
    await ctr version
    start "$lazuli" differ --plain-http --address "$work/differ.sock" --containerd-address "$work/containerd.sock"
    await test -S "$work/differ.sock"
    start "$buildkitd" --config "$work/buildkitd.toml" --addr tcp://127.0.0.1:1234 --root "$work/buildkit-containerd" --oci-worker=false \
        --containerd-worker=true --containerd-worker-addr "$work/containerd.sock" --containerd-worker-net host --otel-socket-path "$work/otel-containerd.sock"
}

# in_containerd: a containerd that says nothing takes the plain image of a merged index, one that asks for nydus takes that.
in_containerd() {
    local image=$registry/in-containerd
    bctl app --output "type=image,name=$image,push=true"
    bctl app --output "type=nydus,name=$image,merge-manifest=true"

    limited ctr image pull --plain-http "$image:latest"
    limited ctr content ls -q >"$work/content"
    is "$(has_content "$image" 0) $(has_content "$image" 1)" 'yes no'
    is "$(limited ctr run --rm "$image:latest" plain /usr/bin/cat /made)" made
    ctr image rm --sync "$image:latest" >/dev/null

    limited ctr image pull --plain-http --platform "$nydus" "$image:latest"
    limited ctr content ls -q >"$work/content"
    is "$(has_content "$image" 1)" yes # a platform with features takes images without, too, which come behind
    is "$(limited ctr run --rm --platform "$nydus" "$image:latest" nydus /usr/bin/cat /made)" made
}

# containerd_worker: another daemon, whose steps are run and whose content is kept by containerd, reached by TCP.
containerd_worker() {
    local BUILDKIT_HOST=tcp://127.0.0.1:1234
    export BUILDKIT_HOST
    await buildctl debug workers
    context ctd "FROM $registry/debian
COPY files /files
RUN echo made >/made"
    builds ctd "type=nydus,name=$registry/ctd"
    bctl ctd --output "type=nydus,name=$registry/ctd" 2>&1 | tee "$work/progress"
    is "$(converted "$work/progress")" '0 5'
    context ctd-from "FROM $registry/ctd
RUN cat /made"
    builds ctd-from "type=overlaybd,name=$registry/ctd:overlaybd"
}

# has_content IMAGE N: whether containerd has the lowest layer of the Nth image of an index. It reads all configurations.
has_content() {
    local layer
    layer=$(manifest "$1" "$(manifest "$1" | jq -r ".manifests[$2].digest")" | jq -r '.layers[0].digest')
    if grep -q "$layer" "$work/content"; then echo yes; else echo no; fi
}

# --- Measuring ------------------------------------------------------------------------------------------------------------------

# stack: a context in the manner of images of languages: a base, packages, an application.
stack() {
    local dir=$work/context-stack package list=()
    for package in nodejs gcc-12 g++-12 cpp-12 libc6-dev libstdc++-12-dev libgcc-12-dev git python3.11-minimal libpython3.11-stdlib; do
        ! dpkg-query -s "$package" >/dev/null 2>&1 || list+=("$package")
    done
    mkdir -p "$dir/packages" "$dir/app"
    pack "$work/packages.tar" "${list[@]}"
    tar -C "$dir/packages" --no-same-owner -xf "$work/packages.tar"
    rm "$work/packages.tar"
    cp -r formats store docs "$dir/app/"
    cat >"$dir/Dockerfile" <<EOM
FROM $registry/debian
RUN --mount=type=bind,source=packages,target=/packages cp -a /packages/. /
COPY app /app
RUN echo '{}' >/app/config.json
EOM
    du -sh "$dir/packages" "$dir/app" | sed "s#$dir/##"
}

# exporting KEYS: prints the seconds of an export with its push, after a build that exports nothing, so that nothing was compressed or
# converted before.
exporting() {
    local began
    limited buildctl prune --all >/dev/null
    bctl stack >/dev/null 2>&1
    began=$(date +%s.%N)
    bctl stack --output "$1" >"$work/progress" 2>&1
    echo "$(date +%s.%N) $began" | awk '{ printf "%.2f", $1 - $2 }'
}

measure() {
    local turn image='' nydus='' lists
    stack
    for turn in 1 2 3; do
        image+="$(exporting "type=image,name=$registry/measured:oci-$turn,push=true") "
        nydus+="$(exporting "type=nydus,name=$registry/measured:nydus-$turn") "
        # What is pushed is not there already in the next turn.
        echo "$turn" >"$work/context-stack/app/turn"
        rm -r "$work/olareg-5000/measured"
    done
    echo "type=image with gzip: $image s"
    echo "type=nydus:           $nydus s"
    # The medians.
    lists=$(tr ' ' '\n' <<<"$image" | sort -n | sed -n 3p)\ $(tr ' ' '\n' <<<"$nydus" | sort -n | sed -n 3p)
    echo "$lists" | awk '{ printf "ratio:                %.2f\n", $2 / $1; exit $2 > $1 }'
}

run_all() {
    loopback
    start_olareg 5000
    start_olareg 5002 --auth-static-login user:secret
    start_distribution 5001
    cat >"$work/buildkitd.toml" <<EOM
[worker.oci]
networkMode = "host"
defaultCgroupParent = "$(basename "$work")"
EOM
    start "$buildkitd" --config "$work/buildkitd.toml" --addr "unix://$work/buildkitd.sock" --root "$work/buildkit" \
        --oci-worker=true --containerd-worker=false --otel-socket-path "$work/otel.sock" --debugaddr 127.0.0.1:6060
    export BUILDKIT_HOST=unix://$work/buildkitd.sock
    await buildctl debug workers
    debian_layers
    layout_of "$work/base" "$work/layer-0"
    layout_of "$work/debian" "$work"/layer-{0,1,2}
    for image in base debian; do "$lazuli" copy -q "oci:$work/$image" "$registry/$image"; done
    if [ -n "${MEASURE:-}" ]; then
        measure || failures=1
        return
    fi
    start_containerd
    context app "FROM $registry/debian
COPY files /files
RUN rm /files/large && echo made >/made && mkdir /empty && mv /usr/share/perl5 /perl5"

    # The line names a directory of this system's.
    made=
    if [ ! -e /tmp/hello ]; then mkdir /tmp/hello; made=1; fi
    mount -t tmpfs tmpfs /tmp/hello
    try 'the documented line' hello
    umount /tmp/hello
    [ -z "$made" ] || rmdir /tmp/hello
    try 'the image mounts' hello_mounts
    context scratch $'FROM scratch\nCOPY files /files'
    try 'build FROM scratch, COPY' builds scratch "type=nydus,name=$registry/scratch"
    try 'build FROM three layers, COPY, RUN' builds app "type=nydus,name=$registry/app"
    try 'keys, right' keys_right
    try 'keys, wrong' keys_wrong
    try 'two platforms' two_platforms
    try 'provenance' provenance
    try 'cache export and import' cached
    try 'two outputs' two_outputs
    try 'merge-manifest' merged
    try 'attach=referrer' referred
    try 'every format' every_format
    try 'credentials of the client' credentials
    try 'FROM images of every format' from_formats
    try 'layers are converted once' converts_once
    try 'containerd takes one or the other' in_containerd
    try 'a worker of containerd' containerd_worker
}

in_namespaces 1800
