package convert

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tarfs"
)

// Stages of a layer's conversion, beside those of the writers, as they stand in figures.
const (
	stageRead    = "read"    // waiting for the source, and verifying the stored bytes
	stageInflate = "inflate" // without stageRead
	stageDiffID  = "diff_id" // digest of the inflated bytes
	stageParse   = "parse"   // tar, tree, and handing bytes to the writers, with waiting for them
)

// progressStep is how many stored bytes pass between two calls of OnProgress.
const progressStep = 256 << 10

// layerReading reads one layer once, for any number of writers.
type layerReading struct {
	stored     io.Reader // ends with an error where it is not what it should be
	trace      flate.Trace
	algorithm  digest.Algorithm // of the diff ID
	wantDiffID bool
	step       func(n int64) // progress in stored bytes
	// open begins the writers. Those that it returns beside an error are aborted.
	open func(stream *flate.Reader) ([]formats.LayerWriter, error)
}

// run inflates the layer and gives it to the writers. Before these are closed, check gets the diff ID, or "" where it is not wanted.
func (r *layerReading) run(ctx context.Context, check func(diffID digest.Digest) error) ([]formats.Layer, error) {
	begin := time.Now()
	counted := &countingReader{r: r.stored, step: r.step}
	plain, err := flate.NewTracingReader(counted, r.trace)
	if err != nil {
		return nil, err
	}
	defer plain.Close() // frees memory only
	hashed := newHashedPieces(plain, r.algorithm.Hash(), r.wantDiffID)
	defer hashed.close()
	opened, err := r.open(plain)
	defer func() {
		for _, w := range opened {
			w.Abort()
		}
	}()
	if err != nil {
		return nil, err
	}
	writers := make([]treeWriter, 0, len(opened))
	for _, w := range opened {
		writers = append(writers, treeWriter{w, tarfs.NewBuilder()})
		if f, ok := w.(formats.Follower); ok {
			hashed.followers = append(hashed.followers, f)
		}
	}
	if err := feed(ctx, tarfs.NewReader(hashed), writers); err != nil {
		return nil, err
	}
	var diffID digest.Digest
	if r.wantDiffID {
		diffID = digest.NewDigest(r.algorithm, hashed.sum())
	}
	if err := check(diffID); err != nil {
		return nil, err
	}
	produced := time.Since(begin)
	made := make([]formats.Layer, len(writers))
	for i, w := range writers {
		if made[i], err = w.Close(w.builder.Tree()); err != nil {
			return nil, err
		}
		stage := made[i].Stats.CPU
		if stage == nil {
			stage = make(map[string]float64)
			made[i].Stats.CPU = stage
		}
		stage[stageRead] = counted.waited.Seconds()
		stage[stageInflate] = (hashed.inflating - counted.waited).Seconds()
		stage[stageDiffID] = hashed.hashing.Seconds()
		stage[stageParse] = (produced - hashed.inflating - hashed.waiting).Seconds()
	}
	return made, nil
}

// traceOf returns what a writer wants to know of the stream.
func traceOf(w formats.Writer) flate.Trace {
	if t, ok := w.(formats.Tracer); ok {
		return t.Trace()
	}
	return 0
}

// treeWriter is a writer with a tree of its own: writers set the extents of their tree's nodes.
type treeWriter struct {
	formats.LayerWriter
	builder *tarfs.Builder
}

// feed reads a whole layer and gives it to every writer.
func feed(ctx context.Context, r *tarfs.Reader, writers []treeWriter) error {
	for n := 0; ; n++ {
		if n&1023 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, w := range writers {
			node, err := w.builder.Add(e)
			if err != nil {
				return err
			}
			if err := w.Entry(e, node); err != nil {
				return fmt.Errorf("entry %d (%q): %w", e.Index, e.Name, err)
			}
		}
		for e.Size > 0 {
			p, err := r.Data()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			for _, w := range writers {
				if err := w.Data(p); err != nil {
					return fmt.Errorf("entry %d (%q): %w", e.Index, e.Name, err)
				}
			}
		}
	}
}

// hashedPieces hands on the inflated pieces and takes their digest, in a goroutine of its own, while they are used. It is the
// reader of a tar.
type hashedPieces struct {
	r       *flate.Reader
	h       hash.Hash
	wanted  bool
	pieces  chan []byte
	hashed  chan struct{} // gets one for each piece
	pending bool          // a piece has not been hashed yet

	followers []formats.Follower

	inflating time.Duration // with reading
	hashing   time.Duration
	waiting   time.Duration // for hashing
}

// newHashedPieces hashes only where it is wanted.
func newHashedPieces(r *flate.Reader, h hash.Hash, wanted bool) *hashedPieces {
	p := &hashedPieces{r: r, h: h, wanted: wanted, pieces: make(chan []byte), hashed: make(chan struct{})}
	go func() {
		for piece := range p.pieces {
			t := time.Now()
			p.h.Write(piece)
			p.hashing += time.Since(t)
			p.hashed <- struct{}{}
		}
	}()
	return p
}

// wait waits until what was handed out has been hashed.
func (p *hashedPieces) wait() {
	if p.pending {
		t := time.Now()
		<-p.hashed
		p.pending = false
		p.waiting += time.Since(t)
	}
}

// sum returns the hash of all pieces.
func (p *hashedPieces) sum() hash.Hash {
	p.wait()
	return p.h
}

// close ends the goroutine.
func (p *hashedPieces) close() {
	p.wait()
	close(p.pieces)
}

// Next implements [tarfs.Pieces].
func (p *hashedPieces) Next() ([]byte, error) {
	p.wait() // the next piece overwrites the last one
	t := time.Now()
	piece, err := p.r.Next()
	p.inflating += time.Since(t)
	if len(piece) > 0 && p.wanted {
		p.pieces <- piece
		p.pending = true
	}
	if err != nil {
		return piece, err
	}
	for _, f := range p.followers {
		if err := f.Follow(piece); err != nil {
			return nil, err
		}
	}
	return piece, nil
}

// Read is not used: package tarfs takes pieces.
func (p *hashedPieces) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// countingReader counts and times reads of the source.
type countingReader struct {
	r      io.Reader
	n      int64
	told   int64
	step   func(n int64)
	waited time.Duration
}

func (c *countingReader) Read(p []byte) (int, error) {
	t := time.Now()
	n, err := c.r.Read(p)
	c.waited += time.Since(t)
	c.n += int64(n)
	if c.n-c.told >= progressStep {
		c.told = c.n
		c.step(c.n)
	}
	return n, err
}
