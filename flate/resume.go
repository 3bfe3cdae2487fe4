package flate

import (
	"fmt"
	"io"
	"sync"

	"github.com/lazuli-project/lazuli/blob"
)

// Start is what decoding needs to go on at a [Checkpoint].
type Start struct {
	// Bits high bits of Byte, the stored byte before the first one given, come first: 0 to 7.
	Bits, Byte uint8
	// Window has the plain bytes before the checkpoint. Of more than 32 KiB, the last are used.
	Window []byte
}

// Resumer decodes parts of gzip streams from checkpoints on. It is for concurrent use, and keeps its decoders, of
// 0.6 MB each, as long as the garbage collector lets it.
type Resumer struct {
	decoders sync.Pool // of *resumed
}

// NewResumer returns a Resumer.
func NewResumer() *Resumer { return &Resumer{} }

// resumed is a decoder for a part of a stream.
type resumed struct {
	src  part
	gzip *gzipReader
}

// Decode decodes exactly len(plain) bytes from stored, which begins at a checkpoint that is not final. Where a gzip member
// ends, its trailer is passed over, since its checksum is of bytes that are not seen, and what follows must be a
// member's header. What stored has behind the bytes that are needed does not matter. Damage, and too few stored
// bytes, are errors that wrap [blob.ErrCorrupt]; then plain has what could be decoded. Nothing is allocated but decoders.
func (r *Resumer) Decode(plain, stored []byte, from Start) error {
	if from.Bits > 7 {
		return fmt.Errorf("resume with %d bits of a byte: %w", from.Bits, blob.ErrCorrupt)
	}
	d, ok := r.decoders.Get().(*resumed)
	if !ok {
		d = &resumed{}
		d.gzip = newGzipReader(newInput(&d.src))
		d.gzip.d.exact = true
	}
	defer r.decoders.Put(d)
	d.src = stored
	n, err := d.decode(plain, from)
	d.src = nil // the pool holds nothing of the caller's
	if err != nil {
		return fmt.Errorf("resume: after %d of %d bytes: %w", n, len(plain), err)
	}
	return nil
}

func (r *resumed) decode(plain []byte, from Start) (n int, err error) {
	d := r.gzip.d
	d.resume(from)
	for n < len(plain) {
		if d.state == stateEnd {
			var trailer [8]byte
			unused := uint32(0)
			if err := r.gzip.bytes(trailer[:], &unused); err != nil {
				return n, err
			}
			if err := r.gzip.header(); err != nil {
				return n, err
			}
		}
		p, err := d.decode(len(plain) - n)
		n += copy(plain[n:], p)
		if err != nil && n < len(plain) {
			return n, err
		}
	}
	return n, nil
}

// resume begins at a checkpoint, with the source's first byte.
func (d *inflater) resume(from Start) {
	d.in.pos, d.in.end, d.in.off, d.in.err = 0, 0, 0, nil
	d.pos = copy(d.win[:], from.Window[max(0, len(from.Window)-historySize):])
	d.reset()
	d.low = 0
	d.bits, d.nbits = uint64(from.Byte)>>(8-from.Bits), uint(from.Bits)
}

// part reads from memory, in steps that are small enough not to copy much more than what is decoded.
type part []byte

const partStep = 16 << 10

func (p *part) Read(to []byte) (int, error) {
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(to, (*p)[:min(len(*p), partStep)])
	*p = (*p)[n:]
	return n, nil
}
