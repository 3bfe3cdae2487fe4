#!/bin/bash
# Builds a real image in the manner of Docker's "node", from Debian packages alone: eight layers, about 370 MB compressed.
#
#   scripts/node-image.sh DIR        writes the OCI layout DIR/node, tag "latest"; what is there already is kept
#
# Each layer is an overlayfs upper directory: deletions in it become whiteout files, directories that were made anew become
# opaque. Needs root, overlayfs and a Debian mirror; takes mmdebstrap, jq, attr and libcap2-bin by apt-get where they are missing.
set -euo pipefail
export LC_ALL=C TZ=UTC DEBIAN_FRONTEND=noninteractive
umask 022

[ $# = 1 ] || { sed -n '2,7p' "$0"; exit 2; }
[ "$(id -u)" = 0 ] || { echo "$0: building an image needs root" >&2; exit 1; }
mkdir -p "$1"
work=$(cd "$1" && pwd)
image=$work/node
[ ! -e "$image/index.json" ] || exit 0
suite=bookworm
time0=1700000000 # newest time of a file in the image, so that the same packages give the same image

need=()
for pair in mmdebstrap:mmdebstrap jq:jq getfattr:attr setcap:libcap2-bin; do
    command -v "${pair%:*}" >/dev/null || need+=("${pair#*:}")
done
if [ ${#need[@]} -gt 0 ]; then
    apt-get update -q >/dev/null
    apt-get install -y -q --no-install-recommends "${need[@]}" >/dev/null
fi
# The mirror that this machine uses itself; without one in its settings, Debian's default.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' | awk -v s=$suite '$2 == s { sub("/$", "", $1); print $1; exit }')

mkdir -p "$work/layers" "$work/debs/partial" "$work/lists/partial"
layers=()

# install PACKAGE...: in the layer that is being made. Downloads are shared by all layers and stay outside.
install() {
    local root=$1 at
    shift
    for at in var/cache/apt/archives:"$work/debs" var/lib/apt/lists:"$work/lists" dev:/dev etc/resolv.conf:/etc/resolv.conf; do
        mount --bind "${at#*:}" "$root/${at%%:*}"
    done
    mount -t proc proc "$root/proc"
    ls "$work"/lists/*Packages* >/dev/null 2>&1 || chroot "$root" apt-get update -q
    chroot "$root" apt-get install -y -q --no-install-recommends -o APT::Keep-Downloaded-Packages=true -o APT::Sandbox::User=root "$@"
    umount "$root"/{proc,etc/resolv.conf,dev,var/lib/apt/lists,var/cache/apt/archives}
}

base() {
    mmdebstrap --mode=root --variant=minbase --format=tar $suite - ${mirror:+"$mirror"} | tar -C "$1" -x --numeric-owner --xattrs --xattrs-include='*'
    printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d" # no service starts while packages are installed
    chmod 755 "$1/usr/sbin/policy-rc.d"
    : >"$1/etc/resolv.conf"
}
tools() { install "$1" ca-certificates curl gnupg netbase wget tzdata; }
scm() { install "$1" git mercurial openssh-client subversion procps; }
compilers() {
    install "$1" autoconf automake bzip2 default-libmysqlclient-dev dpkg-dev file g++ gcc imagemagick libbz2-dev libc6-dev \
        libcurl4-openssl-dev libdb-dev libevent-dev libffi-dev libgdbm-dev libglib2.0-dev libgmp-dev libjpeg-dev libkrb5-dev \
        liblzma-dev libmagickcore-dev libmagickwand-dev libmaxminddb-dev libncurses-dev libpng-dev libpq-dev libreadline-dev \
        libsqlite3-dev libssl-dev libtool libwebp-dev libxml2-dev libxslt1-dev libyaml-dev make patch unzip xz-utils zlib1g-dev
}
user() {
    chroot "$1" groupadd --gid 1000 node
    chroot "$1" useradd --uid 1000 --gid node --shell /bin/bash --create-home node
}
node() { install "$1" nodejs npm; }
app() {
    mkdir -p "$1/home/node/app"
    echo "require('http').createServer((q, r) => r.end('hello from ' + process.version + '\n')).listen(8080)" >"$1/home/node/app/server.js"
    printf '#!/bin/sh\n[ "${1#-}" = "$1" ] || set -- node "$@"\nexec "$@"\n' >"$1/usr/local/bin/docker-entrypoint.sh"
    chmod 755 "$1/usr/local/bin/docker-entrypoint.sh"
    chroot "$1" chown -R node:node /home/node
}
cleanup() {
    rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/man[1-9] "$1"/usr/share/info
    mkdir "$1/usr/share/info"
    echo 'documentation was removed' >"$1/usr/share/info/README"
}

# tidy DIR: what differs from run to run and belongs into no image.
tidy() {
    (cd "$1" && rm -rf var/log/* var/cache/apt/*.bin var/cache/ldconfig/aux-cache var/cache/debconf/*-old var/lib/dpkg/*-old \
        etc/{passwd,group,shadow,gshadow,subuid,subgid}- etc/machine-id var/lib/dbus/machine-id tmp/* run/* var/lib/systemd/*)
}

# pack DIR FILE: an upper directory as a layer.
pack() {
    local file
    find "$1" -type c -print0 | while IFS= read -r -d '' file; do
        [ "$(stat -c %t:%T "$file")" = 0:0 ] || continue
        rm "$file"
        : >"${file%/*}/.wh.${file##*/}"
    done
    { getfattr -RPh --absolute-names -n trusted.overlay.opaque "$1" 2>/dev/null || true; } | sed -n 's/^# file: //p' |
        while IFS= read -r file; do : >"$file/.wh..wh..opq"; done
    tar -C "$1" --create --sort=name --numeric-owner --clamp-mtime --mtime=@$time0 --format=posix \
        --pax-option='exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime' --xattrs --xattrs-include='security.capability' . |
        gzip -n -6 >"$2.new"
    mv "$2.new" "$2"
}

# layer STEP: makes the layer on those before it.
layer() {
    local dir=$work/layers/${#layers[@]}-$1 below='' done_
    if [ ! -e "$dir/layer.tar.gz" ]; then
        echo "image: layer ${#layers[@]}: $1" >&2
        rm -rf "$dir"
        mkdir -p "$dir"/{fs,work,root,empty}
        for done_ in "${layers[@]}"; do below=$done_/fs${below:+:$below}; done
        (
            export dir below work suite mirror
            export -f install "$1"
            unshare --mount --propagation private bash -euo pipefail -c '
                mount -t overlay overlay -o "lowerdir=${below:-$dir/empty},upperdir=$dir/fs,workdir=$dir/work,redirect_dir=off,metacopy=off" "$dir/root"
                "$1" "$dir/root"' bash "$1"
        ) >"$dir/log" 2>&1 || { tail -n 20 "$dir/log" >&2; echo "image: layer $1 failed, see $dir/log" >&2; exit 1; }
        tidy "$dir/fs"
        cp -a "$dir/fs" "$dir/pack" # packing changes whiteouts, which the layers above need as they are
        pack "$dir/pack" "$dir/layer.tar.gz"
        rm -rf "$dir"/{pack,work,root,empty}
    fi
    layers+=("$dir")
}

for step in base tools scm compilers user node app cleanup; do layer $step; done

rm -rf "$image.new"
blobs=$image.new/blobs/sha256
mkdir -p "$blobs"
put() { # put FILE MEDIATYPE: stores a file as a blob and prints its descriptor
    local sum
    sum=$(sha256sum <"$1" | cut -d' ' -f1)
    cp "$1" "$blobs/$sum"
    jq -n --arg t "$2" --arg d "sha256:$sum" --argjson n "$(stat -c %s "$1")" '{mediaType: $t, digest: $d, size: $n}'
}
type=application/vnd.oci.image
: >"$work/descriptors" >"$work/diffs"
for dir in "${layers[@]}"; do
    put "$dir/layer.tar.gz" $type.layer.v1.tar+gzip >>"$work/descriptors"
    zcat "$dir/layer.tar.gz" | sha256sum | sed 's/\(.*\)  -/"sha256:\1"/' >>"$work/diffs"
done
created=$(date -u -d @$time0 +%Y-%m-%dT%H:%M:%SZ)
jq -s --arg t "$created" '{created: $t, architecture: "amd64", os: "linux", rootfs: {type: "layers", diff_ids: .},
    config: {Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], Entrypoint: ["docker-entrypoint.sh"],
        Cmd: ["node", "/home/node/app/server.js"]},
    history: map({created: $t})}' "$work/diffs" | jq --arg a "$(dpkg --print-architecture)" '.architecture = $a' >"$work/config"
config=$(put "$work/config" $type.config.v1+json)
jq -s --argjson c "$config" --arg t $type.manifest.v1+json '{schemaVersion: 2, mediaType: $t, config: $c, layers: .}' "$work/descriptors" >"$work/manifest"
put "$work/manifest" $type.manifest.v1+json | jq --arg a "$(dpkg --print-architecture)" --arg t $type.index.v1+json '{schemaVersion: 2, mediaType: $t,
    manifests: [. + {platform: {os: "linux", architecture: $a}, annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$image.new/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' >"$image.new/oci-layout"
rm -f "$work"/{descriptors,diffs,config,manifest}
mv "$image.new" "$image"
echo "image: $image: $(du -sh "$image" | cut -f1)" >&2
