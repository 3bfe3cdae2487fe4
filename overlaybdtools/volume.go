package overlaybdtools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
)

// The numbers of blobs in the extents of a layer's tree.
const (
	blobInput = 0 // the layer's tar, uncompressed
	blobSpool = 1 // the temporary file
)

// copySize is how much is copied at once, in bytes.
const copySize = 1 << 20

type readWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// volume is a disk that is written: the writable layer over the others, or the file of a raw disk.
type volume struct {
	readWriterAt

	layer      *lsmt.Writable // nil for a raw disk
	size       int64
	empty      bool // nothing was ever written
	writeZeros bool // zeros have to be written: there is nothing else to tell them from what was never written
	raw        *os.File
}

// openRaw opens a raw disk.
func openRaw(path string) (*volume, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("raw disk: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raw disk: %w", err), f.Close())
	}
	return &volume{readWriterAt: f, size: size, writeZeros: true, raw: f}, nil
}

// clear makes a disk one of zeros, if that is possible.
func (v *volume) clear() error {
	if v.empty {
		return nil
	}
	if v.raw == nil {
		return fmt.Errorf("a file system on a disk that was written before: %w", blob.ErrUnsupported)
	}
	if i, err := v.raw.Stat(); err != nil {
		return fmt.Errorf("raw disk: %w", err)
	} else if !i.Mode().IsRegular() {
		return fmt.Errorf("a file system on the device %s, which is not known to be of zeros: %w", v.raw.Name(), blob.ErrUnsupported)
	}
	if err := errors.Join(v.raw.Truncate(0), v.raw.Truncate(v.size)); err != nil {
		return fmt.Errorf("raw disk: %w", err)
	}
	return nil
}

// write writes what a layer changes. Content of the input is referred to if remote, else copied.
func (v *volume) write(ctx context.Context, c *disk.Change, in *input, remote bool) error {
	buf := make([]byte, copySize)
	for _, x := range c.Data {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var err error
		switch {
		case x.Blob == disk.Zero:
			err = v.zero(x.Device, x.Length, buf)
		case x.Blob == blobSpool:
			err = v.copy(ctx, in.spool, x, buf)
		case remote:
			err = v.layer.MapRemote(x.Device, x.Length, x.Source)
		default:
			err = v.copy(ctx, in.plain, x, buf)
		}
		if err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return v.writeBlocks(c.Blocks, buf)
}

// writeBlocks writes blocks of metadata, those that lie together at once.
func (v *volume) writeBlocks(blocks []disk.Block, buf []byte) error {
	for len(blocks) > 0 {
		n := 0
		for n < len(blocks) && n < len(buf)/disk.BlockSize && blocks[n].Number == blocks[0].Number+int64(n) {
			copy(buf[n*disk.BlockSize:], blocks[n].Data)
			n++
		}
		if _, err := v.WriteAt(buf[:n*disk.BlockSize], blocks[0].Number*disk.BlockSize); err != nil {
			return err
		}
		blocks = blocks[n:]
	}
	return nil
}

// zero makes a part of the disk zeros.
func (v *volume) zero(off, n int64, buf []byte) error {
	if !v.writeZeros {
		return v.layer.Discard(off, n)
	}
	p := buf[:min(n, int64(len(buf)))]
	clear(p)
	for n > 0 {
		p = p[:min(n, int64(len(p)))]
		if _, err := v.WriteAt(p, off); err != nil {
			return err
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	return nil
}

// copy copies content to the disk. The content may end within the last sector, whose rest is zeros.
func (v *volume) copy(ctx context.Context, from io.ReaderAt, x disk.Extent, buf []byte) error {
	for x.Length > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := buf[:min(x.Length, int64(len(buf)))]
		if n, err := from.ReadAt(p, x.Source); n < len(p) {
			if !errors.Is(err, io.EOF) || len(p)-n >= disk.SectorSize {
				return fmt.Errorf("read %d bytes of content at %d: %w", len(p), x.Source, errors.Join(err, io.ErrUnexpectedEOF))
			}
			clear(p[n:])
		}
		if _, err := v.WriteAt(p, x.Device); err != nil {
			return err
		}
		x.Source, x.Device, x.Length = x.Source+int64(len(p)), x.Device+int64(len(p)), x.Length-int64(len(p))
	}
	return nil
}
