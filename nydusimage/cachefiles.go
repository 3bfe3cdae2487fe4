package nydusimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
)

// Suffixes of the files in a runtime's cache, as nydusd names them.
const (
	cacheData = ".blob.data"
	cacheMeta = ".blob.meta"
)

// writeCache makes the cache files of an uncompressed blob: its plain space, and its chunk table. The blob is removed, and what
// the bootstrap says about it becomes what it says about a cache: the table is not compressed either.
func writeCache(ctx context.Context, dir, path string, b *rafs6.Blob) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	defer func() { err = errors.Join(err, in.Close(), os.Remove(path)) }()
	if _, err := writeFile(ctx, target{dir: dir, name: b.Info.ID + cacheData}, &plainSpace{in, b.Table}); err != nil {
		return err
	}
	_, err = writeFile(ctx, target{dir: dir, name: b.Info.ID + cacheMeta}, bytesOf(b.Table.File(&b.Info)))
	return err
}

// plainSpace writes the plain space of an uncompressed blob.
type plainSpace struct {
	src   *os.File
	table *nydusblob.Table
}

func (p *plainSpace) WriteTo(w io.Writer) (int64, error) {
	var at int64
	zeros := make([]byte, nydusblob.Align)
	for i := range p.table.Len() {
		e := p.table.Entry(i)
		n, err := io.Copy(w, io.NewSectionReader(p.src, e.Stored.Off, e.Stored.Len))
		if at += n; err != nil {
			return at, fmt.Errorf("cache: %w", err)
		}
		pad := -at & (nydusblob.Align - 1)
		if _, err := w.Write(zeros[:pad]); err != nil {
			return at, err
		}
		at += pad
	}
	return at, nil
}

// bytesOf writes bytes.
type bytesOf []byte

// WriteTo implements [io.WriterTo].
func (b bytesOf) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b)
	return int64(n), err
}
