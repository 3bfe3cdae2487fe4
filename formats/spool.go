package formats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// tempFile is a [Spool] in the file system.
type tempFile struct {
	*os.File
	named bool // its name could not be removed at once
}

// NewSpool makes a temporary file in dir, "" for the system's directory. Where the system allows it, the file has no name any more: it
// vanishes with the process, however that ends.
func NewSpool(dir string) (Spool, error) {
	f, err := os.CreateTemp(dir, "lazuli-spool-")
	if err != nil {
		return nil, fmt.Errorf("temporary file: %w", err)
	}
	return &tempFile{f, os.Remove(f.Name()) != nil}, nil
}

// Close removes the file.
func (t *tempFile) Close() error {
	err := t.File.Close()
	if t.named {
		err = errors.Join(err, os.Remove(t.Name()))
	}
	return err
}

// RandomObject is an object of which bytes may be written once more, inside of what was written, until it is committed.
type RandomObject interface {
	ObjectWriter
	io.WriterAt
}

// RandomSink is the optional ability of a [Sink] to take such objects where they stay.
type RandomSink interface {
	// CreateRandom begins an object, as Create does.
	CreateRandom(ctx context.Context, mediaType string) (RandomObject, error)
}

// CreateRandom begins an object of which bytes may be written once more. Where the sink cannot take it, it goes through a spool.
func CreateRandom(ctx context.Context, sink Sink, mediaType string, spool func() (Spool, error)) (RandomObject, error) {
	if s, ok := sink.(RandomSink); ok {
		return s.CreateRandom(ctx, mediaType)
	}
	s, err := spool()
	if err != nil {
		return nil, err
	}
	return &spooledObject{Spool: s, sink: sink, mediaType: mediaType}, nil
}

// spooledObject is an object that is given to a sink once it is complete.
type spooledObject struct {
	Spool     // nil once the object is committed or given up
	sink      Sink
	mediaType string
	size      int64
}

// Write implements [io.Writer].
func (o *spooledObject) Write(p []byte) (int, error) {
	n, err := o.Spool.Write(p)
	o.size += int64(n)
	return n, err
}

// copySize is how much is read of a spool at once.
const copySize = 1 << 20

// Commit implements [ObjectWriter].
func (o *spooledObject) Commit(ctx context.Context) (digest.Digest, int64, error) {
	obj, err := o.sink.Create(ctx, o.mediaType)
	if err != nil {
		return "", 0, err
	}
	defer obj.Abort()
	if _, err := io.CopyBuffer(struct{ io.Writer }{obj}, io.NewSectionReader(o.Spool, 0, o.size), make([]byte, copySize)); err != nil {
		return "", 0, fmt.Errorf("store what was spooled: %w", err)
	}
	d, n, err := obj.Commit(ctx)
	if err == nil {
		o.Abort()
	}
	return d, n, err
}

// Abort implements [ObjectWriter].
func (o *spooledObject) Abort() {
	if o.Spool != nil {
		_ = o.Close() // what mattered of it has been stored
		o.Spool = nil
	}
}
