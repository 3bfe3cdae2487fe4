package nydusimage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/tree"
)

// InspectOptions are the flags of "nydus-image inspect".
type InspectOptions struct {
	Bootstrap string
	// Request is one command, whose result is printed as JSON; "" is a prompt that reads commands from In.
	Request string
	In      io.Reader
	Out     io.Writer
	// OnFlags is called with the names of the superblock's flags, if not nil.
	OnFlags func([]string)
}

// errExit ends the prompt.
var errExit = errors.New("exit")

// errCommand means that a command is not known or has wrong arguments; what is wrong was printed.
var errCommand = errors.New("illegal command")

// Inspect answers questions about a bootstrap. A request that is not known is an error; at the prompt it is not.
func Inspect(ctx context.Context, o InspectOptions) error {
	l, err := load(ctx, o.Bootstrap)
	if err != nil {
		return err
	}
	if o.OnFlags != nil {
		o.OnFlags(l.FlagNames())
	}
	w := bufio.NewWriter(o.Out)
	i := &inspector{loaded: l, w: w, request: o.Request != "", dir: l.Tree.Root, parents: make(map[*tree.Node]*tree.Node)}
	_ = l.Tree.Nodes(func(n *tree.Node) error {
		for _, e := range n.Entries {
			if e.Node.IsDir() {
				i.parents[e.Node] = n
			}
		}
		return nil
	})
	if i.request {
		return errors.Join(i.answer(o.Request), w.Flush())
	}
	in := bufio.NewScanner(o.In)
	for {
		i.printf("Inspecting RAFS :> ")
		if err := w.Flush(); err != nil {
			return err
		}
		if !in.Scan() {
			return in.Err()
		}
		err := i.answer(in.Text())
		if errors.Is(err, errExit) {
			return w.Flush()
		}
		if err != nil && !errors.Is(err, errCommand) {
			return errors.Join(err, w.Flush())
		}
	}
}

type inspector struct {
	*loaded
	w       *bufio.Writer // errors show at its Flush
	request bool
	dir     *tree.Node
	parents map[*tree.Node]*tree.Node // of directories
}

func (i *inspector) printf(format string, args ...any) { _, _ = fmt.Fprintf(i.w, format, args...) }

// answer runs a command. A request always has a JSON value at its end.
func (i *inspector) answer(line string) error {
	words := strings.Fields(line)
	if len(words) == 0 {
		return i.json(nil)
	}
	arg := ""
	if len(words) > 1 {
		arg = words[1]
	}
	switch cmd := words[0]; {
	case cmd == "help":
		i.usage()
		return errCommand
	case cmd == "exit" || cmd == "q":
		return errExit
	case cmd == "stats" && arg == "":
		return i.stats()
	case cmd == "ls" && arg == "":
		return i.list()
	case cmd == "cd" && arg != "":
		return i.changeDir(arg)
	case cmd == "stat" && arg != "":
		return i.stat(arg)
	case cmd == "blobs" && arg == "":
		return i.listBlobs()
	case cmd == "prefetch" && arg == "":
		return i.listPrefetch()
	case cmd == "chunk" && arg != "":
		return i.chunk(arg)
	case cmd == "icheck" && arg != "":
		return i.inode(arg)
	default:
		i.printf("Unsupported command: %s\n", cmd)
		i.usage()
		return fmt.Errorf("%w: %s", errCommand, cmd)
	}
}

func (i *inspector) usage() {
	i.printf(`
    stats:              Display RAFS filesystesm metadata
    ls:                 Show files in current directory
    cd DIR:             Change current directory
    stat FILE_NAME:     Show particular information of RAFS file
    blobs:              Show blob table
    prefetch:           Show prefetch table
    chunk OFFSET:       List basic info of a single chunk together with a list of files that share it
    icheck INODE:       Show path of the inode and basic information
    exit:               Exit
        
`)
}

// json prints the value of a request.
func (i *inspector) json(v any) error {
	if !i.request {
		return nil
	}
	p, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	_, err = i.w.Write(p)
	return err
}

func (i *inspector) stats() error {
	if i.request {
		return i.json(map[string]uint64{"inodes_count": i.Inodes})
	}
	i.printf(`
    Version:                6
    Inodes Count:           %d
    Chunk Size:             %dKB
    Root Inode:             %d
    Flags:                  %s
    Blob table offset:      %#x
    Blob table size:        %#x
    Prefetch table offset:  %#x
    Prefetch table entries: %#x
    Chunk table offset:     %#x
    Chunk table size:       %#x
    
`, i.Inodes, i.ChunkSize/1024, i.Nids[i.Tree.Root], strings.Join(i.FlagNames(), " | "), i.BlobTableOffset, i.BlobTableSize,
		i.PrefetchTableOffset, i.PrefetchTableSize/4, i.ChunkTableOffset, i.ChunkTableSize)
	return nil
}

func (i *inspector) list() error {
	for _, e := range i.dir.Entries {
		sign := map[uint32]string{tree.TypeRegular: "-", tree.TypeDir: "d", tree.TypeSymlink: "l"}[e.Node.Type()]
		if sign == "" {
			sign = " "
		}
		i.printf("%s    %-8d %q\n", sign, i.Nids[e.Node], e.Name)
	}
	return i.json(nil)
}

func (i *inspector) changeDir(name string) error {
	switch n := i.dir.Child(name); {
	case name == ".":
	case name == "..":
		if p := i.parents[i.dir]; p != nil {
			i.dir = p
		}
	case n == nil:
		i.printf("%s is not found\n", name)
	case !n.IsDir():
		i.printf("%s is not a directory\n", name)
	default:
		i.dir = n
	}
	return i.json(nil)
}

// size of a node, as its inode tells it.
func size(n *tree.Node) int64 {
	switch n.Type() {
	case tree.TypeDir:
		return rafs6.DirSize(n)
	case tree.TypeSymlink:
		return int64(len(n.Target))
	}
	return n.Size
}

// describe prints the attributes of a node.
func (i *inspector) describe(name string, n, parent *tree.Node) {
	i.printf(`
Inode Number:       %d
Name:               %q
Size:               %d
Parent:             %d
Mode:               0x%X
Permissions:        %o
Nlink:              %d
UID:                %d
GID:                %d
Mtime:              %d
MtimeNsec:          %d
Blocks:             %d
`, i.Nids[n], name, size(n), i.Nids[parent], n.Mode, n.Mode, n.Nlink, n.UID, n.GID, n.Mtime, n.MtimeNsec, (size(n)+511)/512)
}

func (i *inspector) stat(name string) error {
	if name == "." {
		parent, own := i.parents[i.dir], "/"
		if parent == nil {
			parent = i.dir
		}
		for _, e := range parent.Entries {
			if e.Node == i.dir {
				own = e.Name
			}
		}
		i.describe(own, i.dir, parent)
		return i.json(nil)
	}
	n := i.dir.Child(name)
	if n == nil {
		return i.json(nil)
	}
	i.describe(name, n, i.dir)
	if !n.IsRegular() {
		return i.json(nil)
	}
	i.printf("  Chunk list:\n")
	for k, c := range i.chunks(n) {
		i.printf(`        %d ->
        file offset: %d, chunk index: %d
        compressed size: %d, decompressed size: %d
        compressed offset: %d, decompressed offset: %d
        blob id: %s
        chunk id: %x
    
`, k, int64(k)*int64(i.ChunkSize), c.index, c.Stored.Len, c.Plain.Len, c.Stored.Off, c.Plain.Off, i.blobs[c.blob].Info.ID, c.digest)
	}
	return i.json(nil)
}

// paths lists all paths of the nodes that fn accepts, with the names of their parents.
func (i *inspector) paths(want func(n *tree.Node) bool, fn func(path, name string, n, parent *tree.Node)) {
	var visit func(path, name string, n, parent *tree.Node)
	visit = func(path, name string, n, parent *tree.Node) {
		if want(n) {
			fn(path, name, n, parent)
		}
		for _, e := range n.Entries {
			visit(strings.TrimSuffix(path, "/")+"/"+e.Name, e.Name, e.Node, n)
		}
	}
	visit("/", "/", i.Tree.Root, nil)
}

func (i *inspector) listPrefetch() error {
	type entry struct {
		Inode uint64   `json:"inode"`
		Path  []string `json:"path"`
	}
	list := make([]entry, 0, len(i.Prefetch))
	for _, p := range i.Prefetch {
		n := i.Tree.Lookup(p)
		e := entry{Inode: i.Nids[n]}
		i.paths(func(m *tree.Node) bool { return m == n }, func(path, _ string, _, parent *tree.Node) {
			if n.IsDir() && parent != nil {
				path += "/" // as the reference tool prints it
			}
			e.Path = append(e.Path, path)
		})
		list = append(list, e)
	}
	if i.request {
		return i.json(list)
	}
	i.printf("Total Prefetching Files: %d\n", i.PrefetchTableSize/4)
	for _, e := range list {
		i.printf("Inode Number:%10d | Path: %q \n", e.Inode, strings.Join(e.Path, " "))
	}
	return nil
}

func (i *inspector) chunk(arg string) error {
	off, err := strconv.ParseInt(arg, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: chunk: %w", errCommand, err)
	}
	i.paths((*tree.Node).IsRegular, func(path, name string, n, _ *tree.Node) {
		for _, c := range i.chunks(n) {
			if c.Stored.Off != off {
				continue
			}
			i.printf(`
File: %-32s Parent Path: %-32s
Compressed Offset: %d, Compressed Size: %d
Decompressed Offset: %d, Decompressed Size: %d
Chunk ID: %x,
Blob ID: %s

`, name, strings.TrimSuffix(path, name), c.Stored.Off, c.Stored.Len, c.Plain.Off, c.Plain.Len, c.digest, i.blobs[c.blob].Info.ID)
		}
	})
	return i.json(nil)
}

func (i *inspector) inode(arg string) error {
	nid, err := strconv.ParseUint(arg, 10, 64)
	if err != nil {
		i.printf("Wrong INODE is specified. Is it a inode number?\n")
		return fmt.Errorf("%w: icheck: %w", errCommand, err)
	}
	i.paths(func(n *tree.Node) bool { return i.Nids[n] == nid }, func(path, name string, n, parent *tree.Node) {
		i.printf("%s\n", path)
		if parent != nil {
			i.describe(name, n, parent)
		}
	})
	return i.json(nil)
}
