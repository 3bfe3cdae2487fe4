package lsmt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/lazuli-project/lazuli/blob"
)

// File is a local file of a layer that is being written, an *os.File.
type File interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
}

// kind of a Writable.
type kind uint8

const (
	// kindAppend: data in the order in which it was written, and the segments in another file, where later ones hide earlier ones.
	kindAppend kind = iota
	// kindSparse: data at the place that it has on the disk behind the header; what is a hole is in no segment.
	kindSparse
	// kindWarp: data at the place that it has on the disk, in a file without a header, and segments as of kindAppend, which
	// may lie in another object.
	kindWarp
)

// maxWritable bounds the entries of an index file.
const maxWritable = 128_000_000

// ErrSealed is what writes to a sealed layer give.
var ErrSealed = errors.New("layer is sealed")

// Writable is a local layer that is being written, in files as overlaybd's tools have them. It is for concurrent use; of
// writes to the same sectors at the same time, the one that is done last counts. It keeps 40 bytes for a segment. It does not close
// or sync its files.
type Writable struct {
	// Lower is what shows where the layer has nothing; nil: zeros. It is set before the first read.
	Lower io.ReaderAt

	kind        kind
	data, index File // index is nil for kindSparse

	writing  sync.Mutex // one write at a time: entries of the index come in the order of their data. Guards end, indexEnd
	end      int64      // of the data, in sectors
	indexEnd int64      // in bytes

	mu     sync.RWMutex // guards what follows
	info   Info
	sealed bool
	live   live
}

var (
	_ io.ReaderAt = (*Writable)(nil)
	_ io.WriterAt = (*Writable)(nil)
)

// CreateAppendOnly makes an empty layer of two empty files: what is written is appended to data.
func CreateAppendOnly(data, index File, i Info) (*Writable, error) {
	w := &Writable{kind: kindAppend, data: data, index: index, info: i, end: firstSector, indexEnd: HeaderSize}
	return opened(w, w.create(flagHeader|flagData))
}

// CreateSparse makes an empty layer of an empty file on a file system with holes.
func CreateSparse(data File, i Info) (*Writable, error) {
	w := &Writable{kind: kindSparse, data: data, info: i}
	if err := data.Truncate(HeaderSize + i.VirtualSize); err != nil {
		return nil, fmt.Errorf("create layer: %w", err)
	}
	return opened(w, w.create(flagHeader|flagData|flagSparse))
}

// CreateWarp makes an empty layer of turboOCI of two empty files.
func CreateWarp(meta, index File, i Info) (*Writable, error) {
	w := &Writable{kind: kindWarp, data: meta, index: index, info: i, indexEnd: HeaderSize}
	return opened(w, w.create(0))
}

// create writes the headers. Flags are those of the data file's, 0 for none.
func (w *Writable) create(flags uint32) error {
	if w.info.VirtualSize < 0 || w.info.VirtualSize > maxSize {
		return fmt.Errorf("create layer: disk of %d bytes: out of range", w.info.VirtualSize)
	}
	if flags != 0 {
		s := slot{Info: w.info, flags: flags}
		if _, err := w.data.WriteAt(s.appendTo(nil), 0); err != nil {
			return fmt.Errorf("create layer: %w", err)
		}
	}
	if w.index == nil {
		return nil
	}
	s := slot{Info: w.info, flags: flagHeader, indexOffset: HeaderSize}
	if _, err := w.index.WriteAt(s.appendTo(nil), 0); err != nil {
		return fmt.Errorf("create layer: %w", err)
	}
	return nil
}

// OpenAppendOnly opens what [CreateAppendOnly] made.
func OpenAppendOnly(data, index File) (*Writable, error) {
	w := &Writable{kind: kindAppend, data: data, index: index}
	if err := w.readHeader(data, flagHeader|flagData|flagSealed|flagSparse, flagHeader|flagData); err != nil {
		return nil, err
	}
	size, err := sizeOf(data)
	if err != nil {
		return nil, err
	}
	// A write that was cut off may have left a part of a sector.
	w.end = (size + SectorSize - 1) / SectorSize
	return opened(w, w.replay(size/SectorSize))
}

// OpenSparse opens what [CreateSparse] made. The layer's segments are what is no hole of the file.
func OpenSparse(data File) (*Writable, error) {
	w := &Writable{kind: kindSparse, data: data}
	if err := w.readHeader(data, flagHeader|flagData|flagSealed|flagSparse, flagHeader|flagData|flagSparse); err != nil {
		return nil, err
	}
	size, err := sizeOf(data)
	if err != nil {
		return nil, err
	}
	if w.info.VirtualSize > 0 {
		size = min(size, HeaderSize+w.info.VirtualSize)
	}
	err = dataRuns(data, HeaderSize, size/SectorSize*SectorSize, func(begin, end int64) {
		begin, end = begin/SectorSize, (end+SectorSize-1)/SectorSize
		w.live.put(Segment{Offset: begin - firstSector, Length: end - begin, Source: begin})
	})
	return opened(w, err)
}

// OpenWarp opens what [CreateWarp] made.
func OpenWarp(meta, index File) (*Writable, error) {
	w := &Writable{kind: kindWarp, data: meta, index: index}
	return opened(w, w.replay(0))
}

func opened(w *Writable, err error) (*Writable, error) {
	if err != nil {
		return nil, err
	}
	return w, nil
}

func sizeOf(f File) (int64, error) {
	i, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("open layer: %w", err)
	}
	return i.Size(), nil
}

func (w *Writable) readHeader(f File, mask, want uint32) error {
	p := make([]byte, HeaderSize)
	if err := readFull(f, p, 0); err != nil {
		return fmt.Errorf("open layer: %w", err)
	}
	s, err := parseSlot(p, mask, want)
	if err != nil {
		return fmt.Errorf("open layer: %w", err)
	}
	w.info = s.Info
	return nil
}

// replay reads the index file. Data of a layer that appends ends at a sector.
func (w *Writable) replay(data int64) error {
	if err := w.readHeader(w.index, flagHeader|flagData, flagHeader); err != nil {
		return err
	}
	size, err := sizeOf(w.index)
	if err != nil {
		return err
	}
	// What is less than an entry is of a write that was cut off.
	n := (size - HeaderSize) / entrySize
	if n > maxWritable {
		return fmt.Errorf("open layer: index of %d entries, the limit is %d: %w", n, maxWritable, blob.ErrUnsupported)
	}
	w.indexEnd = HeaderSize + n*entrySize
	// Overlaybd's tools add the number of layers below to the tags, which is known by the smallest one where tags matter.
	smallest := uint8(1<<8 - 1)
	if w.kind == kindWarp {
		if err := w.entries(func(_ int64, s Segment) error { smallest = min(smallest, s.Tag); return nil }); err != nil {
			return err
		}
	}
	return w.entries(func(i int64, s Segment) error {
		s.Tag -= smallest
		if w.kind == kindAppend {
			s.Tag = TagData
		}
		if err := w.check(s, data); err != nil {
			return fmt.Errorf("open layer: entry %d: %w", i, err)
		}
		w.live.put(s)
		return nil
	})
}

// entries calls fn with the entries of the index file and their numbers.
func (w *Writable) entries(fn func(i int64, s Segment) error) error {
	buf := make([]byte, min(w.indexEnd-HeaderSize, copySize))
	for at := int64(HeaderSize); at < w.indexEnd; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), w.indexEnd-at)]
		if err := readFull(w.index, buf, at); err != nil {
			return fmt.Errorf("open layer: index: %w", err)
		}
		for i := 0; i < len(buf); i += entrySize {
			s := segmentOf(binary.LittleEndian.Uint64(buf[i:]), binary.LittleEndian.Uint64(buf[i+8:]))
			if s.Offset == offsetMask { // padding
				continue
			}
			if err := fn((at+int64(i)-HeaderSize)/entrySize, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// check reports what is wrong with an entry of the index file.
func (w *Writable) check(s Segment, data int64) error {
	if w.kind == kindAppend {
		return s.check(data, true)
	}
	if s.Length == 0 || s.Tag > TagRemote || !s.Zero && s.Tag == TagData && s.Source != s.Offset || s.Source > maxSource-s.Length {
		return fmt.Errorf("%d sectors at %d, from %d, tag %d: %w", s.Length, s.Offset, s.Source, s.Tag, blob.ErrCorrupt)
	}
	return nil
}

// Info returns what the header says.
func (w *Writable) Info() Info {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.info
}

// checkRange checks a range of the disk for writing.
func (w *Writable) checkRange(off, n int64) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	size := w.info.VirtualSize
	if size == 0 {
		size = maxSize
	}
	switch {
	case w.sealed:
		return fmt.Errorf("%d bytes at %d: %w", n, off, ErrSealed)
	case off%SectorSize != 0 || n%SectorSize != 0:
		return fmt.Errorf("%d bytes at %d: not whole sectors", n, off)
	case off < 0 || n < 0 || off > size || n > size-off:
		return fmt.Errorf("%d bytes at %d of a disk of %d", n, off, size)
	}
	return nil
}

// WriteAt implements [io.WriterAt] with whole sectors. The data is written before the index that makes it visible.
func (w *Writable) WriteAt(p []byte, off int64) (int, error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.checkRange(off, int64(len(p))); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	s := Segment{Offset: off / SectorSize, Length: int64(len(p)) / SectorSize}
	switch w.kind {
	case kindAppend:
		s.Source = w.end
	case kindSparse:
		s.Source = firstSector + s.Offset
	case kindWarp:
		s.Source = s.Offset
	}
	if _, err := w.data.WriteAt(p, s.Source*SectorSize); err != nil {
		return 0, fmt.Errorf("write %d bytes at %d: %w", len(p), off, err)
	}
	if w.kind == kindAppend {
		w.end += s.Length
	}
	if err := w.add(s); err != nil {
		return 0, fmt.Errorf("write %d bytes at %d: %w", len(p), off, err)
	}
	return len(p), nil
}

// Discard makes whole sectors zeros. In a sparse layer that hides the layers below until it is opened anew only: its file has no
// place for it.
func (w *Writable) Discard(off, n int64) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.checkRange(off, n); err != nil {
		return fmt.Errorf("discard: %w", err)
	}
	if n == 0 {
		return nil
	}
	if w.kind == kindSparse {
		if err := discard(w.data, HeaderSize+off, n); err != nil {
			return fmt.Errorf("discard %d bytes at %d: %w", n, off, err)
		}
	}
	if err := w.add(Segment{Offset: off / SectorSize, Length: n / SectorSize, Source: max(w.end, firstSector), Zero: true}); err != nil {
		return fmt.Errorf("discard %d bytes at %d: %w", n, off, err)
	}
	return nil
}

// MapRemote says that whole sectors of a layer of turboOCI lie in the object that it refers to, from a byte on.
func (w *Writable) MapRemote(off, n, source int64) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.checkRange(off, n); err != nil {
		return fmt.Errorf("map: %w", err)
	}
	if w.kind != kindWarp || source < 0 || source%SectorSize != 0 {
		return fmt.Errorf("map %d bytes at %d to %d: only whole sectors of layers of turboOCI", n, off, source)
	}
	if err := w.add(Segment{Offset: off / SectorSize, Length: n / SectorSize, Source: source / SectorSize, Tag: TagRemote}); err != nil {
		return fmt.Errorf("map %d bytes at %d: %w", n, off, err)
	}
	return nil
}

// add makes a segment visible.
func (w *Writable) add(s Segment) error {
	if s.Length == 0 {
		return nil
	}
	if w.index != nil {
		var p []byte
		for rest := s; rest.Length > 0; {
			piece := rest
			piece.Length = min(rest.Length, MaxLength)
			p = piece.appendTo(p)
			rest.Offset, rest.Length = rest.Offset+piece.Length, rest.Length-piece.Length
			if !s.Zero {
				rest.Source += piece.Length
			}
		}
		if _, err := w.index.WriteAt(p, w.indexEnd); err != nil {
			return fmt.Errorf("index: %w", err)
		}
		w.indexEnd += int64(len(p))
	}
	w.mu.Lock()
	w.live.put(s)
	w.mu.Unlock()
	return nil
}

// ReadAt implements [io.ReaderAt], with any alignment. What lies in the object that a layer of turboOCI refers to cannot be read.
func (w *Writable) ReadAt(p []byte, off int64) (int, error) {
	size := w.Info().VirtualSize
	if size == 0 {
		size = maxSize
	}
	if off < 0 {
		return 0, fmt.Errorf("read at %d: negative offset", off)
	}
	if off >= size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > size-off {
		p, short = p[:size-off], io.EOF
	}
	begin := off / SectorSize
	var segs []Segment
	w.mu.RLock()
	w.live.visit(begin, (off+int64(len(p))+SectorSize-1)/SectorSize-begin, func(s Segment) bool { segs = append(segs, s); return true })
	w.mu.RUnlock()
	at := off
	for _, s := range segs {
		from, to := max(s.Offset*SectorSize, off), min(s.End()*SectorSize, off+int64(len(p)))
		if err := w.readLower(p[at-off:from-off], at); err != nil {
			return int(at - off), err
		}
		if err := w.readSegment(p[from-off:to-off], from, s); err != nil {
			return int(from - off), err
		}
		at = to
	}
	if err := w.readLower(p[at-off:], at); err != nil {
		return int(at - off), err
	}
	return len(p), short
}

func (w *Writable) readSegment(p []byte, at int64, s Segment) error {
	switch {
	case s.Zero:
		clear(p)
		return nil
	case s.Tag == TagRemote:
		return fmt.Errorf("read %d bytes at %d, which lie in another object: %w", len(p), at, blob.ErrUnsupported)
	}
	return readFull(w.data, p, s.Source*SectorSize+at-s.Offset*SectorSize)
}

// readLower reads what the layer has nothing of. The layers below may be of a smaller disk.
func (w *Writable) readLower(p []byte, at int64) error {
	if len(p) == 0 {
		return nil
	}
	n := 0
	if w.Lower != nil {
		var err error
		if n, err = w.Lower.ReadAt(p, at); n < len(p) && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %d bytes at %d below: %w", len(p), at, err)
		}
	}
	clear(p[n:])
	return nil
}

// Segments returns the segments as they are now, normalised. Sources are in the layer's data file.
func (w *Writable) Segments() ([]Segment, error) {
	w.mu.RLock()
	segs := w.live.all()
	w.mu.RUnlock()
	return Normalize(segs)
}

// Resize changes the size of the disk.
func (w *Writable) Resize(size int64) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.checkRange(0, 0); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	if size < 0 || size > maxSize {
		return fmt.Errorf("resize: disk of %d bytes: out of range", size)
	}
	edit := func(i *Info) { i.VirtualSize = size }
	if w.kind == kindSparse {
		if err := w.data.Truncate(HeaderSize + size); err != nil {
			return fmt.Errorf("resize: %w", err)
		}
	}
	if w.kind != kindWarp {
		if err := rewriteSlot(w.data, 0, edit); err != nil {
			return fmt.Errorf("resize: %w", err)
		}
	}
	if w.index != nil {
		if err := rewriteSlot(w.index, 0, edit); err != nil {
			return fmt.Errorf("resize: %w", err)
		}
	}
	w.mu.Lock()
	w.info.VirtualSize = size
	w.mu.Unlock()
	return nil
}

// Seal appends the index and a trailer to the data file, which is then a layer for [Parse], and returns its size. The index file is not needed
// any more. Layers of turboOCI cannot be sealed, but committed.
func (w *Writable) Seal() (int64, error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.checkRange(0, 0); err != nil {
		return 0, fmt.Errorf("seal: %w", err)
	}
	if w.kind == kindWarp {
		return 0, fmt.Errorf("seal a layer of turboOCI: %w", blob.ErrUnsupported)
	}
	segs, err := w.Segments()
	if err != nil {
		return 0, fmt.Errorf("seal: %w", err)
	}
	if len(segs) > MaxEntries {
		return 0, fmt.Errorf("seal: %d segments, readers take %d: %w", len(segs), MaxEntries, blob.ErrUnsupported)
	}
	size, err := sizeOf(w.data)
	if err != nil {
		return 0, err
	}
	at := (size + SectorSize - 1) / SectorSize * SectorSize
	tail := AppendTail(nil, w.Info(), at, segs, true)
	if _, err := w.data.WriteAt(tail, at); err != nil {
		return 0, fmt.Errorf("seal: %w", err)
	}
	w.mu.Lock()
	w.sealed = true
	w.mu.Unlock()
	return at + int64(len(tail)), nil
}

// Commit copies the layer's data to a new layer and returns its segments, normalised. Zeros become segments without data, and
// what lies in another object stays there. The layer must not be written meanwhile.
func (w *Writable) Commit(ctx context.Context, to Payload) ([]Segment, error) {
	segs, err := w.Segments()
	if err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	c := copier{ctx: ctx, w: to, zeros: true, buf: make([]byte, copySize)}
	for _, s := range segs {
		switch {
		case s.Zero:
			c.zero(s.Offset, s.Length)
		case s.Tag == TagRemote:
			c.segs = append(c.segs, s)
		default:
			if err := c.copy(s, func(p []byte, source int64) error { return readFull(w.data, p, source) }); err != nil {
				return nil, fmt.Errorf("commit: %w", err)
			}
		}
	}
	return Normalize(c.segs)
}
