package ondisk

import (
	"bytes"
	"encoding/binary"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/tree"
)

// A directory is blocks, each an array of entries of 12 bytes and then the names:
// 0 u64 nid | 8 u16 offset of the name in the block | 10 u8 type | 11 u8 0
//
// Entries, "." and ".." among them, are in the order of the bytes of their names over the whole directory. A name
// ends where the next begins; the last one of a block at a NUL byte or the block's end.
const (
	direntSize = 12
)

// Dirent is an entry of a directory.
type Dirent struct {
	Nid  uint64
	Name string
	Type uint8
}

// DirentPacker finds out how many bytes a directory takes and where its blocks begin.
type DirentPacker struct {
	Block int64 // size
	full  int64 // bytes of complete blocks
	used  int64 // in the last block
}

// Add takes up a name and reports whether it begins a new block.
func (d *DirentPacker) Add(name string) bool {
	need := int64(direntSize + len(name))
	if d.used > 0 && d.used+need <= d.Block {
		d.used += need
		return false
	}
	fresh := d.used > 0
	if fresh {
		d.full += d.Block
	}
	d.used = need
	return fresh
}

// Size returns the size of the directory with the names that were added.
func (d *DirentPacker) Size() int64 { return d.full + d.used }

// ForNames calls fn for the names of a directory in the order of their bytes, "." and ".." among them, with the place in
// n.Entries, [Self] or [Up].
func ForNames(n *tree.Node, fn func(name string, entry int)) {
	special := [...]string{".", ".."}
	next := 0
	for i, e := range n.Entries {
		for next < len(special) && special[next] < e.Name {
			fn(special[next], Self-next)
			next++
		}
		fn(e.Name, i)
	}
	for ; next < len(special); next++ {
		fn(special[next], Self-next)
	}
}

// Self and Up are what [ForNames] gives in place of an entry's number, for "." and "..".
const (
	Self = -1
	Up   = -2
)

// DirentsSize returns the size of a directory's content.
func DirentsSize(n *tree.Node, block int64) int64 {
	p := DirentPacker{Block: block}
	ForNames(n, func(name string, _ int) { p.Add(name) })
	return p.Size()
}

// AppendDirents appends the content of a directory to dst. nid gives the number of an entry, [Self] or [Up].
func AppendDirents(dst []byte, n *tree.Node, block int64, nid func(entry int) uint64) []byte {
	begin := len(dst)
	p := DirentPacker{Block: block}
	var entries []Dirent
	ForNames(n, func(name string, entry int) {
		if p.Add(name) {
			dst = AppendDirentBlock(dst, entries)
			dst = append(dst, make([]byte, p.full-int64(len(dst)-begin))...)
			entries = entries[:0]
		}
		kind := uint8(disk.TypeDir)
		if entry >= 0 {
			kind = disk.FileType(n.Entries[entry].Node.Mode)
		}
		entries = append(entries, Dirent{nid(entry), name, kind})
	})
	return AppendDirentBlock(dst, entries)
}

// AppendDirentBlock appends a block of entries to dst, without zeros at its end.
func AppendDirentBlock(dst []byte, entries []Dirent) []byte {
	le := binary.LittleEndian
	at := len(entries) * direntSize
	for _, e := range entries {
		dst = le.AppendUint64(dst, e.Nid)
		dst = le.AppendUint16(dst, uint16(at))
		dst = append(dst, e.Type, 0)
		at += len(e.Name)
	}
	for _, e := range entries {
		dst = append(dst, e.Name...)
	}
	return dst
}

// DecodeDirents calls fn for each entry of a block.
func DecodeDirents(block []byte, fn func(Dirent) error) error {
	le := binary.LittleEndian
	if len(block) < direntSize {
		return corrupt("directory block of %d bytes", len(block))
	}
	text := string(block) // one allocation for the names of a block
	first := int(le.Uint16(block[8:]))
	if first == 0 || first%direntSize != 0 || first > len(block) {
		return corrupt("directory block with names at %d", first)
	}
	count := first / direntSize
	for i := range count {
		d := block[i*direntSize:]
		from, to := int(le.Uint16(d[8:])), len(block)
		if i+1 < count {
			to = int(le.Uint16(d[direntSize+8:]))
		} else if from < to {
			if n := bytes.IndexByte(block[from:], 0); n >= 0 {
				to = from + n
			}
		}
		if from < first || from >= to || to > len(block) {
			return corrupt("directory entry with its name at %d to %d", from, to)
		}
		if err := fn(Dirent{le.Uint64(d), text[from:to], d[10]}); err != nil {
			return err
		}
	}
	return nil
}
