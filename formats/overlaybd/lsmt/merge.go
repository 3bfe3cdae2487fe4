package lsmt

import (
	"context"
	"fmt"
	"io"
)

// Payload takes the data of a new layer.
type Payload interface {
	// Write appends whole sectors.
	io.Writer
	// Offset returns where the next byte goes, from the layer's first on.
	Offset() int64
}

// Memory of a copy: one buffer.
const (
	copySize  = 256 << 10
	blockSize = 4096 // zeros are looked for in blocks of the disk of this size
)

// Merge makes one layer of a stack: it copies the data of d to w and returns the new layer's segments, normalised. Blocks of 4 KiB
// that are zeros are not copied. below says that the stack lies on other layers, which zeros must hide; else they are left out.
// What lies in other objects is copied as well, so that the new layer refers to nothing.
func Merge(ctx context.Context, w Payload, d *Device, below bool) ([]Segment, error) {
	c := copier{ctx: ctx, w: w, zeros: below, buf: make([]byte, copySize)}
	for layer, s := range d.index.Segments() {
		if s.Zero {
			c.zero(s.Offset, s.Length)
			continue
		}
		if err := c.copy(s, func(p []byte, source int64) error {
			return d.read(p, Piece{Offset: s.Offset * SectorSize, Layer: layer, Source: source, Tag: s.Tag})
		}); err != nil {
			return nil, err
		}
	}
	return Normalize(c.segs)
}

// copier copies data to a new layer.
type copier struct {
	ctx   context.Context //nolint:containedctx // lives as long as one call
	w     Payload
	zeros bool // zeros become segments
	buf   []byte
	segs  []Segment
}

func (c *copier) zero(offset, length int64) {
	if c.zeros {
		c.segs = append(c.segs, Segment{Offset: offset, Length: length, Source: firstSector, Zero: true})
	}
}

// copy copies a segment, which read reads at bytes of the source.
func (c *copier) copy(s Segment, read func(p []byte, source int64) error) error {
	for s.Length > 0 {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		// Steps end with blocks of the disk.
		n := min(s.Length, copySize/SectorSize-s.Offset%(blockSize/SectorSize))
		p := c.buf[:n*SectorSize]
		if err := read(p, s.Source*SectorSize); err != nil {
			return err
		}
		if err := c.write(p, s.Offset); err != nil {
			return err
		}
		s.Offset, s.Source, s.Length = s.Offset+n, s.Source+n, s.Length-n
	}
	return nil
}

// write writes what is not zeros of p, which belongs at a sector.
func (c *copier) write(p []byte, offset int64) error {
	for len(p) > 0 {
		zero, n := isZero(p[:blockAt(p, offset)]), blockAt(p, offset)
		for n < len(p) {
			next := n + blockAt(p[n:], offset+int64(n/SectorSize))
			if isZero(p[n:next]) != zero {
				break
			}
			n = next
		}
		sectors := int64(n / SectorSize)
		if zero {
			c.zero(offset, sectors)
		} else {
			at := c.w.Offset()
			if at%SectorSize != 0 {
				return fmt.Errorf("data of a layer at %d, which is no sector", at)
			}
			if _, err := c.w.Write(p[:n]); err != nil {
				return err
			}
			c.segs = append(c.segs, Segment{Offset: offset, Length: sectors, Source: at / SectorSize})
		}
		p, offset = p[n:], offset+sectors
	}
	return nil
}

// blockAt returns how many bytes of p lie in the block of the disk in which it begins.
func blockAt(p []byte, offset int64) int {
	return min(len(p), int(blockSize-offset*SectorSize%blockSize))
}

var zeroBlock [blockSize]byte

// isZero reports whether p, at most a block, is zeros.
func isZero(p []byte) bool { return string(p) == string(zeroBlock[:len(p)]) }

// ReadWriterAt is a file that is changed in place.
type ReadWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// Restack gives a committed or sealed layer of size bytes another UUID and another parent.
func Restack(f ReadWriterAt, size int64, uuid, parent string) error {
	return change(f, size, func(i *Info) { i.UUID, i.Parent = uuid, parent })
}

// Resize gives a committed or sealed layer of size bytes another virtual size. What its index has behind that is not read any more.
func Resize(f ReadWriterAt, size, virtual int64) error {
	if virtual < 0 || virtual > maxSize {
		return fmt.Errorf("disk of %d bytes: out of range", virtual)
	}
	return change(f, size, func(i *Info) { i.VirtualSize = virtual })
}

func change(f ReadWriterAt, size int64, edit func(*Info)) error {
	if _, err := Parse(f, size); err != nil {
		return err
	}
	// The trailer comes last: it is what readers go by.
	if err := rewriteSlot(f, 0, edit); err != nil {
		return fmt.Errorf("header of layer: %w", err)
	}
	if err := rewriteSlot(f, size-HeaderSize, edit); err != nil {
		return fmt.Errorf("trailer of layer: %w", err)
	}
	return nil
}

func rewriteSlot(f ReadWriterAt, at int64, edit func(*Info)) error {
	p := make([]byte, HeaderSize)
	if err := readFull(f, p, at); err != nil {
		return err
	}
	s, err := parseSlot(p, 0, 0)
	if err != nil {
		return err
	}
	edit(&s.Info)
	_, err = f.WriteAt(s.appendTo(p[:0]), at)
	return err
}
