package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/tree"
)

// lsEntry is a line of ls --json.
type lsEntry struct {
	Path   string            `json:"path"`
	Type   string            `json:"type"`
	Mode   string            `json:"mode"`
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   int64             `json:"size"`
	Mtime  float64           `json:"mtime"`
	Links  uint32            `json:"links"`
	Target string            `json:"target,omitempty"`
	Device string            `json:"device,omitempty"`
	Xattrs map[string]string `json:"xattrs,omitempty"` // hexadecimal
}

func (a *app) lsCommand() *cobra.Command {
	var i imageFlags
	var long, recursive bool
	cmd := &cobra.Command{
		Use:   "ls IMAGE [PATH]",
		Short: "List files of an image without downloading it",
		Example: `  lazuli ls -l localhost:5000/node:19-nydus /usr/bin
  lazuli ls -R --json oci:/tmp/app`,
		Args: rangeArgs(1, 2),
	}
	f := cmd.Flags()
	f.BoolVarP(&long, "long", "l", false, "with modes, owners, sizes and times")
	f.BoolVarP(&recursive, "recursive", "R", false, "with everything below")
	i.add(f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		im, err := a.open(cmd.Context(), args[0], &i)
		if err != nil {
			return err
		}
		defer closeQuietly(im)
		path := "/"
		if len(args) == 2 {
			path = args[1]
		}
		n, err := lookup(im, args[0], path)
		if err != nil {
			return err
		}
		list := []lsEntry{}
		show := func(p string, n *tree.Node) error {
			switch {
			case a.json:
				list = append(list, newLsEntry(p, n))
				return nil
			case long:
				return printLong(a.stdout, p, n)
			}
			_, err := fmt.Fprintln(a.stdout, p)
			return err
		}
		switch {
		case !n.IsDir():
			err = show(path, n)
		case recursive:
			err = (&tree.Tree{Root: n}).Walk(func(p string, n *tree.Node) error {
				if p == "" {
					return nil
				}
				return show(p, n)
			})
		default:
			for _, e := range n.Entries {
				if err = show(e.Name, e.Node); err != nil {
					break
				}
			}
		}
		if err == nil && a.json {
			err = a.printJSON(list)
		}
		return err
	}
	return cmd
}

func newLsEntry(p string, n *tree.Node) lsEntry {
	e := lsEntry{
		Path: p, Type: typeLetter(n), Mode: fmt.Sprintf("%04o", n.Mode&tree.PermMask), UID: n.UID, GID: n.GID, Size: n.Size,
		Mtime: float64(n.Mtime) + float64(n.MtimeNsec)/1e9, Links: n.Nlink, Target: n.Target,
	}
	if isDevice(n) {
		e.Device = fmt.Sprintf("%d:%d", n.Rdev.Major, n.Rdev.Minor)
	}
	for _, x := range n.Xattrs {
		if e.Xattrs == nil {
			e.Xattrs = make(map[string]string)
		}
		e.Xattrs[x.Name] = hex.EncodeToString(x.Value)
	}
	return e
}

func isDevice(n *tree.Node) bool { return n.Type() == tree.TypeChar || n.Type() == tree.TypeBlock }

// typeLetter is that of find -type.
func typeLetter(n *tree.Node) string {
	switch n.Type() {
	case tree.TypeDir:
		return "d"
	case tree.TypeSymlink:
		return "l"
	case tree.TypeChar:
		return "c"
	case tree.TypeBlock:
		return "b"
	case tree.TypeFIFO:
		return "p"
	case tree.TypeSocket:
		return "s"
	}
	return "f"
}

func printLong(w io.Writer, p string, n *tree.Node) error {
	mode := fs.FileMode(n.Mode & 0o777).String()[1:]
	letter := typeLetter(n)
	if letter == "f" {
		letter = "-"
	}
	size := fmt.Sprint(n.Size)
	if isDevice(n) {
		size = fmt.Sprintf("%d, %d", n.Rdev.Major, n.Rdev.Minor)
	}
	name := p
	if n.IsSymlink() {
		name += " -> " + n.Target
	}
	_, err := fmt.Fprintf(w, "%s%s %3d %5d %5d %10s %s %s\n", letter, specialBits(mode, n.Mode), n.Nlink, n.UID, n.GID, size,
		n.ModTime().Format(time.DateTime), name)
	return err
}

// specialBits puts setuid, setgid and sticky into the permissions as ls prints them.
func specialBits(s string, mode uint32) string {
	b := []byte(s)
	for _, x := range []struct {
		bit         uint32
		at          int
		with, alone byte
	}{{0o4000, 2, 's', 'S'}, {0o2000, 5, 's', 'S'}, {0o1000, 8, 't', 'T'}} {
		if mode&x.bit == 0 {
			continue
		}
		if b[x.at] == 'x' {
			b[x.at] = x.with
		} else {
			b[x.at] = x.alone
		}
	}
	return string(b)
}
