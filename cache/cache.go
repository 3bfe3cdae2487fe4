package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
)

const (
	headerSize = 64
	magic      = "LZLSPANS"
	version    = 1

	// maxSpans bounds the memory for the marks of a blob: 64 Mi spans of 4 KiB are 256 GiB.
	maxSpans = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Dir is a cache directory.
type Dir struct{ path string }

// Open returns the cache in the directory, which is created with mode 0700 where it is absent.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(filepath.Join(path, "blobs"), 0o700); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	return &Dir{path}, nil
}

// Path returns the directory.
func (d *Dir) Path() string { return d.path }

// Blob is the cached part of one blob.
type Blob struct {
	data, marks *os.File
	dataPath    string
	size        int64

	mu      sync.Mutex // guards present, count
	present []byte     // one byte a span, as in the file
	count   int        // of spans that are present
}

// Blob opens the folder of the blob with the given digest, plain size in bytes and number of spans, and creates it where it
// is absent or of other dimensions.
func (d *Dir) Blob(dgst digest.Digest, plainSize int64, spans int) (_ *Blob, err error) {
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("cache: blob %q: %w", dgst, err)
	}
	if spans < 0 || spans > maxSpans || plainSize < 0 {
		return nil, fmt.Errorf("cache: blob %s of %d spans and %d bytes: %w", dgst, spans, plainSize, blob.ErrCorrupt)
	}
	folder := filepath.Join(d.path, "blobs", strings.ReplaceAll(dgst.String(), ":", "-"))
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	b := &Blob{dataPath: filepath.Join(folder, "data"), size: plainSize, present: make([]byte, spans)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cache: blob %s: %w", dgst, err), b.Close())
		}
	}()
	if b.marks, err = os.OpenFile(filepath.Join(folder, "spans"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if b.data, err = os.OpenFile(b.dataPath, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if b.loadMarks() {
		return b, nil
	}
	// New, cut short or of another version: begin anew. The size of the data file goes first.
	if err = b.data.Truncate(plainSize); err != nil {
		return nil, err
	}
	clear(b.present)
	b.count = 0
	if err = b.marks.Truncate(0); err != nil {
		return nil, err
	}
	if _, err = b.marks.WriteAt(append(header(plainSize, spans), b.present...), 0); err != nil {
		return nil, err
	}
	return b, nil
}

func header(plainSize int64, spans int) []byte {
	h := make([]byte, headerSize)
	copy(h, magic)
	binary.LittleEndian.PutUint32(h[8:], version)
	binary.LittleEndian.PutUint32(h[12:], uint32(spans))
	binary.LittleEndian.PutUint64(h[16:], uint64(plainSize))
	binary.LittleEndian.PutUint32(h[60:], crc32.Checksum(h[:60], castagnoli))
	return h
}

// loadMarks reads the marks and reports whether they are whole and fit the blob.
func (b *Blob) loadMarks() bool {
	h := make([]byte, headerSize)
	if _, err := b.marks.ReadAt(h, 0); err != nil || string(h) != string(header(b.size, len(b.present))) {
		return false
	}
	if fi, err := b.data.Stat(); err != nil || fi.Size() != b.size {
		return false
	}
	if n, err := b.marks.ReadAt(b.present, headerSize); n != len(b.present) && err != nil {
		return false
	}
	for i, m := range b.present {
		if m == 1 {
			b.count++
		} else {
			b.present[i] = 0
		}
	}
	return true
}

// Present reports whether span i is there. Another process may have put it there.
func (b *Blob) Present(i int) bool {
	b.mu.Lock()
	have := b.present[i] == 1
	b.mu.Unlock()
	if have {
		return true
	}
	var m [1]byte
	if _, err := b.marks.ReadAt(m[:], headerSize+int64(i)); err != nil || m[0] != 1 {
		return false
	}
	b.set(i, 1)
	return true
}

func (b *Blob) set(i int, m byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count += int(m) - int(b.present[i])
	b.present[i] = m
}

// Complete reports whether every span is present.
func (b *Blob) Complete() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count == len(b.present)
}

// DataPath returns the path of the file that holds the plain space.
func (b *Blob) DataPath() string { return b.dataPath }

// ReadAt fills p with the bytes at off of the plain space, which are those of the present spans.
func (b *Blob) ReadAt(p []byte, off int64) error {
	n, err := b.data.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read cache at %d: %w", off, err)
}

// Put stores the verified plain bytes of a span and then marks it.
func (b *Blob) Put(s blob.Span, plain []byte) error {
	if _, err := b.data.WriteAt(plain, s.Plain.Off); err != nil {
		return fmt.Errorf("write cache at %d: %w", s.Plain.Off, err)
	}
	return b.mark(s.Index, 1)
}

// Drop takes a damaged span out.
func (b *Blob) Drop(i int) error { return b.mark(i, 0) }

func (b *Blob) mark(i int, m byte) error {
	if _, err := b.marks.WriteAt([]byte{m}, headerSize+int64(i)); err != nil {
		return fmt.Errorf("mark span %d in cache: %w", i, err)
	}
	b.set(i, m)
	return nil
}

// Close closes the files. Nothing may be using the blob.
func (b *Blob) Close() error {
	var errs []error
	for _, f := range []*os.File{b.data, b.marks} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// File returns the path of a whole file of the cache's folder "images", such as an EROFS metadata image. It is named by its
// digest; where no file with these bytes is there, write makes it, and it appears by atomic rename.
func (d *Dir) File(dgst digest.Digest, write func(io.Writer) error) (path string, err error) {
	if err := dgst.Validate(); err != nil {
		return "", fmt.Errorf("cache: file %q: %w", dgst, err)
	}
	folder := filepath.Join(d.path, "images")
	path = filepath.Join(folder, dgst.Encoded())
	if holds(path, dgst) {
		return path, nil
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	f, err := os.CreateTemp(folder, ".new-*")
	if err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cache: %w", err), os.Remove(f.Name()))
		}
	}()
	if err = errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return "", err
	}
	return path, os.Rename(f.Name(), path)
}

// holds reports whether the file has the digest's bytes: one that was damaged on the disk must not be mounted.
func holds(path string, dgst digest.Digest) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	got, err := dgst.Algorithm().FromReader(f)
	return err == nil && got == dgst
}
