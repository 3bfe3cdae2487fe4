package imagetest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/tree"
)

// Columns of a listing's lines that tests look at.
const (
	ColumnPath = 0
	ColumnTime = 6
)

// List prints a tree, a line an entry, sorted by path. Lines have columns with tabs between them: path (bytes outside
// printable ASCII as \xNN; "." is the root), type (f d l c b p s), permissions in octal, user, group, size of files, time in
// nanoseconds, device, number of the group of hard links, link target, extended attributes (name=hex), SHA-256 of the
// content. content gives the content of a regular file; if it is nil, that column is empty.
func List(t *tree.Tree, content func(n *tree.Node) ([]byte, error)) ([]string, error) {
	type named struct {
		path string
		node *tree.Node
	}
	var all []named
	names := make(map[*tree.Node]int)
	err := t.Walk(func(path string, n *tree.Node) error {
		if path == "" {
			path = "."
		}
		all = append(all, named{path, n})
		names[n]++
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b named) int { return cmp.Compare(a.path, b.path) })
	groups := make(map[*tree.Node]int)
	lines := make([]string, 0, len(all))
	for _, e := range all {
		n := e.node
		var kind, size, device, group, digest string
		switch n.Type() {
		case tree.TypeDir:
			kind = "d"
		case tree.TypeSymlink:
			kind = "l"
		case tree.TypeChar:
			kind = "c"
		case tree.TypeBlock:
			kind = "b"
		case tree.TypeFIFO:
			kind = "p"
		case tree.TypeSocket:
			kind = "s"
		case tree.TypeRegular:
			kind = "f"
			size = fmt.Sprint(n.Size)
			if content != nil {
				p, err := content(n)
				if err != nil {
					return nil, fmt.Errorf("content of %q: %w", e.path, err)
				}
				sum := sha256.Sum256(p)
				digest = hex.EncodeToString(sum[:])
			}
		default:
			return nil, fmt.Errorf("%q: type %o", e.path, n.Type())
		}
		if kind == "c" || kind == "b" {
			device = fmt.Sprintf("%d:%d", n.Rdev.Major, n.Rdev.Minor)
		}
		if !n.IsDir() && names[n] > 1 {
			if _, ok := groups[n]; !ok {
				groups[n] = len(groups)
			}
			group = fmt.Sprint(groups[n])
		}
		xattrs := make([]string, 0, len(n.Xattrs))
		for _, x := range n.Xattrs {
			xattrs = append(xattrs, x.Name+"="+hex.EncodeToString(x.Value))
		}
		lines = append(lines, strings.Join([]string{show(e.path), kind, fmt.Sprintf("%o", n.Mode&tree.PermMask), fmt.Sprint(n.UID),
			fmt.Sprint(n.GID), size, nanoseconds(n), device, group, show(n.Target), strings.Join(xattrs, ","), digest}, "\t"))
	}
	return lines, nil
}

func nanoseconds(n *tree.Node) string {
	return fmt.Sprint(n.Mtime*1e9 + int64(n.MtimeNsec))
}

func show(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c > 32 && c < 127 && c != '\\' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "\\x%02x", c)
		}
	}
	return b.String()
}

// Diff compares listings and returns lines that begin with "-" for what is missing from got and with "+" for what got has
// too much, at most some dozen, and nothing if they are equal. A time of "-" in want, or of a wanted entry, equals every time.
func Diff(want, got []string) string {
	wanted := make(map[string]string, len(want)) // by path
	for _, line := range want {
		wanted[column(line, ColumnPath)] = line
	}
	var out []string
	for _, line := range got {
		path := column(line, ColumnPath)
		w, ok := wanted[path]
		delete(wanted, path)
		if ok && (w == line || column(w, ColumnTime) == "-" && w == withTime(line, "-")) {
			continue
		}
		if ok {
			out = append(out, "-"+w)
		}
		out = append(out, "+"+line)
	}
	for _, line := range want {
		if _, ok := wanted[column(line, ColumnPath)]; ok {
			out = append(out, "-"+line)
		}
	}
	if len(out) > 40 {
		out = append(out[:40], fmt.Sprintf("and %d more", len(out)-40))
	}
	return strings.Join(out, "\n")
}

func column(line string, i int) string {
	columns := strings.Split(line, "\t")
	if i >= len(columns) {
		return ""
	}
	return columns[i]
}

func withTime(line, t string) string {
	columns := strings.Split(line, "\t")
	if len(columns) > ColumnTime {
		columns[ColumnTime] = t
	}
	return strings.Join(columns, "\t")
}
