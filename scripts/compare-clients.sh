#!/bin/bash
# Starts the programs that call nydus-image or overlaybd's tools, unmodified, with lazuli under these names where they look for them,
# and compares what they make with its source by "lazuli check --source". The same is done with programs that import containerd's
# nydus-snapshotter: they are built on compat/ in its place, and there is no nydus-image for them.
#
#   scripts/compare-clients.sh [LAZULI]        LAZULI is build/lazuli if not given
#
# PART=dropin tries only the former, PART=compat only the latter.
#
# The programs are built by Go's module proxy into build/clients, once for each version. What cannot be built is named as not run;
# with STRICT=1 that is a failure. nydusify, which the proxy does not serve, is taken from NYDUSIFY or PATH, or built from the
# tree NYDUSIFY_SOURCE; nydusd, for its "check", from NYDUSD or PATH. Everything runs in namespaces of its own, with a registry on
# their loopback device and all files in their memory: nothing is left behind. Needs root, runc and a Debian system, some of whose
# packages are one of the images.
set -euo pipefail
cd "$(dirname "$0")/.."
lazuli=$(realpath "${1:-build/lazuli}")
script_arguments=("$lazuli")
# shellcheck source=scripts/clients.bash
. scripts/clients.bash

accelctl_version=v0.2.14     # of github.com/goharbor/acceleration-service
converter_version=v0.15.12   # of github.com/containerd/nydus-snapshotter
convertor_version=v1.4.3     # of github.com/containerd/accelerated-container-image

# The same on compat/.
compat_accelctl_version=v0.2.20 # the older one needs a containerd that compat/ does not know
nerdctl_version=v2.2.1          # of github.com/containerd/nerdctl/v2

part=${PART:-}
registry=127.0.0.1:5000        # plain HTTP
secure_registry=127.0.0.1:5443 # the same, with a certificate that nobody signed

# --- Building -------------------------------------------------------------------------------------------------------------------

build_all() {
    programs registry
    mkdir -p "$clients"/{converter,compat-bin,compat-converter,compat-nerdctl,tigron}
    rm -f "$clients"/*.missing
    cp internal/tools/clients/testdata/converter/main.go "$clients/converter/"
    cp internal/tools/clients/testdata/converter/main.go "$clients/compat-converter/"
    cp internal/tools/clients/testdata/nerdctl/main.go "$clients/compat-nerdctl/"
    # nerdctl's packages are without it, but its go.mod is not, and nothing serves it.
    echo "module github.com/containerd/nerdctl/mod/tigron" >"$clients/tigron/go.mod"
    # What cannot be built is named when it should run.
    if [ "$part" != compat ]; then build_dropin || true; fi
    if [ "$part" != dropin ]; then build_compat || true; fi
}

build_dropin() {
    build accelctl $accelctl_version github.com/goharbor/acceleration-service github.com/goharbor/acceleration-service/cmd/accelctl
    build converter $converter_version github.com/containerd/nydus-snapshotter .
    build convertor $convertor_version github.com/containerd/accelerated-container-image github.com/containerd/accelerated-container-image/cmd/convertor
    programs buildkit
    if [ -n "${NYDUSIFY_SOURCE:-}" ]; then
        (cd "$NYDUSIFY_SOURCE" && GOWORK=off go build -trimpath -o "$clients/bin/nydusify" ./cmd)
    fi
}

build_compat() {
    build compat-accelctl $compat_accelctl_version github.com/goharbor/acceleration-service github.com/goharbor/acceleration-service/cmd/accelctl
    build compat-converter $converter_version github.com/containerd/nydus-snapshotter .
    build compat-buildkit "$buildkit_version" github.com/moby/buildkit -tags nydus github.com/moby/buildkit/cmd/{buildkitd,buildctl}
    build compat-nerdctl $nerdctl_version github.com/containerd/nerdctl/v2 .
    programs containerd
}

# --- Running --------------------------------------------------------------------------------------------------------------------

missing=0

# try_client CLIENT OPERATION COMMAND...
try_client() { try "$1: $2" "${@:3}"; }

not_run() {
    missing=$((missing + 1))
    echo "not run    $1: $2"
}

# have CLIENT: reports whether it was built.
have() {
    [ -e "$clients/$1.missing" ] || return 0
    not_run "$1" "it cannot be built: $(cat "$clients/$1.missing")"
    return 1
}

# --- Images ---------------------------------------------------------------------------------------------------------------------

images() {
    cp -r internal/imagetest/testdata/edge/oci "$work/edge"
    debian_layers
    layout_of "$work/debian" "$work"/layer-{0,1,2}
    local image
    for image in edge debian; do
        "$lazuli" copy -q "oci:$work/$image" "$registry/$image:oci"
    done
}

# --- Clients --------------------------------------------------------------------------------------------------------------------

# What follows runs the programs in $bin, the names of which begin with $variant: those that start nydus-image, or those on compat/.
bin=$clients/bin
variant=''

# on_compat COMMAND...: with the programs on compat/, where nobody finds a nydus-image.
on_compat() {
    local bin=$clients/compat-bin variant=compat- rest=$PATH: dir
    local -x PATH=''
    while [ -n "$rest" ]; do
        dir=${rest%%:*}
        rest=${rest#*:}
        if [ -n "$dir" ] && [ ! -e "$dir/nydus-image" ]; then PATH+=${PATH:+:}$dir; fi
    done
    if command -v nydus-image; then
        echo "$0: there is a nydus-image" >&2
        return 1
    fi
    "$@"
}

# accelctl_converts NAME IMAGE [OPTION: VALUE]...: from registry to registry, with options of the driver.
accelctl_converts() {
    local name=$variant$1 image=$2 option rules
    shift 2
    rules="    - tag_suffix: -$name"
    if [ "$name" = "${variant}cached" ]; then rules+=$'\n'"    - cache_tag: ${variant}cache"; fi
    mkdir -p "$work/accelctl-$name"
    cat >"$work/accelctl.yaml" <<EOF
provider:
  source:
    $registry:
      insecure: true
  work_dir: $work/accelctl-$name
  gcpolicy:
    threshold: 1000MB
converter:
  worker: 2
  driver:
    type: nydus
    config:
      work_dir: $work/accelctl-$name
$(for option in "$@"; do printf '      %s\n' "$option"; done)
  rules:
$rules
EOF
    limited "$bin/accelctl" convert --config "$work/accelctl.yaml" "$registry/$image:oci"
    rm -rf "$work/accelctl-$name"
    if [ "$name" = "${variant}encrypted" ]; then
        if equals "$registry/$image:oci-$name" "$registry/$image:oci"; then
            echo "the image is not encrypted"
            return 1
        fi
        equals "$registry/$image:oci-$name" "$registry/$image:oci" --decrypt-key "$work/key"
    else
        equals "$registry/$image:oci-$name" "$registry/$image:oci"
    fi
}

try_accelctl() {
    local version=$accelctl_version name image
    if [ -n "$variant" ]; then version=$compat_accelctl_version; fi
    name="${variant}accelctl ${version#v}"
    have "${variant}accelctl" || return 0
    for image in edge debian; do
        try_client "$name" "convert $image" accelctl_converts plain $image
        try_client "$name" "convert $image, oci_ref, with_referrer" accelctl_converts ref $image 'oci_ref: true' 'with_referrer: true'
    done
    try_client "$name" 'convert debian, merge_manifest' accelctl_converts merged debian 'merge_manifest: true'
    try_client "$name" 'convert debian, with a remote cache' accelctl_converts cached debian
    try_client "$name" 'convert debian, with a remote cache that has it' accelctl_converts cached debian
    try_client "$name" 'convert debian, chunk_dict_ref, zstd' accelctl_converts dict debian "chunk_dict_ref: $registry/debian:oci-${variant}plain" 'compressor: zstd'
    try_client "$name" 'convert debian, batch_size, lz4_block' accelctl_converts batch debian 'batch_size: "0x20000"' 'compressor: lz4_block'
    try_client "$name" 'convert debian, fs_version 5, fs_align_chunk' accelctl_converts v5 debian 'fs_version: 5' 'fs_align_chunk: true'
    if ! command -v openssl >/dev/null; then
        not_run "$name" 'openssl is not installed, which makes the key for encrypt_recipients'
        return
    fi
    [ -e "$work/key" ] || openssl genrsa -out "$work/key" 2048 2>/dev/null
    openssl rsa -in "$work/key" -pubout -out "$work/key.public" 2>/dev/null
    try_client "$name" 'convert debian, encrypt_recipients' accelctl_converts encrypted debian "encrypt_recipients: jwe:$work/key.public"
}

# buildkit_builds NAME DOCKERFILE: pushes what it builds as nydus, and exports it as OCI for comparison.
buildkit_builds() {
    local name=$1 context=$work/context-$1
    local buildctl=(limited "$bin/buildctl" --addr "unix://$work/${variant}buildkitd.sock" build --progress=plain --frontend dockerfile.v0
        --local context="$context" --local dockerfile="$context")
    mkdir -p "$context/files/sub"
    printf '%s\n' "$2" >"$context/Dockerfile"
    echo content >"$context/files/sub/file"
    ln -sf sub/file "$context/files/link"
    head -c 3000000 "$clients/bin/registry" >"$context/files/large"
    "${buildctl[@]}" --output "type=image,name=$registry/${variant}built:$name,push=true,compression=nydus,force-compression=true,oci-mediatypes=true"
    "${buildctl[@]}" --output "type=oci,compression=gzip,force-compression=true,dest=$work/${variant}built-$name.tar"
    equals "$registry/${variant}built:$name" "oci-archive:$work/${variant}built-$name.tar"
}

# buildkit_unpacks: the files of a nydus base are those that it was made of. BuildKit unpacks its bootstrap layer, too.
buildkit_unpacks() {
    "$lazuli" copy -q "oci-archive:$work/${variant}built-run.tar" "$registry/${variant}built:run-oci"
    local base
    for base in run run-oci; do
        buildkit_builds from-$base "FROM scratch
COPY --from=$registry/${variant}built:$base --exclude=image / /"
    done
    equals "oci-archive:$work/${variant}built-from-run.tar" "oci-archive:$work/${variant}built-from-run-oci.tar"
}

try_buildkit() {
    local name="${variant}buildkit ${buildkit_version#v}"
    have "${variant}buildkit" || return 0
    cat >"$work/buildkitd.toml" <<EOF
[worker.oci]
networkMode = "host"
defaultCgroupParent = "$(basename "$work")"
[registry."$registry"]
http = true
EOF
    start "$bin/buildkitd" --config "$work/buildkitd.toml" --addr "unix://$work/${variant}buildkitd.sock" --root "$work/${variant}buildkit" \
        --oci-worker=true --containerd-worker=false
    await "$bin/buildctl" --addr "unix://$work/${variant}buildkitd.sock" debug workers
    try_client "$name" 'build FROM scratch, COPY' buildkit_builds scratch $'FROM scratch\nCOPY files /files'
    try_client "$name" 'build FROM an OCI image, COPY, RUN' buildkit_builds run "FROM $registry/debian:oci
COPY files /files
RUN rm /files/large && echo made >/made && mkdir /empty && mv /usr/share/perl5 /perl5"
    try_client "$name" 'build FROM a nydus image, RUN' buildkit_builds nydus "FROM $registry/${variant}built:run
RUN cat /made /files/link && rm -r /perl5 && echo again >/made"
    try_client "$name" 'build FROM scratch, COPY --from a nydus image' buildkit_unpacks
}

# converter_converts IMAGE [FLAG...]: a layout in place, and back again.
converter_converts() {
    local image=$1
    shift
    rm -rf "$work/converted"
    cp -r "$work/$image" "$work/converted"
    limited "$bin/converter" "$@" "$work/converted"
    equals "oci:$work/converted" "oci:$work/$image"
}

# converter_reverts IMAGE FLAG...
converter_reverts() {
    converter_converts "$1" -compressor zstd
    limited "$bin/converter" -reverse "${@:2}" "$work/converted"
    equals "oci:$work/converted" "oci:$work/$1"
}

# converter_deduplicates: with the chunks of the image itself as dictionary, so that only the blobs of the dictionary are left.
converter_deduplicates() {
    local blob
    converter_converts debian
    for blob in "$work"/converted/blobs/sha256/*; do
        ! tar -xzOf "$blob" image/image.boot >"$work/dictionary" 2>/dev/null || break
    done
    cp "$work/debian/index.json" "$work/converted/"
    limited "$bin/converter" -chunk-dict "$work/dictionary" "$work/converted"
    equals "oci:$work/converted" "oci:$work/debian"
}

try_converter() {
    local name="nydus-snapshotter/pkg/converter ${converter_version#v}" image
    have "${variant}converter" || return 0
    if [ -n "$variant" ]; then name="compat/pkg/converter"; fi
    for image in edge debian; do
        try_client "$name" "Pack, Merge $image" converter_converts $image
        try_client "$name" "Pack, Merge $image, OCIRef" converter_converts $image -oci-ref
        try_client "$name" "Unpack $image" converter_reverts $image
        try_client "$name" "Unpack $image, Stream" converter_reverts $image -stream
    done
    try_client "$name" 'Pack, Merge debian, BatchSize, ChunkSize, zstd' converter_converts debian -batch-size 0x10000 -chunk-size 0x40000 -compressor zstd
    try_client "$name" 'Pack, Merge debian, PrefetchPatterns, lz4_block' converter_converts debian -prefetch $'/usr/bin\n/etc' -compressor lz4_block
    try_client "$name" 'Pack, Merge debian, ChunkDictPath' converter_deduplicates
    try_client "$name" 'Pack, Merge debian, FsVersion 5' converter_converts debian -fs-version 5
    try_client "$name" 'Pack, Merge debian, Encrypt' converter_converts debian -encrypt
    if [ -z "$variant" ]; then NYDUS_DISABLE_TAR2RAFS=1 try_client "$name" 'Pack, Merge debian, by a directory' converter_converts debian; fi
}

# nerdctl_converts NAME IMAGE [FLAG...]: from registry to registry, in containerd.
nerdctl_converts() {
    local name=$1 image=$2
    shift 2
    limited "$bin/nerdctl" --address "$work/containerd.sock" --data-root "$work/nerdctl" "$@" "$registry/$image:oci" "$registry/$image:nerdctl-$name"
    equals "$registry/$image:nerdctl-$name" "$registry/$image:oci"
}

try_nerdctl() {
    local name="compat-nerdctl ${nerdctl_version#v}"
    have compat-nerdctl || return 0
    have containerd || return 0
    cat >"$work/containerd.toml" <<EOF
version = 3
root = "$work/containerd"
state = "$work/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
[grpc]
address = "$work/containerd.sock"
EOF
    start "$clients/bin/containerd" --config "$work/containerd.toml"
    await test -S "$work/containerd.sock"
    try_client "$name" 'image convert edge' nerdctl_converts plain edge
    try_client "$name" 'image convert debian' nerdctl_converts plain debian
    try_client "$name" 'image convert debian, zstd, prefetch patterns' nerdctl_converts zstd debian -nydus-compressor zstd -nydus-prefetch-patterns $'/usr/bin\n/etc'
}

# convertor_converts IMAGE TAG FLAG...: the tools have to be in /opt/overlaybd/bin.
convertor_converts() {
    local image=$1 tag=$2
    shift 2
    # shellcheck disable=SC2016
    limited unshare --mount bash -euc '
        mount -t tmpfs tmpfs /opt
        mkdir -p /opt/overlaybd/bin
        for tool in overlaybd-create overlaybd-apply overlaybd-commit turboOCI-apply; do ln -s "$0" /opt/overlaybd/bin/$tool; done
        exec "$@"' "$work/tools/lazuli" "$work/tools/convertor" --plain -r "$registry/$image" -i oci -d "$work/convertor-$image-$tag" "$@"
    equals "$registry/$image:$tag" "$registry/$image:oci"
}

try_convertor() {
    local name="convertor ${convertor_version#v}" image
    have convertor || return 0
    install -D -t "$work/tools" "$lazuli" "$clients/bin/convertor" # /opt, which is covered, may be where they are
    for image in edge debian; do
        try_client "$name" "--overlaybd $image" convertor_converts $image native --overlaybd native
        try_client "$name" "--overlaybd $image --disable-sparse --oci --vsize 8" convertor_converts $image appended --overlaybd appended --disable-sparse --oci --vsize 8
        try_client "$name" "--turboOCI $image" convertor_converts $image turbo --turboOCI turbo
        try_client "$name" "--turboOCI $image --fstype erofs" convertor_converts $image turbo-erofs --turboOCI turbo-erofs --fstype erofs
    done
}

# nydusify_converts NAME IMAGE [FLAG...]
nydusify_converts() {
    local name=$1 image=$2
    shift 2
    limited "$nydusify" convert --source "$registry/$image:oci" --target "$registry/$image:nydusify-$name" --plain-http \
        --source-insecure --target-insecure --platform "linux/$(dpkg --print-architecture)" --work-dir "$work/nydusify-$name" "$@"
    equals "$registry/$image:nydusify-$name" "$registry/$image:oci"
}

nydusify_reverts() {
    limited "$nydusify" convert --reverse --source "$registry/debian:nydusify-plain" --target "$registry/debian:nydusify-reverse" \
        --plain-http --source-insecure --target-insecure --work-dir "$work/nydusify-reverse"
    equals "$registry/debian:nydusify-reverse" "$registry/debian:oci"
}

nydusify_checks() {
    limited "$nydusify" check --source "$registry/debian:oci" --target "$registry/debian:nydusify-$1" \
        --source-insecure --target-insecure --nydusd "$nydusd" --work-dir "$work/nydusify-check"
}

# nydusify_optimizes: by HTTPS, as this command knows no other way.
nydusify_optimizes() {
    printf '/usr/bin/dash\n/usr/bin/cat\n' >"$work/prefetch"
    limited "$nydusify" optimize --source "$secure_registry/debian:nydusify-plain" --target "$secure_registry/debian:nydusify-optimized" \
        --source-insecure --target-insecure --prefetch-files "$work/prefetch" --work-dir "$work/nydusify-optimize"
    equals "$registry/debian:nydusify-optimized" "$registry/debian:oci"
}

nydusify_copies() {
    limited "$nydusify" copy --source "$registry/debian:nydusify-plain" --target "$registry/copied:nydusify" \
        --source-insecure --target-insecure --work-dir "$work/nydusify-copy"
    equals "$registry/copied:nydusify" "$registry/debian:oci"
}

nydusify_generates() {
    limited "$nydusify" chunkdict generate --sources "$registry/debian:nydusify-plain,$registry/debian:nydusify-batch" \
        --target "$registry/debian:nydusify-dict" --source-insecure --target-insecure --work-dir "$work/nydusify-chunkdict"
    nydusify_converts deduplicated debian --chunk-dict "bootstrap:registry:$registry/debian:nydusify-dict" --chunk-dict-insecure
}

nydusify_builds() {
    limited "$nydusify" build --source-dir "$work/home" --output-dir "$work/nydusify-build" --name built
    nydus-image check --bootstrap "$work/nydusify-build/built.meta"
}

try_nydusify() {
    local image nydusify nydusd
    nydusify=${NYDUSIFY:-$(command -v nydusify || true)}
    nydusd=${NYDUSD:-$(command -v nydusd || true)}
    if [ -x "$clients/bin/nydusify" ]; then nydusify=$clients/bin/nydusify; fi
    if [ -z "$nydusify" ]; then
        not_run nydusify "it is not installed, and the module proxy does not serve it"
        return
    fi
    for image in edge debian; do
        try_client nydusify "convert $image" nydusify_converts plain $image
        try_client nydusify "convert $image --oci-ref --with-referrer" nydusify_converts ref $image --oci-ref --with-referrer
    done
    try_client nydusify 'convert debian --batch-size' nydusify_converts batch debian --batch-size 0x20000
    try_client nydusify 'convert debian --merge-platform' nydusify_converts merged debian --merge-platform
    try_client nydusify 'convert debian --fs-version 5' nydusify_converts v5 debian --fs-version 5
    try_client nydusify 'convert --reverse' nydusify_reverts
    try_client nydusify optimize nydusify_optimizes
    try_client nydusify copy nydusify_copies
    try_client nydusify 'chunkdict generate, convert --chunk-dict' nydusify_generates
    try_client nydusify build nydusify_builds
    if [ -z "$nydusd" ]; then
        not_run 'nydusify check' 'nydusd is not installed'
        return
    fi
    # Its own limit of open files is more than an ordinary root may ask for.
    printf '#!/bin/sh\nexec "%s" --rlimit-nofile 10000 "$@"\n' "$nydusd" >"$work/bin/nydusd"
    chmod +x "$work/bin/nydusd"
    nydusd=$work/bin/nydusd
    try_client nydusify check nydusify_checks plain
    try_client nydusify 'check --oci-ref' nydusify_checks ref
}

# --- Main -----------------------------------------------------------------------------------------------------------------------

run_all() {
    ln -s "$lazuli" "$work/bin/nydus-image"
    start registry "$work/registry" $registry $secure_registry
    await_port ${registry#*:}
    images
    if [ "$part" != compat ]; then
        try_accelctl
        try_buildkit
        try_converter
        try_convertor
        try_nydusify
    fi
    if [ "$part" != dropin ]; then
        on_compat try_accelctl
        on_compat try_buildkit
        on_compat try_converter
        on_compat try_nerdctl
    fi
    echo "not run: $missing"
    if [ "${STRICT:-}" = 1 ]; then failures=$((failures + missing)); fi
}

in_namespaces 900
