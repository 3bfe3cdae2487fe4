package overlaybdtools

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// layerReader makes the tree of a layer, whose files' extents say where their content lies.
type layerReader struct {
	in *input
	// refer says that content is referred to in the plain tar; else it goes through the temporary file.
	refer bool
	// meta is where offsets come from if the input is the headers of a tar alone.
	meta *metaReader
	dir  string // of the temporary file

	spool *bufio.Writer
	at    int64 // end of the temporary file
	buf   []byte
}

// read reads the layer to its end.
func (l *layerReader) read(tar io.Reader) (*tree.Tree, error) {
	b, r := tarfs.NewBuilder(), tarfs.NewReader(tar)
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		n, err := b.Add(e)
		if err != nil {
			return nil, err
		}
		if e.Size == 0 || e.Hardlink != "" {
			continue
		}
		if err := l.place(e, n, r); err != nil {
			return nil, fmt.Errorf("entry %d (%q): %w", e.Index, e.Name, err)
		}
	}
	if l.spool != nil {
		if err := l.spool.Flush(); err != nil {
			return nil, fmt.Errorf("temporary file: %w", err)
		}
	}
	return b.Tree(), nil
}

// place says where a file's content lies.
func (l *layerReader) place(e *tarfs.Entry, n *tree.Node, content io.Reader) (err error) {
	switch {
	case l.meta != nil:
		n.Extents, err = l.meta.extents(e)
	case !onSectors(e.Data):
		n.Extents = nil
		err = l.keepBlocks(n, content)
	case l.refer:
		n.Extents = e.Data
	default:
		n.Extents = nil
		err = l.keep(n, e.Data, content)
	}
	return err
}

// onSectors reports whether every piece of a file but its end begins and ends at sectors of the file and of the tar.
func onSectors(data []tree.Extent) bool {
	for i, x := range data {
		if x.Blob != tree.Hole && x.Offset%disk.SectorSize != 0 || i < len(data)-1 && x.Length%disk.SectorSize != 0 {
			return false
		}
	}
	return true
}

// keep copies the pieces of a file to the temporary file.
func (l *layerReader) keep(n *tree.Node, data []tree.Extent, content io.Reader) error {
	for _, x := range data {
		if x.Blob == tree.Hole {
			if _, err := io.CopyN(io.Discard, content, x.Length); err != nil {
				return err
			}
			n.AppendExtent(x)
			continue
		}
		n.AppendExtent(tree.Extent{Blob: blobSpool, Offset: l.at, Length: x.Length})
		for left := x.Length; left > 0; {
			p, err := l.next(content, left)
			if err != nil {
				return err
			}
			if err := l.write(p); err != nil {
				return err
			}
			left -= int64(len(p))
		}
	}
	return nil
}

// keepBlocks copies a file's content to the temporary file, but for blocks of zeros.
func (l *layerReader) keepBlocks(n *tree.Node, content io.Reader) error {
	for left := n.Size; left > 0; {
		p, err := l.next(content, left)
		if err != nil {
			return err
		}
		left -= int64(len(p))
		for len(p) > 0 {
			block := p[:min(disk.BlockSize, len(p))]
			p = p[len(block):]
			x := tree.Extent{Blob: tree.Hole, Length: int64(len(block))}
			if string(block) != string(zeroBlock[:len(block)]) {
				x.Blob, x.Offset = blobSpool, l.at
				if err := l.write(block); err != nil {
					return err
				}
			}
			n.AppendExtent(x)
		}
	}
	return nil
}

var zeroBlock [disk.BlockSize]byte

// next returns the next bytes of a file that has some left: whole blocks, but for its end.
func (l *layerReader) next(content io.Reader, left int64) ([]byte, error) {
	if l.buf == nil {
		l.buf = make([]byte, copySize)
	}
	p := l.buf[:min(left, copySize)]
	_, err := io.ReadFull(content, p)
	return p, err
}

// write appends to the temporary file, and fills up the last sector.
func (l *layerReader) write(p []byte) error {
	if l.spool == nil {
		f, err := formats.NewSpool(l.dir)
		if err != nil {
			return err
		}
		l.in.spool, l.spool = f, bufio.NewWriterSize(f, copySize)
	}
	n := int64(len(p))
	if _, err := l.spool.Write(p); err != nil {
		return fmt.Errorf("temporary file: %w", err)
	}
	pad := -n & (disk.SectorSize - 1)
	if _, err := l.spool.Write(zeroBlock[:pad]); err != nil {
		return fmt.Errorf("temporary file: %w", err)
	}
	l.at += n + pad
	return nil
}
