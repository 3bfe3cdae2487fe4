# Sourced by scripts that start real clients, daemons and registries: how these are built, started and ended, and images for them. What
# they share is here once. Such a script sets "lazuli" to the program that it tries, and ends with "in_namespaces SECONDS".
# shellcheck shell=bash
export LC_ALL=C CGO_ENABLED=0

# Versions, of the modules that "programs" names.
buildkit_version=v0.32.2
containerd_version=v2.4.2
crane_version=v0.22.1
distribution_version=v3.1.2
olareg_version=v0.2.2

clients=$PWD/build/clients
machine=$(dpkg --print-architecture)

# --- Building -------------------------------------------------------------------------------------------------------------------

# build NAME VERSION MODULE [GO-BUILD-ARGUMENT...] PACKAGE...: builds programs of a module's version into build/clients/bin, once, in a
# module that only requires it: "go install" refuses modules with exclude directives. With a name of "compat-..." they are built on
# compat/ in the place of nydus-snapshotter, every time, into build/clients/compat-bin. Where that fails, build/clients/NAME.missing says why.
build() {
    local name=$1 version=$2 module=$3 dir=$clients/$1 bin=$clients/bin replaced=''
    shift 3
    echo "$version $*" >"$clients/$name.wanted"
    if [[ $name = compat-* ]]; then
        bin=$clients/compat-bin
        replaced="
replace github.com/containerd/nydus-snapshotter => $PWD/compat

replace github.com/lazuli-project/lazuli => $PWD

replace github.com/containerd/nerdctl/mod/tigron v0.0.0 => ../tigron
"
    elif cmp -s "$clients/$name.wanted" "$clients/$name.built"; then
        return 0
    fi
    rm -rf "$dir/go.sum" "$clients/$name".{built,missing}
    mkdir -p "$dir" "$bin"
    cat >"$dir/go.mod" <<EOM
module clients/${name#compat-}

go 1.26

require $module $version
$replaced
exclude (
	github.com/davecgh/go-spew v1.1.2-0.20180830191138-d8f796af33cc
	github.com/pmezard/go-difflib v1.0.1-0.20181226105442-5d4384ee4fb2
)
EOM
    if (cd "$dir" && timeout 900 go build -mod=mod -trimpath -o "$bin/" "$@") 2>"$dir/log"; then
        mv "$clients/$name.wanted" "$clients/$name.built"
        return
    fi
    { grep -v '^go: downloading' "$dir/log" || echo "go build ended without a reason, or took too long"; } | tail -n 1 >"$clients/$name.missing"
    return 1
}

# programs NAME...: builds programs that several scripts need.
programs() {
    mkdir -p "$clients/bin"
    echo "module clients" >"$clients/go.mod" # nothing below is of this project's module
    local name
    for name in "$@"; do
        case $name in
        registry) go build -o "$clients/bin/registry" ./internal/tools/clients ;; # and turns the loopback device on
        buildkit) build buildkit $buildkit_version github.com/moby/buildkit -tags nydus github.com/moby/buildkit/cmd/{buildkitd,buildctl} ;;
        containerd) build containerd $containerd_version github.com/containerd/containerd/v2 github.com/containerd/containerd/v2/cmd/{containerd,ctr,containerd-shim-runc-v2} ;;
        crane) build crane $crane_version github.com/google/go-containerregistry github.com/google/go-containerregistry/cmd/crane ;;
        distribution)
            build distribution $distribution_version github.com/distribution/distribution/v3 -o "$clients/bin/distribution" \
                github.com/distribution/distribution/v3/cmd/registry
            ;;
        olareg) build olareg $olareg_version github.com/olareg/olareg github.com/olareg/olareg/cmd/olareg ;;
        esac || { echo "$0: $name cannot be built: $(cat "$clients/$name.missing")" >&2; return 1; }
    done
}

# --- Running --------------------------------------------------------------------------------------------------------------------

failures=0
daemons=()

# limited COMMAND...: with the time limit of one call.
limited() { timeout --kill-after=5 180 "$@"; }

# try OPERATION COMMAND...: says how a command ends, and shows what it printed if it fails. With ONLY=TEXT, others are left out.
try() {
    local operation=$1 began=$SECONDS status
    shift
    if [ -n "${ONLY:-}" ] && [[ "$operation" != *${ONLY}* ]]; then return; fi
    set +e
    (set -e; "$@") >"$work/log" 2>&1
    status=$?
    set -e
    if [ $status = 0 ]; then
        echo "works      $operation ($((SECONDS - began)) s)"
        return
    fi
    failures=$((failures + 1))
    echo "FAILS      $operation (status $status)"
    tail -n 40 "$work/log" | sed 's/^/    /'
}

# start COMMAND...: in the background, until the script ends.
start() {
    "$@" >"$work/daemon-${#daemons[@]}.log" 2>&1 &
    daemons+=($!)
}

# await COMMAND...: until it succeeds, for at most 20 seconds.
await() {
    local turn
    for turn in {1..100}; do
        ! "$@" >/dev/null 2>&1 || return 0
        sleep 0.2
    done
    echo "$0: not ready after $turn turns: $*" >&2
    tail -n 20 "$work"/daemon-*.log >&2
    return 1
}

# await_port PORT: until somebody listens.
await_port() { await bash -c "exec 3<>/dev/tcp/127.0.0.1/$1"; }

stop_daemons() {
    local i
    # In turns, the last one first: a daemon may use those before it.
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
        kill "${daemons[i]}" 2>/dev/null || true
        wait "${daemons[i]}" || true
    done
    # What BuildKit leaves behind, where there are control groups.
    find /sys/fs/cgroup -depth -type d -path "*/$(basename "$work")*" -exec rmdir {} + 2>/dev/null || true
}

# is ACTUAL EXPECTED
is() {
    if [ "$1" != "$2" ]; then
        printf 'expected %s\n     got %s\n' "$2" "$1"
        return 1
    fi
}

# fails TEXT COMMAND...: it must fail with that text.
fails() {
    local text=$1
    shift
    if "$@" >"$work/failed" 2>&1; then
        echo "it works: $*"
        return 1
    fi
    grep -qF -- "$text" "$work/failed" || { echo "no '$text' in:"; cat "$work/failed"; return 1; }
}

# equals IMAGE SOURCE [FLAG...]
equals() { limited "$lazuli" check --progress none "$1" --source "$2" "${@:3}"; }

# in_namespaces SECONDS: runs the function run_all, once "build_all" has been called outside, in namespaces of its own, with all
# files in their memory, "work", and only a loopback device, which is off. Nothing is left behind.
in_namespaces() {
    if [ -n "${CLIENTS_DIR:-}" ]; then
        work=$CLIENTS_DIR
        mount -t tmpfs tmpfs "$work"
        trap stop_daemons EXIT
        mkdir "$work"/{bin,home,tmp}
        export PATH=$work/bin:$clients/bin:$PATH HOME=$work/home TMPDIR=$work/tmp
        run_all
        echo "failures: $failures"
        [ $failures = 0 ]
        exit
    fi
    [ "$(id -u)" = 0 ] || { echo "$0: needs root" >&2; exit 1; }
    build_all
    CLIENTS_DIR=$(mktemp -d)
    trap 'rmdir "$CLIENTS_DIR"' EXIT
    export CLIENTS_DIR
    unshare --mount --net --pid --ipc --fork --kill-child --mount-proc --propagation private \
        timeout --kill-after=10 "$1" "$(realpath "$0")" "${script_arguments[@]}"
}

# --- Registries -----------------------------------------------------------------------------------------------------------------

# loopback: turns the loopback device on.
loopback() {
    start registry "$work/loopback" 127.0.0.1:5998 127.0.0.1:5999
    await_port 5998
}

# start_olareg PORT [FLAG...]: a registry that lists referrers.
start_olareg() {
    mkdir -p "$work/olareg-$1"
    start olareg serve --addr 127.0.0.1 --port "$1" --dir "$work/olareg-$1" "${@:2}"
    await_port "$1"
}

# start_distribution PORT: one that does not.
start_distribution() {
    printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: 127.0.0.1:%s}\n' "$work/distribution-$1" "$1" >"$work/distribution-$1.yml"
    OTEL_TRACES_EXPORTER=none start distribution serve "$work/distribution-$1.yml"
    await_port "$1"
}

# manifest IMAGE [DIGEST]: prints what an image's name, or a digest in its repository, is in its registry.
manifest() {
    local name=${1#*/} tag=latest
    if [[ $name = *:* ]]; then tag=${name##*:}; fi
    limited curl -sSf ${CURL_USER:+-u "$CURL_USER"} -H 'Accept: application/vnd.oci.image.index.v1+json' -H 'Accept: application/vnd.oci.image.manifest.v1+json' \
        "http://${1%%/*}/v2/${name%:*}/manifests/${2:-$tag}"
}

# digest_of IMAGE: what its name stands for.
digest_of() { echo "sha256:$(manifest "$1" | sha256sum | cut -d' ' -f1)"; }

# --- Images ---------------------------------------------------------------------------------------------------------------------

# pack FILE PACKAGE...: a tar of the files of installed packages, with all directories that they are in. What this system left
# out when it installed them is missing.
pack() {
    local file=$1 path
    shift
    dpkg -L "$@" | sed -n 's#^/\(bin\|sbin\|lib\|lib64\)/#/usr/\1/#; s#^/\([^.].*\)#\1#p' | while IFS= read -r path; do
        while [[ $path = */* ]]; do
            echo "$path"
            path=${path%/*}
        done
        echo "$path"
    done | sort -u | while IFS= read -r path; do
        if [ -e "/$path" ] || [ -L "/$path" ]; then echo "$path"; fi
    done | tar -C / --no-recursion --numeric-owner -cf "$file" -T -
}

# blob TYPE FILE: puts a file into the layout and prints its descriptor.
blob() {
    local sum
    sum=$(sha256sum <"$2" | cut -d' ' -f1)
    cp "$2" "$layout/blobs/sha256/$sum"
    printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%d}' "$1" "$sum" "$(stat -c %s "$2")"
}

# layout_of DIR TAR...: a layout of one image for this machine, named v1, with one layer for each tar.
layout_of() {
    local layout=$1 layer diffs='' layers='' config manifest
    shift
    mkdir -p "$layout/blobs/sha256"
    for layer in "$@"; do
        diffs+=",\"sha256:$(sha256sum <"$layer" | cut -d' ' -f1)\""
        gzip -n -6 <"$layer" >"$layer.gz"
        layers+=,$(blob layer.v1.tar+gzip "$layer.gz")
    done
    printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/usr/bin"]},"rootfs":{"type":"layers","diff_ids":[%s]}}' \
        "$machine" "${diffs#,}" >"$work/config"
    config=$(blob config.v1+json "$work/config")
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
        "$config" "${layers#,}" >"$work/manifest"
    manifest=$(blob manifest.v1+json "$work/manifest")
    printf '{"schemaVersion":2,"manifests":[%s]}' \
        "${manifest%\}},\"annotations\":{\"org.opencontainers.image.ref.name\":\"v1\"}}" >"$layout/index.json"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
}

# debian_layers: three layers in $work/layer-0 to -2: enough for a shell, many more files, and some of them deleted again.
debian_layers() {
    mkdir -p "$work/deleted/usr/share/perl5"
    pack "$work/layer-0" base-files libc6 dash coreutils libselinux1 libpcre2-8-0 libacl1 libattr1 libgmp10
    pack "$work/layer-1" perl-base dpkg debconf
    touch "$work/deleted/usr/share/.wh.dpkg" "$work/deleted/usr/share/perl5/.wh..wh..opq"
    tar -C "$work/deleted" -cf "$work/layer-2" usr
}

# --- Builds ---------------------------------------------------------------------------------------------------------------------

# context NAME DOCKERFILE: makes a directory to build in.
context() {
    local dir=$work/context-$1
    mkdir -p "$dir/files/sub"
    printf '%s\n' "$2" >"$dir/Dockerfile"
    echo content >"$dir/files/sub/file"
    ln -sf sub/file "$dir/files/link"
    [ -e "$dir/files/large" ] || head -c 3000000 "$clients/bin/registry" >"$dir/files/large"
}

# bctl NAME [FLAG...]: builds in a context.
bctl() {
    local dir=$work/context-$1
    shift
    limited buildctl build --progress=plain --frontend dockerfile.v0 --local context="$dir" --local dockerfile="$dir" "$@"
}
