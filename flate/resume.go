package flate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/lazuli-project/lazuli/blob"
)

// Start is what decoding from a place inside of a gzip stream needs to know of what lies before it: a block of DEFLATE
// begins there.
type Start struct {
	// Bits high bits of Byte, the stored byte before the place, have not been used yet; 0 to 7.
	Bits, Byte uint8
	// Window are the plain bytes before the place, at most 32 KiB; fewer, or zeros, where nothing refers to them.
	Window []byte
}

// Resumer decodes parts of gzip streams. It may be used concurrently, and keeps the memory of its decoders, some 0.6 MB
// for each part that is decoded at the same time.
type Resumer struct{ pool sync.Pool }

// NewResumer returns a resumer.
func NewResumer() *Resumer { return &Resumer{} }

// resumed is a decoder that is used again.
type resumed struct {
	src bytes.Reader
	in  input
	d   *inflater
}

// Decode decodes the bytes from a place on into plain, all of which it sets. stored begins at that place; it may have more than is
// needed. Where a member of the stream ends, decoding goes on in the next one. Damage, and too few bytes, give an error that
// wraps [blob.ErrCorrupt].
func (r *Resumer) Decode(plain, stored []byte, from Start) error {
	if from.Bits > 7 || len(from.Window) > historySize {
		return fmt.Errorf("resume with %d bits and a window of %d bytes: %w", from.Bits, len(from.Window), blob.ErrCorrupt)
	}
	d, _ := r.pool.Get().(*resumed)
	if d == nil {
		d = &resumed{in: input{buf: new([inputMask + 1 + 8]byte)}}
		d.d = newInflater(&d.in)
	}
	defer r.pool.Put(d)
	d.src.Reset(stored)
	d.in.src, d.in.pos, d.in.end, d.in.off, d.in.err = &d.src, 0, 0, 0, nil
	d.d.begin(from)
	g := gzipReader{d: d.d, resumed: true, inside: true}
	for n := 0; n < len(plain); {
		if !g.inside {
			if err := g.begin(); err != nil {
				return resumeError(n, len(plain), err)
			}
		}
		// It decodes more than is asked for, and may come to the end of what is stored.
		p, err := d.d.next()
		if n += copy(plain[n:], p); n == len(plain) {
			return nil
		}
		if err == nil && d.d.state == stateEnd {
			err = g.trailer()
		}
		if err != nil {
			return resumeError(n, len(plain), err)
		}
	}
	return nil
}

func resumeError(n, of int, err error) error {
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	return fmt.Errorf("%d of %d bytes decoded: %w", n, of, err)
}

// begin begins in the middle of a stream.
func (d *inflater) begin(from Start) {
	d.pos = copy(d.win[:], from.Window)
	d.reset()
	d.low = 0
	d.bits, d.nbits = uint64(from.Byte)>>(8-from.Bits), uint(from.Bits)
}
