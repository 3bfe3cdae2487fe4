package zfile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/lazuli-project/lazuli/formats"
)

// batchSize is how many plain bytes are compressed by a goroutine at a time.
const batchSize = 256 << 10

// Options are the options of a [Writer]. The zero value is what the reference does by default.
type Options struct {
	// Algorithm of the blocks. Default LZ4.
	Algorithm Algorithm
	// BlockSize in bytes, a power of two from 4096 to 65536. Default 4096. With 65536, content that cannot be compressed
	// cannot be stored: the reference's reader has no room for it.
	BlockSize int
}

// withDefaults returns the options with defaults filled in, or what is wrong with them.
func (o Options) withDefaults() (Options, error) {
	if o.Algorithm == 0 {
		o.Algorithm = LZ4
	}
	if o.BlockSize == 0 {
		o.BlockSize = MinBlockSize
	}
	if o.Algorithm != LZ4 && o.Algorithm != Zstd {
		return o, fmt.Errorf("zfile: %s: lz4 and zstd are possible", o.Algorithm)
	}
	if o.BlockSize < MinBlockSize || o.BlockSize > MaxBlockSize || o.BlockSize&(o.BlockSize-1) != 0 {
		return o, fmt.Errorf("zfile: block size %d: powers of two from %d to %d are possible", o.BlockSize, MinBlockSize, MaxBlockSize)
	}
	return o, nil
}

// Validate says what is wrong with options.
func (o Options) Validate() error {
	_, err := o.withDefaults()
	return err
}

// Writer compresses a stream into a ZFile. What it writes depends on the stream and the options alone. It is for one goroutine; its
// own ones compress, and write in order, so that the destination sees one write at a time, maybe from different goroutines.
//
// Memory: the cores of the CPU and 2 more buffers of 256 KiB, twice that for what they become, and 4 bytes for a block.
type Writer struct {
	ctx    context.Context //nolint:containedctx // of the one file
	cancel context.CancelCauseFunc
	dst    io.Writer
	cpu    *formats.CPU
	opt    Options
	enc    *encoder

	permits chan struct{} // one for a batch
	free    sync.Pool     // of *batch
	current *batch
	before  chan struct{} // closed when all batches up to now have been written
	running sync.WaitGroup
	plain   int64

	// The following belong to the batch whose turn it is to write; to the caller when all are done.
	size  int64
	table []byte

	closed bool
	header [HeaderSize]byte
}

// batch is a run of blocks.
type batch struct {
	plain  []byte
	stored []byte
	ends   []int // of the blocks in stored
}

// NewWriter begins a ZFile on dst. Its header is one that says nothing; see [Writer.Header].
func NewWriter(ctx context.Context, dst io.Writer, cpu *formats.CPU, opt Options) (*Writer, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	enc, err := newEncoder(opt, cpu.Size())
	if err != nil {
		return nil, err
	}
	w := &Writer{dst: dst, cpu: cpu, opt: opt, enc: enc, permits: make(chan struct{}, cpu.Size()+2), before: make(chan struct{}), size: HeaderSize}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	close(w.before)
	h := w.fields()
	h.flags = flagHeader | flagData | flagDigest
	p := h.encode()
	if _, err := dst.Write(p[:]); err != nil {
		w.cancel(err)
		return nil, fmt.Errorf("zfile: write header: %w", err)
	}
	return w, nil
}

// fields returns a header with what is known from the beginning.
func (w *Writer) fields() header {
	return header{blockSize: uint32(w.opt.BlockSize), algorithm: w.opt.Algorithm, verify: true}
}

var errClosed = errors.New("zfile: write to a closed file")

// Write implements [io.Writer]. It copies p, and waits where too much is not compressed yet. An error may be of what was written
// before, and is the last thing that the writer does.
func (w *Writer) Write(p []byte) (int, error) {
	if w.closed {
		return 0, errClosed
	}
	done := 0
	for done < len(p) {
		if w.current == nil {
			if err := w.begin(); err != nil {
				return done, err
			}
		}
		b := w.current
		n := min(len(p)-done, batchSize-len(b.plain))
		b.plain = append(b.plain, p[done:done+n]...)
		done += n
		w.plain += int64(n)
		if len(b.plain) == batchSize {
			w.dispatch()
		}
	}
	return done, nil
}

// begin waits for a batch.
func (w *Writer) begin() error {
	select {
	case w.permits <- struct{}{}:
	case <-w.ctx.Done():
	}
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	b, ok := w.free.Get().(*batch)
	if !ok {
		b = &batch{plain: make([]byte, 0, batchSize)}
	}
	w.current = b
	return nil
}

// dispatch gives the current batch to a goroutine.
func (w *Writer) dispatch() {
	b, before, after := w.current, w.before, make(chan struct{})
	w.current, w.before = nil, after
	w.running.Go(func() {
		defer func() {
			b.plain = b.plain[:0]
			w.free.Put(b)
			<-w.permits
			close(after)
		}()
		if err := w.run(b, before); err != nil {
			w.cancel(err)
		}
	})
}

// run compresses a batch, and writes it when those before it have been.
func (w *Writer) run(b *batch, before <-chan struct{}) error {
	if err := w.cpu.Acquire(w.ctx); err != nil {
		<-before
		return err
	}
	err := w.enc.encode(b)
	w.cpu.Release()
	<-before
	if err != nil {
		return fmt.Errorf("zfile: at %d stored bytes: %w", w.size, err)
	}
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	if _, err := w.dst.Write(b.stored); err != nil {
		return fmt.Errorf("zfile: write %d bytes at %d: %w", len(b.stored), w.size, err)
	}
	w.size += int64(len(b.stored))
	begin := 0
	for _, end := range b.ends {
		w.table = binary.LittleEndian.AppendUint32(w.table, uint32(end-begin))
		begin = end
	}
	return nil
}

// Close ends the file: it writes what is left, the jump table and the trailer. It does not close the destination.
func (w *Writer) Close() error {
	if w.closed {
		return errClosed
	}
	w.closed = true
	if w.current != nil {
		w.dispatch()
	}
	w.running.Wait()
	defer w.cancel(errClosed)
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	h := w.fields()
	h.flags = flagData | flagSealed | flagDigest
	h.indexOffset, h.blocks, h.plain = uint64(w.size), uint64(len(w.table)/entrySize), uint64(w.plain)
	h.indexCRC = CRC(0, w.table)
	trailer := h.encode()
	w.table = append(w.table, trailer[:]...)
	if _, err := w.dst.Write(w.table); err != nil {
		return fmt.Errorf("zfile: write jump table: %w", err)
	}
	w.size += int64(len(w.table))
	w.table = nil
	h.flags = flagHeader | flagData | flagOverwritten | flagDigest
	w.header = h.encode()
	return nil
}

// Header returns, after Close, the header that says what the trailer says. Written over the one at the file's beginning, it lets
// readers find everything from there.
func (w *Writer) Header() [HeaderSize]byte { return w.header }

// Size returns the file's size after Close.
func (w *Writer) Size() int64 { return w.size }

// Abort gives the file up and waits for the writer's goroutines. It may be called after Close, and then does nothing.
func (w *Writer) Abort() {
	w.closed = true
	w.cancel(errClosed)
	w.running.Wait()
}

// encoder compresses batches, for any number of goroutines.
type encoder struct {
	opt  Options
	lz4  sync.Pool // of *lz4Encoder
	zstd *zstd.Encoder
}

func newEncoder(opt Options, n int) (*encoder, error) {
	e := &encoder{opt: opt}
	if opt.Algorithm == LZ4 {
		e.lz4.New = func() any { return newLZ4Encoder() }
		return e, nil
	}
	var err error
	e.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(n), zstd.WithEncoderCRC(false),
		zstd.WithSingleSegment(true), zstd.WithWindowSize(opt.BlockSize))
	if err != nil {
		return nil, fmt.Errorf("zfile: zstd encoder: %w", err)
	}
	return e, nil
}

// encode sets stored and ends.
func (e *encoder) encode(b *batch) error {
	b.stored, b.ends = b.stored[:0], b.ends[:0]
	var l *lz4Encoder
	if e.zstd == nil {
		l, _ = e.lz4.Get().(*lz4Encoder)
		defer e.lz4.Put(l)
	}
	if b.stored == nil {
		blocks := batchSize / e.opt.BlockSize
		b.stored, b.ends = make([]byte, 0, blocks*(lz4Bound(e.opt.BlockSize)+crcSize)), make([]int, 0, blocks)
	}
	for at := 0; at < len(b.plain); at += e.opt.BlockSize {
		p, begin := b.plain[at:min(at+e.opt.BlockSize, len(b.plain))], len(b.stored)
		if l != nil {
			b.stored = l.append(b.stored, p)
		} else {
			b.stored = e.zstd.EncodeAll(p, b.stored)
		}
		n := len(b.stored) - begin
		if n > maxStored {
			return fmt.Errorf("block of %d bytes that cannot be compressed would be stored as %d, and readers take %d: use a block size of 32768 at the most", len(p), n, maxStored)
		}
		b.stored = binary.LittleEndian.AppendUint32(b.stored, CRC(blockSeed, b.stored[begin:]))
		b.ends = append(b.ends, len(b.stored))
	}
	return nil
}

// maxStored is what the reference's reader has room for, without the checksum.
const maxStored = MaxBlockSize - crcSize
