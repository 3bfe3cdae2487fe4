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
	chunk    refChunk // that has been begun
}

type zranContext struct {
	from   *flate.Checkpoint
	stored int64 // bytes
	plain  int64
}

// begin begins a chunk at an offset of the stream.
func (x *zranIndex) begin(at int64) {
	in := x.stream.StoredAt(at)
	if x.wantsContext(in, at) {
		from := x.checkpoint(at)
		if from.Plain == at {
			in = max(in, from.Stored)
		}
		x.contexts = append(x.contexts, zranContext{from: from})
	}
	last := len(x.contexts) - 1
	x.chunk = refChunk{context: uint32(last), offset: uint32(at - x.contexts[last].from.Plain), stored: blob.Range{Off: in}}
}

// wantsContext reports whether a chunk that begins where in bytes of the layer have been read, and at of its tar, gets a new
// context from the latest checkpoint.
func (x *zranIndex) wantsContext(in, at int64) bool {
	if len(x.contexts) == 0 {
		return true
	}
	c := &x.contexts[len(x.contexts)-1]
	stored, plain := in-c.from.Stored, at-c.from.Plain
	// Where much lies between that nobody wants, it is not read for the next chunk.
	gap := stored > 2*c.stored && c.stored > x.spacing/2
	if stored < x.spacing/2 && plain+x.chunkSize < 2*x.spacing && !gap {
		return false
	}
	latest, _ := x.stream.BoundaryAt(at)
	return latest != c.from.Stored
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
	c := &x.contexts[len(x.contexts)-1]
	c.stored, c.plain = in-c.from.Stored, at-c.from.Plain
	x.chunk.stored.Len = in - x.chunk.stored.Off
	return x.chunk
}

// tooLarge reports whether the last context is more than readers take, because a block of the stream is.
func (x *zranIndex) tooLarge() bool {
	c := &x.contexts[len(x.contexts)-1]
	return max(c.stored, c.plain) > nydusblob.MaxContext
}

// appendContexts adds the contexts to a table. Of their windows, only what is referred to is kept; the rest is zeros.
func (x *zranIndex) appendContexts(t *nydusblob.Table) {
	for _, c := range x.contexts {
		t.AppendContext(&nydusblob.Context{
			Stored: blob.Range{Off: c.from.Stored, Len: c.stored}, Plain: blob.Range{Off: c.from.Plain, Len: c.plain},
			Start: flate.Start{Byte: c.from.Byte, Bits: c.from.Bits, Window: c.from.Sparse()},
		})
	}
}
