#!/bin/bash
# Converts layers with overlaybd's own tools and with ours in turns: each step of a layer (create, apply, commit) by one or the other,
# and the layer above the other way round, natively and to turboOCI, so that each reads what the other has made. The results must
# equal their source by "lazuli check --source".
#
#   scripts/compare-overlaybd-tools.sh [LAZULI]        LAZULI is build/lazuli if not given
#
# Overlaybd's tools are taken from OVERLAYBD_BIN, /opt/overlaybd/bin if not given, and have their configuration in /etc/overlaybd. Where
# they are not installed, that is said, and is a failure with STRICT=1.
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/.."
lazuli=$(realpath "${1:-build/lazuli}")
genuine=${OVERLAYBD_BIN:-/opt/overlaybd/bin}
tools=(overlaybd-create overlaybd-apply overlaybd-commit overlaybd-merge overlaybd-zfile turboOCI-apply)
for name in "${tools[@]}"; do
    if [ ! -x "$genuine/$name" ]; then
        echo "not run: $genuine/$name is not installed"
        [ "${STRICT:-}" != 1 ]
        exit
    fi
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/cache" "$work/ours"
for name in "${tools[@]}"; do ln -s "$lazuli" "$work/ours/$name"; done
cat >"$work/service" <<EOF
{"registryFsVersion":"v2","logPath":"","logLevel":1,"cacheConfig":{"cacheType":"file","cacheDir":"$work/cache","cacheSizeGB":1},
"gzipCacheConfig":{"enable":false},"credentialConfig":{"mode":"file","path":""},"ioEngine":0,"download":{"enable":false},"enableAudit":false}
EOF

failures=0

# try WHAT COMMAND...: says how a command ends, and shows what it printed if it fails.
try() {
    local what=$1 status
    shift
    set +e
    (set -e; "$@") >"$work/log" 2>&1
    status=$?
    set -e
    if [ $status = 0 ]; then
        echo "works $what"
        return
    fi
    failures=$((failures + 1))
    echo "FAILS $what (status $status)"
    { grep -v '|INFO \||WARN ' "$work/log" || true; } | tail -n 30 | sed 's/^/    /'
}

# tool WHO NAME ARGUMENT...: runs a tool, a genuine one if WHO is g, ours if it is o.
tool() {
    local dir=$genuine name=$2
    if [ "$1" = o ]; then dir=$work/ours; fi
    shift 2
    timeout --kill-after=5 120 "$dir/$name" "$@"
}

other() { if [ "$1" = o ]; then echo g; else echo o; fi; }

# --- Images ---------------------------------------------------------------------------------------------------------------------

digest() { echo "sha256:$(sha256sum <"$1" | cut -d' ' -f1)"; }

# blob LAYOUT TYPE FILE [ANNOTATION...]: puts a file into a layout and prints its descriptor.
blob() {
    local sum size notes=''
    sum=$(digest "$3") size=$(stat -c %s "$3")
    cp "$3" "$1/blobs/sha256/${sum#sha256:}"
    if [ $# -gt 3 ]; then
        printf -v notes ',"containerd.io/snapshot/overlaybd/%s' "${@:4}" "blob-digest\":\"$sum\"" "blob-size\":\"$size\""
    fi
    printf '{"mediaType":"application/vnd.oci.image.%s","digest":"%s","size":%d,"annotations":{%s}}' "$2" "$sum" "$size" "${notes#,}"
}

begin() {
    rm -rf "$1"
    mkdir -p "$1/blobs/sha256"
}

# layout DIR LAYERS DIFF-IDS: ends a layout with an image.
layout() {
    printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[%s]}}' "$3" >"$work/config"
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
        "$(blob "$1" config.v1+json "$work/config")" "$2" >"$work/manifest"
    printf '{"schemaVersion":2,"manifests":[%s]}' "$(blob "$1" manifest.v1+json "$work/manifest")" >"$1/index.json"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$1/oci-layout"
}

# equals LAYOUT: compares an image with the source.
equals() { timeout 120 "$lazuli" check --progress none "oci:$1" --source "oci:$work/source"; }

# source_image: two layers without what the genuine tools are known to lose.
source_image() {
    local i layers='' diffs=''
    mkdir -p "$work"/{0,1}/{etc,many} "$work/0/d/e"
    for i in {1..600}; do echo "file $i" >"$work/0/many/a-file-with-a-rather-long-name-$i"; done
    head -c 3000000 "$lazuli" >"$work/0/program"
    head -c 100000 /dev/zero >"$work/0/zeros"
    seq 1 300000 >"$work/0/d/numbers"
    echo NAME=test >"$work/0/etc/os-release"
    ln "$work/0/etc/os-release" "$work/0/d/e/hard"
    ln -s ../etc/os-release "$work/0/d/soft"
    ln -s "$(printf '%0100d' 0)" "$work/0/d/long"
    mkfifo "$work/0/d/pipe"
    chmod 4755 "$work/0/program"
    seq 1 1000 >"$work/1/etc/os-release"
    seq 1 2000 >"$work/1/etc/added"
    touch "$work/1/many/.wh.a-file-with-a-rather-long-name-7" "$work/1/.wh.zeros"
    begin "$work/source"
    for i in 0 1; do
        tar --format=ustar --mtime=@1700000000 --owner=1000:1000 --group=1000:1000 --numeric-owner --sort=name -C "$work/$i" -cf "$work/layer-$i.tar" .
        gzip -n -6 -k "$work/layer-$i.tar"
        layers+=,$(blob "$work/source" layer.v1.tar+gzip "$work/layer-$i.tar.gz")
        diffs+=",\"$(digest "$work/layer-$i.tar")\""
    done
    layout "$work/source" "${layers#,}" "${diffs#,}"
}

# --- Layers ---------------------------------------------------------------------------------------------------------------------

# device FILE LOWERS [UPPER]: writes the configuration of a disk.
device() { printf '{"repoBlobUrl":"","lowers":[%s],"upper":{%s},"resultFile":""}' "${2#,}" "${3:-}" >"$1"; }

# native CREATE APPLY COMMIT [-s]: who does what in the lower layer.
native() {
    local create=$1 apply=$2 commit=$3 i lowers='' layers='' diffs='' out flags dir=$work/native
    rm -rf "$dir"
    begin "$dir/image"
    for i in 0 1; do
        out=$dir/$i.commit flags=(64 --mkfs)
        if [ $i = 1 ]; then flags=(0); fi
        tool "$create" overlaybd-create "$dir/data-$i" "$dir/index-$i" "${@:4}" "${flags[@]}"
        device "$dir/config" "$lowers" "\"data\":\"$dir/data-$i\",\"index\":\"$dir/index-$i\""
        tool "$apply" overlaybd-apply "$work/layer-$i.tar" "$dir/config" --service_config_path "$work/service"
        tool "$commit" overlaybd-commit "$dir/data-$i" "$dir/index-$i" "$out" -z -t
        lowers+=",{\"file\":\"$out\"}"
        layers+=,$(blob "$dir/image" layer.v1.tar "$out" 'version":"0.1.0"')
        diffs+=",\"$(digest "$out")\""
        create=$(other "$create") apply=$(other "$apply") commit=$(other "$commit")
    done
    layout "$dir/image" "${layers#,}" "${diffs#,}"
    equals "$dir/image"
    device "$dir/stack" "$lowers"
}

# merges WHO: what the last call of native made.
merges() {
    local dir=$work/native
    tool "$1" overlaybd-merge "$dir/stack" "$dir/merged" --service_config_path "$work/service"
    begin "$dir/merged-image"
    layout "$dir/merged-image" "$(blob "$dir/merged-image" layer.v1.tar "$dir/merged" 'version":"0.1.0"')" "\"$(digest "$dir/merged")\""
    equals "$dir/merged-image"
}

# seals SEAL COMMIT [-s]
seals() {
    local image dir=$work/sealed
    rm -rf "$dir"
    mkdir "$dir"
    tool o overlaybd-create "$dir/data" "$dir/index" 64 "${@:3}" --mkfs
    device "$dir/config" '' "\"data\":\"$dir/data\",\"index\":\"$dir/index\""
    tool o overlaybd-apply "$work/layer-0.tar" "$dir/config"
    tool o overlaybd-commit "$dir/data" "$dir/index" "$dir/want"
    tool "$1" overlaybd-commit --seal "$dir/data" "$dir/index"
    tool "$2" overlaybd-commit --commit_sealed "$dir/data" "$dir/commit" -z
    for image in want commit; do
        device "$dir/config" "{\"file\":\"$dir/$image\"}"
        tool o overlaybd-merge --compress=false "$dir/config" "$dir/merged-$image"
    done
    cmp "$dir/merged-want" "$dir/merged-commit"
}

# turbo FSTYPE CREATE APPLY COMMIT [WHO]: who does what in the lower layer; with WHO, whose --export APPLY gets.
turbo() {
    local fstype=$1 create=$2 apply=$3 commit=$4 i lowers='' layers='' diffs='' out flags input dir=$work/turbo
    rm -rf "$dir"
    begin "$dir/image"
    for i in 0 1; do
        out=$dir/layer-$i input=$work/layer-$i.tar.gz flags=()
        mkdir "$out"
        if [ "$fstype $i" = 'ext4 0' ]; then flags=(--mkfs); fi
        tool "$create" overlaybd-create "$dir/data-$i" "$dir/index-$i" -s 64 --turboOCI "${flags[@]}"
        device "$dir/config" "$lowers" "\"data\":\"$dir/data-$i\",\"index\":\"$dir/index-$i\",\"target\":\"$input\""
        flags=("$dir/config" --service_config_path "$work/service" --fstype "$fstype")
        if [ $# = 5 ]; then
            (cd "$out" && tool "$5" turboOCI-apply "$input" "$dir/headers" --export)
            tool "$apply" turboOCI-apply "$dir/headers" "${flags[@]}" --import
        else
            tool "$apply" turboOCI-apply "$input" "${flags[@]}" --gz_index_path "$out/gzip.meta"
        fi
        tool "$commit" overlaybd-commit "$dir/data-$i" "$dir/index-$i" "$out/$fstype.fs.meta" -z --turboOCI
        lowers+=",{\"file\":\"$out/$fstype.fs.meta\",\"gzipIndex\":\"$out/gzip.meta\",\"targetFile\":\"$input\",\"targetDigest\":\"$(digest "$input")\"}"
        touch "$out/.turbo.ociv1"
        tar -C "$out" --format=ustar --mtime=@0 -cf "$out.tar" "$fstype.fs.meta" .turbo.ociv1 gzip.meta
        diffs+=",\"$(digest "$out.tar")\""
        gzip -n "$out.tar"
        blob "$dir/image" layer.v1.tar+gzip "$input" >/dev/null
        layers+=,$(blob "$dir/image" layer.v1.tar+gzip "$out.tar.gz" 'version":"0.1.0-turbo.ociv1"' \
            "turbo-oci/target-digest\":\"$(digest "$input")\"" 'turbo-oci/target-media-type":"application/vnd.oci.image.layer.v1.tar+gzip"')
        create=$(other "$create") apply=$(other "$apply") commit=$(other "$commit")
    done
    layout "$dir/image" "${layers#,}" "${diffs#,}"
    equals "$dir/image"
}

# compresses WHO FLAG...: one makes a ZFile, the other one verifies and extracts it.
compresses() {
    local who=$1 dir=$work/zfile
    shift
    rm -rf "$dir"
    mkdir "$dir"
    tool "$who" overlaybd-zfile "$@" "$work/layer-0.tar" "$dir/z"
    who=$(other "$who")
    tool "$who" overlaybd-zfile --verify "$dir/z"
    tool "$who" overlaybd-zfile -x "$@" "$dir/z" "$dir/back"
    cmp "$work/layer-0.tar" "$dir/back"
}

# same_codes: wrong command lines end with the same exit codes.
same_codes() {
    local line who codes status
    cd "$work"
    while read -r line; do
        codes=''
        for who in g o; do
            status=0
            # shellcheck disable=SC2086
            tool $who $line </dev/null >/dev/null 2>&1 || status=$?
            codes+=" $status"
        done
        [ "${codes% *}" = " ${codes##* }" ] || { echo "$line: codes$codes"; return 1; }
    done <<'EOF'
overlaybd-create
overlaybd-create --help
overlaybd-create a b x
overlaybd-create a b 1 2
overlaybd-create --nope a b 1
overlaybd-create -u
overlaybd-create config config 1
overlaybd-commit none a b
overlaybd-commit config none b
overlaybd-commit config --bs x
overlaybd-apply layer-0.tar none
overlaybd-apply layer-0.tar layer-0.tar
overlaybd-merge none
overlaybd-merge layer-0.tar merged
overlaybd-zfile
overlaybd-zfile --bs 5 config out
overlaybd-zfile --bs 128 config out
overlaybd-zfile --verify config
overlaybd-zfile -x none out
overlaybd-zfile none out
turboOCI-apply layer-0.tar none
EOF
}

source_image
echo "g: overlaybd's own, o: ours"
for roles in 'g g g' 'o g g' 'g o g' 'g g o' 'o o o'; do
    for sparse in -s ''; do
        # shellcheck disable=SC2086
        try "native, create apply commit = $roles, then reversed $sparse" native $roles $sparse
    done
done
for who in g o; do try "merge by $who" merges $who; done
for fstype in ext4 erofs; do
    for roles in 'g g g' 'o g g' 'g o g' 'g g o' 'o o o'; do
        # shellcheck disable=SC2086
        try "turboOCI $fstype, create apply commit = $roles, then reversed" turbo $fstype $roles
    done
done
for who in g o; do
    try "turboOCI ext4, headers by $who, applied by $(other $who)" turbo ext4 o "$(other $who)" o $who
    for sparse in -s ''; do
        # shellcheck disable=SC2086
        try "seal by $who, commit by $(other $who) $sparse" seals $who "$(other $who)" $sparse
    done
    try "ZFile by $who" compresses $who
    try "ZFile by $who -t --algorithm zstd --bs 16" compresses $who -t --algorithm zstd --bs 16
done
try 'exit codes' same_codes
echo "failures: $failures"
[ $failures = 0 ]
