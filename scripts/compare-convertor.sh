#!/bin/bash
# Every flag of convertor on real registries, and overlaybd's own convertor beside ours: the same calls of both must end in the same way
# and make the same manifests, configurations, indexes and files, but for the digests and sizes of what is converted.
#
#   scripts/compare-convertor.sh LAZULI [OCI-LAYOUT:TAG]...     layouts are images to compare beside those made here
#
# The registries are olareg, which lists referrers, and CNCF's distribution, which does not. They and the other convertor are built
# by Go's module proxy into build/convertor, once for each version; CONVERTOR names another one that is there. That one also needs
# overlaybd's C++ programs in /opt/overlaybd/bin, and its configuration in /etc/overlaybd: where something is missing, what needs it is
# named as not run, and with STRICT=1 that is a failure. Needs root, jq, curl, openssl and iproute2.
set -euo pipefail
export LC_ALL=C CGO_ENABLED=0
[ $# -ge 1 ] || { sed -n '2,12p' "$0"; exit 2; }

convertor_version=v1.4.3    # of github.com/containerd/accelerated-container-image
olareg_version=v0.2.2       # of github.com/olareg/olareg
distribution_version=v3.1.2 # of github.com/distribution/distribution/v3

lazuli=$(realpath "$1")
programs=$(realpath "$(dirname "$0")/..")/build/convertor
olareg=127.0.0.1:5000
distribution=127.0.0.1:5001
secure=127.0.0.1:5002 # distribution with a private authority, client certificates and a password

# --- Building -------------------------------------------------------------------------------------------------------------------

# build NAME MODULE VERSION PACKAGE: in a module that only requires it, as "go install" asks the proxy for more.
build() {
    local dir=$programs/$1
    [ "$(cat "$dir/built" 2>/dev/null)" != "$3" ] || return 0
    mkdir -p "$dir"
    rm -f "$dir/go.sum" "$dir/built"
    printf 'module programs/%s\n\ngo 1.26\n\nrequire %s %s\n' "$1" "$2" "$3" >"$dir/go.mod"
    if (cd "$dir" && timeout 600 go build -mod=mod -trimpath -o "$programs/bin/$1" "$4") 2>"$dir/log"; then
        echo "$3" >"$dir/built"
    fi
}

if [ -z "${COMPARE_DIR:-}" ]; then
    [ "$(id -u)" = 0 ] || { echo "$0: needs root" >&2; exit 1; }
    build olareg github.com/olareg/olareg $olareg_version github.com/olareg/olareg/cmd/olareg
    build distribution github.com/distribution/distribution/v3 $distribution_version github.com/distribution/distribution/v3/cmd/registry
    [ -n "${CONVERTOR:-}" ] ||
        build convertor github.com/containerd/accelerated-container-image $convertor_version github.com/containerd/accelerated-container-image/cmd/convertor
    COMPARE_DIR=$(mktemp -d)
    trap 'rmdir "$COMPARE_DIR"' EXIT
    export COMPARE_DIR
    unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private timeout --kill-after=10 900 "$0" "$@"
    exit
fi

# --- Images ---------------------------------------------------------------------------------------------------------------------

# blob MEDIA-TYPE FILE [JSON]: adds a file to the layout of made images and prints its descriptor, with what JSON has beside that.
blob() {
    local sum
    sum=$(sha256sum <"$2" | cut -d' ' -f1)
    cp "$2" "$work/src/blobs/sha256/$sum"
    jq -cn --arg t "$1" --arg d "sha256:$sum" --argjson s "$(stat -c %s "$2")" --argjson more "${3:-"{}"}" '{mediaType: $t, digest: $d, size: $s} + $more'
}

# image ARCHITECTURE FLAVOUR: an image of two layers, with the media types of docker or oci, and prints the manifest's descriptor.
image() {
    local type=application/vnd.oci.image. layer=layer.v1.tar+gzip config=config.v1+json manifest=manifest.v1+json dir=$work/tree-$1 i
    if [ "$2" = docker ]; then
        type=application/vnd.docker. layer=image.rootfs.diff.tar.gzip config=container.image.v1+json manifest=distribution.manifest.v2+json
    fi
    rm -rf "$dir" && mkdir -p "$dir"/0/{bin,etc,var/empty} "$dir/1/etc"
    head -c 300000 "$(command -v bash)" >"$dir/0/bin/sh"
    echo "$1" >"$dir/0/etc/arch"
    echo gone >"$dir/0/etc/gone"
    ln -s sh "$dir/0/bin/ash"
    ln "$dir/0/etc/arch" "$dir/0/etc/same"
    echo changed >"$dir/1/etc/arch"
    : >"$dir/1/etc/.wh.gone"
    local layers=() diffs=()
    for i in 0 1; do
        tar -C "$dir/$i" --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner --format=ustar -cf "$dir/$i.tar" .
        gzip -nk "$dir/$i.tar"
        layers+=("$(blob $type$layer "$dir/$i.tar.gz")")
        diffs+=("\"sha256:$(sha256sum <"$dir/$i.tar" | cut -d' ' -f1)\"")
    done
    cat >"$dir/config" <<EOF
{"created":"2024-01-01T00:00:00Z","author":"<a&b>","architecture":"$1","os":"linux","config":{"User":"1000","Env":["PATH=/bin"],"Cmd":["/bin/sh"],"Labels":{"b":"2","a":"1"}},"rootfs":{"type":"layers","diff_ids":[$(IFS=,; echo "${diffs[*]}")]},"history":[{"created":"2024-01-01T00:00:00Z","created_by":"one"},{"created_by":"nothing","empty_layer":true},{"created_by":"two"}]}
EOF
    printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s],"annotations":{"org.example.kept":"<yes>"}}' \
        $type$manifest "$(blob $type$config "$dir/config")" "$(IFS=,; echo "${layers[*]}")" >"$dir/manifest"
    blob $type$manifest "$dir/manifest" "{\"platform\":{\"architecture\":\"$1\",\"os\":\"linux\"},\"annotations\":{\"org.example.arch\":\"$1\"}}"
}

# index MEDIA-TYPE DESCRIPTOR...
index() {
    printf '{"schemaVersion":2,"mediaType":"%s","manifests":[%s],"annotations":{"org.example.index":"kept"}}' "$1" "$(IFS=,; echo "${*:2}")" >"$work/index"
    blob "$1" "$work/index"
}

# named NAME DESCRIPTOR: gives a made image its tag.
named() { named+=("$(jq -c --arg n "$1" '.annotations["org.opencontainers.image.ref.name"] = $n' <<<"$2")"); }

images() {
    mkdir -p "$work/src/blobs/sha256"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$work/src/oci-layout"
    named=()
    local amd arm
    amd=$(image amd64 oci) arm=$(image arm64 oci)
    named image "$amd"
    named index "$(index application/vnd.oci.image.index.v1+json "$amd" "$arm")"
    named one "$(index application/vnd.oci.image.index.v1+json "$amd")"
    amd=$(image amd64 docker) arm=$(image arm64 docker)
    named docker "$amd"
    named list "$(index application/vnd.docker.distribution.manifest.list.v2+json "$amd" "$arm")"
    printf '{"schemaVersion":2,"manifests":[%s]}' "$(IFS=,; echo "${named[*]}")" >"$work/src/index.json"
}

# fill REGISTRY [FLAG...]: pushes all images.
fill() {
    local tag
    for tag in image index one docker list; do quietly "$lazuli" copy "oci:$work/src:$tag" "$1/app:$tag" "${@:2}"; done
    for tag in "${!given[@]}"; do quietly "$lazuli" copy "oci:${given[$tag]}" "$1/app:given$tag" "${@:2}"; done
}

# --- Running --------------------------------------------------------------------------------------------------------------------

failures=0
missing=0

report() { printf '%-8s %s\n' "$1" "$2"; }

not_run() {
    missing=$((missing + 1))
    report 'not run' "$1"
}

# quietly COMMAND...: shows what it printed only if it fails.
quietly() {
    if ! timeout --kill-after=5 120 "$@" >"$work/out" 2>&1; then
        tail -n 20 "$work/out" >&2
        return 1
    fi
}

# try NAME COMMAND...
try() {
    local name=$1 status
    shift
    set +e
    (set -e; "$@") >"$work/log" 2>&1
    status=$?
    set -e
    [ $status != 0 ] || { report works "$name"; return; }
    failures=$((failures + 1))
    report FAILS "$name"
    tail -n 40 "$work/log" | sed 's/^/    /'
}

start() {
    local program=$1 at=$2
    shift 2
    "$programs/bin/$program" "$@" >"$work/$program.log" 2>&1 &
    for _ in {1..100}; do
        ! (exec 3<>"/dev/tcp/${at/://}") 2>/dev/null || return 0
        sleep 0.1
    done
    echo "$0: $program does not listen at $at" >&2
    tail "$work/$program.log" >&2
    return 1
}

# manifest REGISTRY NAME: prints a manifest or index of the repository app.
manifest() {
    curl -fsS -H 'Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json' \
        -H 'Accept: application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json' \
        "http://$1/v2/app/manifests/$2"
}

referrers() {
    local digest
    digest=$(manifest "$1" "$2" | sha256sum | cut -d' ' -f1)
    case $1 in
    "$olareg") curl -fsS "http://$1/v2/app/referrers/sha256:$digest" ;;
    *) manifest "$1" "sha256-$digest" ;;
    esac | jq -r '.manifests[].artifactType' | sort
}

ours() { (cd "$work" && timeout --kill-after=5 120 "$work/bin/convertor" "$@"); }

# equals REGISTRY TAG SOURCE [FLAG...]
equals() { "$lazuli" check --progress none "$1/app:$2" --source "$1/app:$3" "${@:4}"; }

# --- Our flags ------------------------------------------------------------------------------------------------------------------

both() {
    ours -r "$1/app" --plain -i "$2" --overlaybd "$2-native" --turboOCI "$2-turbo" "${@:3}"
    local tag
    for tag in native turbo; do
        case $2 in
        index | list) equals "$1" "$2-$tag" "$2" --platform linux/arm64 ;;
        esac
        equals "$1" "$2-$tag" "$2" --platform linux/amd64
    done
}

base_layer() {
    ours -r "$1/app" --plain -i image -o base --mkfs=false --vsize 8 --disable-sparse --concurrency-limit 1
    equals "$1" base image
    [ "$(manifest "$1" base | jq '.layers | length')" = 3 ]
}

by_digest() {
    ours -r "$1/app" --plain -g "sha256:$(manifest "$1" image | sha256sum | cut -d' ' -f1)" --fastoci digest --fstype erofs --verbose
    equals "$1" digest image
}

referrer() {
    ours -r "$1/app" --plain -i index --overlaybd referrer-native --turboOCI referrer-turbo --referrer
    [ "$(referrers "$1" index)" = $'application/vnd.containerd.overlaybd.native.v1+json\napplication/vnd.containerd.overlaybd.turbo.v1+json' ]
    equals "$1" referrer-native index --platform linux/arm64
}

no_upload() {
    local before after
    before=$(curl -fsS "http://$1/v2/app/tags/list")
    ours -r "$1/app" --plain -i index --overlaybd nothing --turboOCI nothing-turbo --referrer --vsize 16 --no-upload --dump-manifest --reserve -d dumped
    after=$(curl -fsS "http://$1/v2/app/tags/list")
    [ "$before" = "$after" ]
    local digest
    for digest in $(jq -r '.manifests[].digest' "$work/dumped/index.overlaybd.json" "$work/dumped/index.json"); do
        if manifest "$1" "$digest"; then exit 1; fi
    done
    [ "$(find "$work/dumped" -name manifest.json -o -name overlaybd.commit | wc -l)" = 6 ]
    rm -rf "$work/dumped"
}

flags() {
    try "$2: both engines" both "$1" image
    try "$2: of an index, --oci" both "$1" index --oci
    try "$2: of Docker's list" both "$1" list
    local i
    for i in "${!given[@]}"; do try "$2: of ${given[$i]}" both "$1" "given$i"; done
    try "$2: --mkfs=false --vsize --disable-sparse --concurrency-limit" base_layer "$1"
    try "$2: -g --fastoci --fstype --verbose" by_digest "$1"
    try "$2: --referrer" referrer "$1"
    try "$2: --no-upload --dump-manifest --reserve -d" no_upload "$1"
}

# certificate NAME COMMON-NAME [SIGNER]: makes $work/certs/NAME.pem and .key.
certificate() {
    local certs=$work/certs signed=()
    [ -z "${3:-}" ] || signed=(-CA "$certs/$3.pem" -CAkey "$certs/$3.key")
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$2" -addext subjectAltName=IP:127.0.0.1 "${signed[@]}" \
        -keyout "$certs/$1.key" -out "$certs/$1.pem" 2>/dev/null
}

# secured STATUS FLAG...: a call to the registry with a private authority ends with a status.
secured() {
    local status=0
    ours -r $secure/app -i image -o image-native "${@:2}" || status=$?
    [ $status = "$1" ]
}

secure_registry() {
    mkdir -p "$work"/certs/{both,ca,client}
    certificate ca authority && certificate server server ca && certificate client client ca
    # shellcheck disable=SC2016
    echo 'somebody:$2a$04$SN2NlQPW8AdrEkVHOVrGSue3HDw.GYzoJ6uRYApqHTUpObDx8DHTa' >"$work/htpasswd" # pass:word
    cat >"$work/secure.yml" <<EOF
version: 0.1
storage: {inmemory: {}}
auth: {htpasswd: {realm: test, path: $work/htpasswd}}
http: {addr: $secure, tls: {certificate: $work/certs/server.pem, key: $work/certs/server.key, clientcas: [$work/certs/ca.pem]}}
EOF
    start distribution $secure serve "$work/secure.yml"
    cd "$work/certs"
    cp ca.pem both/ca.crt && cp ca.pem ca/ca.crt
    cp client.pem both/client.cert && cp client.key both/client.key
    cp client.pem client/client.cert && cp client.key client/client.key
    cd - >/dev/null
    fill $secure --ca "$work/certs/ca.pem" --cert "$work/certs/client.pem" --key "$work/certs/client.key" --creds somebody:pass:word
    local c=$work/certs
    local user=(-u somebody:pass:word) pair=(--client-cert "$c/client.pem:$c/client.key")
    try 'TLS: --cert-dir -u' secured 0 "${user[@]}" --cert-dir "$c/both"
    try 'TLS: --cert-dir twice' secured 0 "${user[@]}" --cert-dir "$c/ca" --cert-dir "$c/client"
    try 'TLS: --root-ca --client-cert' secured 0 "${user[@]}" --root-ca "$c/ca.pem" "${pair[@]}"
    try 'TLS: --insecure --client-cert' secured 0 "${user[@]}" --insecure "${pair[@]}"
    try 'TLS: unknown authority' secured 1 "${user[@]}" "${pair[@]}"
    try 'TLS: no client certificate' secured 1 "${user[@]}" --root-ca "$c/ca.pem"
    try 'TLS: wrong password' secured 1 -u somebody:else --cert-dir "$c/both"
    try 'TLS: no password' secured 1 --cert-dir "$c/both"
}

# --- Both convertors ------------------------------------------------------------------------------------------------------------

# facts: reads a document and prints it without what depends on how layers are converted.
facts() {
    jq -S --argjson known "$known" '
        def made: . as $d | $known | index($d) | not;
        walk(if type != "object" then .
            elif has("digest") and (.digest | made) then .digest = "(made)" | .size = "(made)"
            elif has("diff_ids") then .diff_ids |= map("(made)") else . end
            | if type == "object" and has("containerd.io/snapshot/overlaybd/blob-digest") then
                .["containerd.io/snapshot/overlaybd/blob-digest"] = "(made)" | .["containerd.io/snapshot/overlaybd/blob-size"] = "(made)" else . end)'
}

# all_facts TAG: of what a tag names, of its manifests and their configurations.
all_facts() {
    local top digest
    top=$(manifest $olareg "$1")
    facts <<<"$top"
    for digest in $(jq -r '.manifests[]?.digest' <<<"$top"); do all_facts "$digest"; done
    digest=$(jq -r '.config.digest // empty' <<<"$top")
    [ -z "$digest" ] || curl -fsSL "http://$olareg/v2/app/blobs/$digest" | facts
}

# same SOURCE ENGINE [FLAG...]: both make the same.
same() {
    rm -rf "$work"/{a,b}
    ours -r $olareg/app --plain -i "$1" "--$2" ours -d "$work/a" --dump-manifest --reserve "${@:3}"
    (cd "$work" && "$convertor" -r $olareg/app --plain -i "$1" "--$2" theirs -d "$work/b" --dump-manifest --reserve "${@:3}")
    diff -u <(all_facts theirs) <(all_facts ours)
    # The images of an index are numbered as they happen to begin there.
    diff -u <(files "$work/b") <(files "$work/a")
}

files() {
    (cd "$1" && find . -name manifest.json -o -name index.json -o -name config.json ! -path '*/0*' -o -name overlaybd.commit -o -name turboOCIv1.tar.gz) |
        sed 's|^\./[0-9]*-|N-|' | sort
}

# same_failure FLAG...: both end with the same status, and without an image.
same_failure() {
    local a=0 b=0
    ours -r $olareg/app --plain "$@" || a=$?
    (cd "$work" && "$convertor" -r $olareg/app --plain "$@") || b=$?
    [ $a = $b ] && [ $a != 0 ]
}

compare() {
    local convertor=${CONVERTOR:-$programs/bin/convertor} engine source i
    if [ ! -x "$convertor" ]; then
        not_run "overlaybd's convertor: $convertor is no program: $(tail -n 1 "$programs/convertor/log" 2>/dev/null)"
        return
    fi
    if [ ! -x /opt/overlaybd/bin/overlaybd-apply ] || [ ! -e /etc/overlaybd/overlaybd.json ]; then
        not_run "overlaybd's convertor: its programs are not in /opt/overlaybd/bin, or it has no /etc/overlaybd/overlaybd.json"
        return
    fi
    known=$(find "$work/src/blobs" -type f -printf '"sha256:%f"\n' | jq -cs .)
    for i in "${!given[@]}"; do
        known=$(find "${given[$i]%:*}/blobs" -type f -printf '"sha256:%f"\n' | jq -cs ". + $known")
    done
    local sources=(image docker index one list)
    for i in "${!given[@]}"; do sources+=("given$i"); done
    for engine in overlaybd turboOCI; do
        for source in "${sources[@]}"; do
            for flag in --oci=false --oci --referrer; do try "both: $source --$engine $flag" same "$source" $engine $flag; done
        done
        try "both: $engine --vsize" same image $engine --vsize 8
    done
    try 'both: --overlaybd --disable-sparse' same image overlaybd --disable-sparse
    try 'both: --overlaybd --concurrency-limit' same index overlaybd --concurrency-limit 1
    if [ -e /opt/overlaybd/baselayers/ext4_64 ]; then
        try 'both: --overlaybd --mkfs=false' same image overlaybd --mkfs=false
    else
        not_run 'both: --mkfs=false: there is no /opt/overlaybd/baselayers/ext4_64'
    fi
    try 'both: --turboOCI --fstype erofs' same image turboOCI --fstype erofs
    try 'both: --fastoci' same image fastoci
    try 'both: nothing with this tag' same_failure -i absent -o x
    try 'both: no output' same_failure -i image
    try 'both: no input' same_failure -o x
    try 'both: half a client certificate' same_failure -i image -o x --client-cert a
}

# --- Main -----------------------------------------------------------------------------------------------------------------------

work=$COMPARE_DIR
given=("${@:2}")
mount -t tmpfs tmpfs "$work"
ip link set lo up
mkdir "$work"/{bin,home,tmp}
ln -s "$lazuli" "$work/bin/convertor"
export HOME=$work/home TMPDIR=$work/tmp
images
if [ -x "$programs/bin/olareg" ]; then
    start olareg $olareg serve --addr 127.0.0.1 --store-type mem
    fill $olareg
    flags $olareg olareg
    compare
else
    not_run "olareg: it cannot be built: $(tail -n 1 "$programs/olareg/log")"
fi
if [ -x "$programs/bin/distribution" ]; then
    printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n' "$work/distribution" $distribution >"$work/plain.yml"
    start distribution $distribution serve "$work/plain.yml"
    fill $distribution
    flags $distribution distribution
    secure_registry
else
    not_run "distribution: it cannot be built: $(tail -n 1 "$programs/distribution/log")"
fi
echo "failures: $failures, not run: $missing"
[ $failures = 0 ] && { [ $missing = 0 ] || [ "${STRICT:-}" != 1 ]; }
