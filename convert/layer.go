package convert

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
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

// layerJob is one layer of one image.
type layerJob struct {
	c       *conversion
	image   *sourceImage
	layers  *imageLayers
	index   int
	desc    ocispec.Descriptor
	diffID  digest.Digest
	outputs []int // numbers of the outputs that need the layer converted
	keep    []int // numbers of those whose targets need the layer as it is
}

// run converts the layer for its outputs with one download and one inflation.
func (j *layerJob) run(ctx context.Context) error {
	err := j.attempt(ctx, false)
	if errors.Is(err, formats.ErrAgain) {
		err = j.attempt(ctx, true)
	}
	if err != nil {
		return fmt.Errorf("layer %d (%s): %w", j.index, j.desc.Digest, err)
	}
	return nil
}

func (j *layerJob) attempt(ctx context.Context, again bool) (err error) {
	stored, err := j.c.src.Fetch(ctx, j.desc)
	if err != nil {
		return err
	}
	defer stored.Close() // what matters of it was read to its end
	begin := time.Now()
	kept := j.beginKeeping(ctx)
	defer func() { err = kept.end(err) }()
	counted := &countingReader{r: kept.tee(stored), step: func(n int64) { j.progress(Converting, n) }}
	plain, err := flate.NewTracingReader(counted, j.trace())
	if err != nil {
		return err
	}
	defer plain.Close() // frees memory only
	hashed := newHashedPieces(plain, j.diffID.Algorithm().Hash(), j.storesContent())
	defer hashed.close()

	writers := make([]treeWriter, 0, len(j.outputs))
	defer func() {
		for _, w := range writers {
			w.Abort()
		}
	}()
	for _, o := range j.outputs {
		src := formats.LayerSource{
			Desc: j.desc, Index: j.index, Stream: plain, Again: again, Chains: j.layers.chains[: j.index+1 : j.index+1], Below: j.layers.below(o, j.index), Ready: j.layers.ready[o][j.index].give,
			Spool: func() (formats.Spool, error) { return formats.NewSpool(j.c.opt.TempDir) },
		}
		w, err := j.c.outputs[o].Writer.Layer(ctx, src, j.c.outputs[o].Target)
		if err != nil {
			return err
		}
		writers = append(writers, treeWriter{w, tarfs.NewBuilder()})
	}
	for _, w := range writers {
		if f, ok := w.LayerWriter.(formats.Follower); ok {
			hashed.followers = append(hashed.followers, f)
		}
	}
	if err := feed(ctx, tarfs.NewReader(hashed), writers); err != nil {
		return err
	}
	if got := digest.NewDigest(j.diffID.Algorithm(), hashed.sum()); hashed.wanted && got != j.diffID {
		return fmt.Errorf("uncompressed bytes have digest %s, the config says %s: %w", got, j.diffID, blob.ErrDigest)
	}
	produced := time.Since(begin)
	made := make([]formats.Layer, len(writers))
	for i, w := range writers {
		if made[i], err = w.Close(w.builder.Tree()); err != nil {
			return err
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
	for i, o := range j.outputs {
		j.c.remember(ctx, o, j.layers.key(o, j.index), made[i].Desc)
		j.layers.set(o, j.index, made[i], reuse{})
	}
	j.progress(Converted, j.desc.Size)
	return nil
}

// storesContent reports whether an output is of a format that stores content anew, and so needs the diff ID to be right. The others
// keep the layer as it is, whose own digest is verified, also where they convert it beside that.
func (j *layerJob) storesContent() bool {
	return slices.ContainsFunc(j.outputs, func(o int) bool { return !keepsLayers(j.c.outputs[o]) })
}

// trace returns what the writers want to know of the stream.
func (j *layerJob) trace() flate.Trace {
	var t flate.Trace
	for _, o := range j.outputs {
		if w, ok := j.c.outputs[o].Writer.(formats.Tracer); ok {
			t |= w.Trace()
		}
	}
	return t
}

func (j *layerJob) progress(s State, done int64) {
	if f := j.c.opt.OnProgress; f != nil {
		f(Progress{
			Platform: j.image.platform, Layer: j.index, Layers: len(j.image.src.Manifest.Layers), State: s, Done: done, Total: j.desc.Size,
		})
	}
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
