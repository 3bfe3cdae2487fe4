# Sourced by the scripts that compare mounted images.

# list DIR FILE: every path with type, mode, owner, and but for directories links, time, target, size, device and content, and the
# attributes. Times of directories that no layer has an entry for are not defined, so directories are listed without theirs.
list() {
    (
        cd "$1"
        find . -type d -printf '%p\t%y\t%m\t%U:%G\n' | sort
        find . ! -type d -printf '%p\t%y\t%m\t%U:%G\t%n\t%T@\t%l\n' | sort
        find . -type f -printf '%p\t%s\n' | sort
        find . \( -type b -o -type c \) -print0 | sort -z | xargs -0r stat -c '%n %t:%T'
        find . -type f -links +1 -printf '%i\t%p\n' | sort -k2 | awk -F'\t' '{ if (!($1 in g)) g[$1] = $2; print $2 "\tlink of " g[$1] }'
        find . -type f -print0 | sort -z | xargs -0r sha256sum
        find . -print0 | sort -z | xargs -0r getfattr -hd -m '^(user|security|trusted)\.' -e hex | sed '/^trusted\.overlay\./d'
    ) >"$2"
}
