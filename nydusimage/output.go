package nydusimage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
)

// target is where a file goes: to a writer, to a path, which may be a pipe, or into a directory under its digest.
type target struct {
	writer io.Writer
	path   string
	dir    string
	name   string // in dir; "" is the SHA-256 in hex
	temp   bool   // it keeps the name that it has while it is written
}

// create begins the file. It never waits for the reader of a pipe; writing does, until the context ends.
func (t target) create(ctx context.Context) (*object, error) {
	o := &object{target: t, hash: sha256.New(), stop: func() bool { return true }}
	if t.writer != nil {
		o.dest = contextWriter{ctx, t.writer}
		return o, nil
	}
	if t.path != "" {
		o.dir = filepath.Dir(t.path)
		if i, err := os.Stat(t.path); err == nil && !i.Mode().IsRegular() {
			if i.IsDir() {
				return nil, fmt.Errorf("%s is a directory", t.path)
			}
			o.pipe = openPipe(t.path)
			o.stop = context.AfterFunc(ctx, o.pipe.giveUp)
			return o, nil
		}
	}
	f, err := os.CreateTemp(o.dir, ".nydus-image-*")
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", t.describe(), err)
	}
	o.file, o.dest = f, f
	return o, nil
}

func (t target) describe() string {
	switch {
	case t.writer != nil:
		return "the result"
	case t.path != "":
		return t.path
	}
	return "a file in " + t.dir
}

// object is a file that is being written. It has its path once it is committed.
type object struct {
	target
	dest  io.Writer // the file, or the target's writer
	file  *os.File
	pipe  *pipe
	stop  func() bool // of the context's hold on the pipe
	hash  hash.Hash
	size  int64
	final string // path once it is committed
}

var (
	_ formats.ObjectWriter  = (*object)(nil)
	_ formats.RunningDigest = (*object)(nil)
)

// Write implements [io.Writer].
func (o *object) Write(p []byte) (int, error) {
	w := o.dest
	if o.pipe != nil {
		f, err := o.pipe.wait()
		if err != nil {
			return 0, err
		}
		w = f
	}
	n, err := w.Write(p)
	o.hash.Write(p[:n])
	o.size += int64(n)
	if err != nil {
		err = fmt.Errorf("write %s: %w", o.describe(), err)
	}
	return n, err
}

// RunningSHA256 implements [formats.RunningDigest].
func (o *object) RunningSHA256() (sum [32]byte, ok bool) {
	o.hash.Sum(sum[:0])
	return sum, true
}

// Commit implements [formats.ObjectWriter].
func (o *object) Commit(context.Context) (digest.Digest, int64, error) {
	d := digest.NewDigest(digest.SHA256, o.hash)
	if o.pipe != nil {
		f, err := o.pipe.wait()
		if err == nil && o.stop() {
			o.pipe = nil
			err = f.Close()
		}
		o.final = o.path
		return d, o.size, err
	}
	if o.writer != nil {
		return d, o.size, nil
	}
	f := o.file
	o.file = nil
	o.final = o.path
	if o.temp {
		o.final = f.Name()
		return d, o.size, f.Close()
	}
	if o.final == "" {
		name := o.name
		if name == "" {
			name = d.Encoded()
		}
		o.final = filepath.Join(o.dir, name)
	}
	err := errors.Join(f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), o.final)
	}
	if err != nil {
		return "", 0, errors.Join(fmt.Errorf("write %s: %w", o.final, err), os.Remove(f.Name()))
	}
	return d, o.size, nil
}

// Abort implements [formats.ObjectWriter].
func (o *object) Abort() {
	o.stop()
	if o.pipe != nil {
		o.pipe.giveUp()
		o.pipe = nil
	}
	if o.file != nil {
		_ = o.file.Close()           // nothing of it is kept
		_ = os.Remove(o.file.Name()) // at worst a temporary file stays
		o.file = nil
	}
}

// sink gives one object to a writer of layers.
type sink struct{ *object }

// Create implements [formats.Sink].
func (s sink) Create(context.Context, string) (formats.ObjectWriter, error) { return s.object, nil }

// Put implements [formats.Sink]. Layers put nothing.
func (sink) Put(context.Context, ocispec.Descriptor, []byte) error { return errors.ErrUnsupported }

// writeFile writes a whole file and returns its path.
func writeFile(ctx context.Context, t target, content io.WriterTo) (string, error) {
	o, err := t.create(ctx)
	if err != nil {
		return "", err
	}
	defer o.Abort()
	if _, err := content.WriteTo(o); err != nil {
		return "", err
	}
	if _, _, err := o.Commit(ctx); err != nil {
		return "", err
	}
	return o.final, nil
}

// needDir checks that a directory for results is there.
func needDir(path, what string) error {
	i, err := os.Stat(path)
	if err == nil && !i.IsDir() {
		err = fmt.Errorf("%s: %w", path, fs.ErrInvalid)
	}
	if err != nil {
		return fmt.Errorf("directory for %s: %w", what, err)
	}
	return nil
}

// contextWriter ends with its context.
type contextWriter struct {
	ctx context.Context //nolint:containedctx // io.Writer takes none
	w   io.Writer
}

func (c contextWriter) Write(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.w.Write(p)
}
