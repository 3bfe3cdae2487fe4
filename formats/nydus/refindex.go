package nydus

import (
	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// refChunk is where a chunk lies in its layer.
type refChunk struct {
	context uint32
	offset  uint32     // in the context's plain bytes
	stored  blob.Range // what was read of the layer while the chunk was
}

// zranIndex chooses the contexts of a gzip stream, by the rules of nydus-image 2.4 ("targz-ref"), so that its indexes and
// ours are the same: a context begins at a checkpoint before the chunk for which it is made, and reaches to the end of
// the last chunk that belongs to it. Contexts overlap.
type zranIndex struct {
	stream    *flate.Reader
	chunkSize int64
	spacing   int64

	contexts []zranContext
	settled  int      // of contexts
	chunk    refChunk // that has been begun
}

// zranContext is a context. Its checkpoint has a window of 32 KiB, and is kept only until it is known what of it is referred to.
type zranContext struct {
	from   nydusblob.Context // Stored.Len and Plain.Len come with its last chunk
	place  *flate.Checkpoint // nil once window is known
	window nydusblob.Window
}

// settle takes what is referred to of the window.
func (c *zranContext) settle() {
	if c.place != nil {
		c.window = nydusblob.PackWindow(c.place.Sparse())
		c.place = nil
	}
}

// begin begins a chunk at an offset of the stream.
func (x *zranIndex) begin(at int64) {
	in := x.stream.StoredAt(at)
	if x.wantsContext(in, at) {
		from := x.checkpoint(at)
		if from.Plain == at {
			in = max(in, from.Stored)
		}
		for ; x.settled < len(x.contexts) && x.contexts[x.settled].place.Complete(); x.settled++ {
			x.contexts[x.settled].settle()
		}
		x.contexts = append(x.contexts, zranContext{place: from, from: nydusblob.Context{Stored: blob.Range{Off: from.Stored},
			Plain: blob.Range{Off: from.Plain}, Start: flate.Start{Byte: from.Byte, Bits: from.Bits}}})
	}
	last := len(x.contexts) - 1
	x.chunk = refChunk{context: uint32(last), offset: uint32(at - x.contexts[last].from.Plain.Off), stored: blob.Range{Off: in}}
}

// wantsContext reports whether a chunk that begins where in bytes of the layer have been read, and at of its tar, gets a new
// context from the latest checkpoint.
func (x *zranIndex) wantsContext(in, at int64) bool {
	if len(x.contexts) == 0 {
		return true
	}
	c := &x.contexts[len(x.contexts)-1].from
	stored, plain := in-c.Stored.Off, at-c.Plain.Off
	// Where much lies between that nobody wants, it is not read for the next chunk.
	gap := stored > 2*c.Stored.Len && c.Stored.Len > x.spacing/2
	if stored < x.spacing/2 && plain+x.chunkSize < 2*x.spacing && !gap {
		return false
	}
	latest, _ := x.stream.BoundaryAt(at)
	return latest != c.Stored.Off
}

// checkpoint returns the latest checkpoint before a chunk that begins at an offset. Between two gzip members it is the one behind
// the header, where decoding can begin, and not the one before the trailer, where zlib stops.
func (x *zranIndex) checkpoint(at int64) *flate.Checkpoint {
	from := x.stream.CheckpointAt(at)
	if !from.Final {
		return from
	}
	for _, c := range x.stream.AppendCheckpoints(nil) {
		if c.Plain == at && !c.Final {
			return c
		}
	}
	return from
}

// end ends the chunk at an offset of the stream.
func (x *zranIndex) end(at int64) refChunk {
	in := x.stream.StoredAt(at)
	c := &x.contexts[len(x.contexts)-1].from
	c.Stored.Len, c.Plain.Len = in-c.Stored.Off, at-c.Plain.Off
	x.chunk.stored.Len = in - x.chunk.stored.Off
	return x.chunk
}

// tooLarge reports whether the last context is more than readers take, because a block of the stream is.
func (x *zranIndex) tooLarge() bool {
	c := &x.contexts[len(x.contexts)-1].from
	return max(c.Stored.Len, c.Plain.Len) > nydusblob.MaxContext
}

// appendContexts adds the contexts to a table. Of their windows, only what is referred to is kept; the rest is zeros.
func (x *zranIndex) appendContexts(t *nydusblob.Table) {
	for i := range x.contexts {
		c := &x.contexts[i]
		c.settle()
		t.AppendContext(&c.from, c.window)
	}
}
