#!/bin/bash
# Pushes by crane through "lazuli registry-proxy", and builds by buildctl through lazuli-buildkit-proxy before an unmodified buildkitd;
# what appears in real registries is compared with its source by "lazuli check --source".
#
#   scripts/compare-proxies.sh [LAZULI [LAZULI-BUILDKIT-PROXY]]    build/lazuli and build/lazuli-buildkit-proxy if not given
#
# crane, BuildKit and the registries are built by Go's module proxy into build/clients, once for each version. Needs root, runc, curl,
# jq and a Debian system, some of whose packages are the base images.
set -euo pipefail
cd "$(dirname "$0")/.."
lazuli=$(realpath "${1:-build/lazuli}")
proxy=$(realpath "${2:-build/lazuli-buildkit-proxy}")
script_arguments=("$lazuli" "$proxy")
# shellcheck source=scripts/clients.bash
. scripts/clients.bash

olareg=localhost:5000       # lists referrers
distribution=localhost:5001 # does not
private=localhost:5002      # for those who have the password
push_olareg=localhost:5010  # proxies before them
push_distribution=localhost:5011
push_private=localhost:5012
push_tags=localhost:5013 # another one before olareg
builds=localhost:5020    # a registry for builds

build_all() { programs registry buildkit crane distribution olareg; }

# --- Pushes ---------------------------------------------------------------------------------------------------------------------

# registry_proxy ADDRESS REGISTRY FLAG...
registry_proxy() {
    start "$lazuli" registry-proxy --address "127.0.0.1:${1#*:}" --record none "${@:3}" "$2"
    await_port "${1#*:}"
}

# converted ADDRESS: waits until a proxy has nothing to do, and fails if something went wrong.
converted() {
    local turn states
    for turn in {1..100}; do
        states=$(limited curl -sSf "http://$1/lazuli/conversions" | jq -r '[.conversions[].state] | unique | join(" ")')
        if [[ $states != *waiting* && $states != *running* ]]; then break; fi
        sleep 0.2
    done
    is "${states// skipped/}" "done"
}

# referrers IMAGE: prints the digests of what refers to an image, from the API or the fallback tag.
referrers() {
    local name=${1#*/} subject
    subject=$(digest_of "$1")
    limited curl -sSf ${CURL_USER:+-u "$CURL_USER"} "http://${1%%/*}/v2/${name%:*}/referrers/$subject" 2>/dev/null | jq -r '.manifests[].digest' ||
        manifest "$1" "${subject/:/-}" | jq -r '.manifests[].digest'
}

# pushed_referrer PROXY REGISTRY: crane's digest is the registry's, and a Nydus image refers to it.
pushed_referrer() {
    local digest found
    digest=$(limited crane push "$work/debian" "$1/team/app:1")
    is "${digest#*@}" "$(digest_of "$2/team/app:1")"
    converted "$1"
    found=$(referrers "$2/team/app:1")
    is "$(wc -w <<<"$found")" 1
    is "$(manifest "$2/team/app:1" "$found" | jq -r .subject.digest)" "${digest#*@}"
    equals "$2/team/app@$found" "oci:$work/debian"
    # What was pushed can be pulled through, too; and is still what it was.
    limited crane validate --remote "$1/team/app:1"
    is "${digest#*@}" "$(digest_of "$2/team/app:1")"
    # Pushing it again changes nothing.
    limited crane push "$work/debian" "$1/team/app:1"
    converted "$1"
    is "$(referrers "$2/team/app:1")" "$found"
}

pushed_tags() {
    local digest
    digest=$(limited crane push "$work/debian" "$push_tags/team/app:v1")
    limited crane push "$work/debian" "$push_tags/other:v1"
    converted "$push_tags"
    is "${digest#*@}" "$(digest_of "$olareg/team/app:v1")"
    equals "$olareg/team/app:v1-nydus" "oci:$work/debian"
    equals "$olareg/team/app:v1-overlaybd" "oci:$work/debian"
    fails 404 manifest "$olareg/other:v1-nydus"
    # An index of both, under a name of its own.
    is "$(manifest "$olareg/other:v1-lazy" | jq -r '.manifests[0].digest')" "$(digest_of "$olareg/other:v1")"
    equals "$olareg/other:v1-lazy" "oci:$work/debian"
    # A conversion is waited for by those who ask.
    manifest "$olareg/team/app:v1" >"$work/pushed"
    limited curl -sSf -D- -o /dev/null -X PUT -H 'Lazuli-Convert: wait' -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
        --data-binary "@$work/pushed" "http://$push_tags/v2/team/app/manifests/v2" | grep -i '^lazuli-convert: done sha256:'
    equals "$olareg/team/app:v2-nydus" "oci:$work/debian"
}

# pushed_index: what BuildKit built for two platforms.
pushed_index() {
    "$lazuli" copy -q "oci-archive:$work/multi.tar" "$olareg/platforms:1"
    limited crane copy "$olareg/platforms:1" "$push_olareg/multi:1"
    converted "$push_olareg"
    is "$(manifest "$olareg/multi:1" | jq '.manifests | length')" 2
    local d
    for d in $(manifest "$olareg/multi:1" | jq -r '.manifests[].digest'); do
        limited curl -sSf "http://$olareg/v2/multi/referrers/$d" | jq -e '.manifests | length == 1'
    done
}

pushed_private() {
    export DOCKER_CONFIG=$work/home/docker
    mkdir -p "$DOCKER_CONFIG"
    printf '{"auths":{"%s":{"auth":"%s"}}}' "$push_private" "$(printf 'user:secret' | base64)" >"$DOCKER_CONFIG/config.json"
    limited crane push "$work/debian" "$push_private/app:1"
    converted "$push_private"
    is "$(CURL_USER=user:secret referrers "$private/app:1" | wc -l)" 1
    unset DOCKER_CONFIG
    fails 401 crane push "$work/debian" "$push_private/app:2"
}

# --- Builds ---------------------------------------------------------------------------------------------------------------------

hello() {
    context hello "FROM $builds/base
RUN echo hello >/hello && mkdir /made && cp -r /etc /made/"
    bctl hello --output "type=nydus,name=$builds/hello" --metadata-file "$work/metadata"
    is "$(manifest "$builds/hello" | jq -r '.layers | length')" 3
    is "$(jq -r '."containerimage.digest"' "$work/metadata")" "$(digest_of "$builds/hello")"
    is "$(jq -r '."image.name"' "$work/metadata")" "$builds/hello"
    bctl hello --output type=oci,dest=- >"$work/hello.tar"
    equals "$builds/hello" "oci-archive:$work/hello.tar"
}

# is_app IMAGE: compares an image of the context app, as it is built now.
is_app() {
    bctl app --output "type=oci,dest=$work/app.tar" 2>/dev/null
    equals "$1" "oci-archive:$work/app.tar"
}

every_format() {
    local keys
    for keys in nydus nydus-ref overlaybd turbo-oci nydus,compression=lz4,chunk-size=256KiB turbo-oci,fs=ext4; do
        bctl app --output "type=${keys%%,*},name=$builds/format:${keys%%,*}${keys#"${keys%%,*}"}" 2>&1 | tee "$work/progress"
        grep -q "converting to ${keys%%,*} and pushing $builds/format:${keys%%,*}" "$work/progress"
        is_app "$builds/format:${keys%%,*}"
    done
}

two_outputs() {
    bctl app --output "type=nydus,name=$builds/both:nydus" --output "type=image,name=$builds/both:oci,push=true" --output "type=overlaybd,name=$builds/both:overlaybd"
    equals "$builds/both:nydus" "$builds/both:oci"
    equals "$builds/both:overlaybd" "$builds/both:oci"
    # What the daemon exports itself, afterwards too, is what it would be without the proxy.
    is "$(manifest "$builds/both:oci" | jq -r '[.layers[].mediaType] | unique | join(" ")')" application/vnd.oci.image.layer.v1.tar+gzip
    context alone "FROM $builds/base
RUN echo alone >/alone"
    bctl alone --output "type=nydus,name=$builds/both:alone"
    bctl alone --output "type=image,name=$builds/both:later,push=true"
    is "$(manifest "$builds/both:later" | jq -r '[.layers[].mediaType] | unique | join(" ")')" application/vnd.oci.image.layer.v1.tar+gzip
}

merged() {
    local oci i
    bctl app --output "type=image,name=$builds/merged,push=true"
    oci=$(digest_of "$builds/merged")
    for i in 1 2 3; do
        bctl app --output "type=nydus,name=$builds/merged,merge-manifest=true"
        is "$(manifest "$builds/merged" | jq -r '[.manifests[] | .platform.os + "/" + .platform.architecture + ((.platform["os.features"] // []) | join("+"))] | join(" ")')" \
            "linux/$machine linux/${machine}nydus.remoteimage.v1"
        is "$(manifest "$builds/merged" | jq -r '.manifests[0].digest')" "$oci"
    done
    bctl app --output "type=nydus,name=$builds/merged:build,merge-manifest=build"
    is "$(manifest "$builds/merged:build" | jq '.manifests | length')" 2
    bctl app --output "type=nydus,name=$builds/merged:referred,attach=referrer"
    is "$(referrers "$builds/merged:referred" | wc -l)" 1
}

attested() {
    local of name
    bctl app --opt attest:provenance=mode=max --output "type=nydus,name=$builds/attested:1"
    manifest "$builds/attested:1" >"$work/index"
    of=$(jq -r '.manifests[1].annotations["vnd.docker.reference.digest"]' <"$work/index")
    is "$of" "$(jq -r '.manifests[0].digest' <"$work/index")"
    manifest "$builds/attested:1" "$(jq -r '.manifests[1].digest' <"$work/index")" | jq -r '.layers[0].digest' >"$work/statement"
    limited curl -sSfL "http://$builds/v2/attested/blobs/$(cat "$work/statement")" >"$work/statement.json"
    is "$(jq -r '.subject[0].digest.sha256' <"$work/statement.json")" "${of#sha256:}"
    # It says what the image is called, not where it was on its way.
    name=$(jq -r '.subject[0].name' <"$work/statement.json")
    is "${name%%\?*}" "pkg:docker/${builds/:/%3A}/attested@1"
    is_app "$builds/attested:1"
}

two_platforms() {
    context multi 'FROM scratch AS files
COPY files /files
FROM files
ARG TARGETARCH
COPY files/sub/file /of-$TARGETARCH'
    bctl multi --opt platform=linux/amd64,linux/arm64 --output "type=nydus,name=$builds/multi"
    bctl multi --opt platform=linux/amd64,linux/arm64 --output "type=oci,dest=$work/multi.tar"
    equals "$builds/multi" "oci-archive:$work/multi.tar" --platform linux/amd64
    equals "$builds/multi" "oci-archive:$work/multi.tar" --platform linux/arm64
}

cached() {
    bctl app --output "type=nydus,name=$builds/cached" --export-cache "type=registry,ref=$builds/cache,mode=max"
    limited buildctl prune --all >/dev/null
    bctl app --output "type=nydus,name=$builds/cached" --import-cache "type=registry,ref=$builds/cache" 2>&1 | tee "$work/progress"
    grep -q CACHED "$work/progress"
    grep -q 'converted before' "$work/progress"
    bctl app --output "type=oci,dest=$work/cached.tar" --import-cache "type=registry,ref=$builds/cache"
    equals "$builds/cached" "oci-archive:$work/cached.tar"
}

# buildx: as docker's users build, where that is installed.
buildx_builds() {
    buildx create --name proxied --driver remote "$BUILDKIT_HOST"
    limited buildx build --builder proxied --output "type=nydus,name=$builds/buildx" "$work/context-app"
    limited buildx build --builder proxied --output type=oci,dest=- "$work/context-app" | limited "$lazuli" convert --record none oci-archive:- "$builds/buildx:piped"
    equals "$builds/buildx" "$builds/buildx:piped"
}

refused() {
    fails 'unknown key "colour"' bctl app --output "type=nydus,name=$builds/wrong,colour=blue"
    fails 'non-bool value specified for registry.insecure' bctl app --output "type=nydus,name=$builds/wrong,registry.insecure=maybe"
    fails 'push=false' bctl app --output type=nydus,push=false
    fails 'could not be found' bctl app --output "type=zydus,name=$builds/wrong"
    fails 404 manifest "$builds/wrong"
}

start_buildkit() {
    cat >"$work/buildkitd.toml" <<EOM
[worker.oci]
networkMode = "host"
defaultCgroupParent = "$(basename "$work")"
EOM
    start buildkitd --config "$work/buildkitd.toml" --addr "unix://$work/buildkitd.sock" --root "$work/buildkit" --oci-worker=true --containerd-worker=false
    await buildctl --addr "unix://$work/buildkitd.sock" debug workers
    start "$proxy" --daemon "unix://$work/buildkitd.sock" --addr "unix://$work/proxy.sock" --root "$work/proxy"
    await test -S "$work/proxy.sock"
    export BUILDKIT_HOST=unix://$work/proxy.sock
    "$lazuli" copy -q "oci:$work/base" "$builds/base"
    context app "FROM $builds/base
COPY files /files
RUN rm /files/large && echo made >/made"
}

run_all() {
    loopback
    debian_layers
    layout_of "$work/debian" "$work"/layer-{0,1,2}
    layout_of "$work/base" "$work/layer-0"
    start_olareg 5000
    start_distribution 5001
    start_olareg 5020
    start_olareg 5002 --auth-static-login user:secret
    registry_proxy $push_olareg $olareg
    registry_proxy $push_distribution $distribution --rule format=nydus
    registry_proxy $push_private $private --rule format=nydus,compression=lz4
    registry_proxy $push_tags $olareg --rule 'repository=team/*,"format=nydus,overlaybd",attach=tag' --rule 'repository=other,attach=index,suffix=-lazy'
    try 'crane push, referrers API' pushed_referrer $push_olareg $olareg
    try 'crane push, fallback tag' pushed_referrer $push_distribution $distribution
    try 'crane push, tags and an index' pushed_tags
    try "crane push, client's credentials" pushed_private

    start_buildkit
    try 'build FROM, RUN through the proxy' hello
    try 'every format' every_format
    try 'three outputs' two_outputs
    try 'merge-manifest, referrer' merged
    try 'provenance' attested
    try 'two platforms' two_platforms
    try 'cache' cached
    try 'crane index through the registry proxy' pushed_index
    try 'what is refused' refused
    if command -v buildx >/dev/null; then try 'docker buildx, driver remote' buildx_builds; else echo 'not run    docker buildx: there is no "buildx" in PATH'; fi
}

in_namespaces 900
