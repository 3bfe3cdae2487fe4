package rafs6

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// maxUnknown bounds how many chunks of all blobs together may be missing in the chunk table for [Bootstrap.KnownBlobs], as their
// number is only what the bootstrap says.
const maxUnknown = 1 << 22

// knownChunk is a chunk that the chunk table has.
type knownChunk struct {
	index uint32
	nydusblob.Entry
}

// KnownBlobs returns what the bootstrap's own chunk table says about its blobs, without reading them: enough to make other
// bootstraps that use the same chunks. A chunk that the table does not have, as no file needs it, stands there without digest,
// and its place is made up. Every chunk of a file must be in the table. It takes about 60 bytes of memory for a chunk.
func (b *Bootstrap) KnownBlobs() ([]Blob, error) {
	if b.Flags&FlagTarfs != 0 {
		return nil, unsupported("chunk tables of tars, which have none")
	}
	total := -len(b.chunks) / chunkSize
	for i := range b.Blobs {
		total += int(b.Blobs[i].ChunkCount)
	}
	if total > maxUnknown {
		return nil, fmt.Errorf("%d chunks of the blobs are not in the chunk table, at most %d may be: %w", total, maxUnknown, blob.ErrUnsupported)
	}
	known := make([][]knownChunk, len(b.Blobs))
	le := binary.LittleEndian
	for p := b.chunks; len(p) > 0; p = p[chunkSize:] {
		i := le.Uint32(p[32:])
		known[i] = append(known[i], knownChunk{le.Uint32(p[72:]), nydusblob.Entry{
			Compressed: le.Uint32(p[36:])&chunkFlagCompressed != 0,
			Encrypted:  le.Uint32(p[36:])&chunkFlagEncrypted != 0,
			Stored:     blob.Range{Off: int64(le.Uint64(p[48:])), Len: int64(le.Uint32(p[40:]))},
			Plain:      blob.Range{Off: int64(le.Uint64(p[56:])), Len: int64(le.Uint32(p[44:]))},
		}})
	}
	blobs := make([]Blob, len(b.Blobs))
	for i := range blobs {
		slices.SortStableFunc(known[i], func(x, y knownChunk) int { return cmp.Compare(x.index, y.index) })
		table, err := knownTable(&b.Blobs[i], known[i])
		if err != nil {
			return nil, fmt.Errorf("chunk table: blob %d: %w", i, err)
		}
		blobs[i] = Blob{Info: b.Blobs[i], Table: table, Digests: b.Digests(i, table.Len())}
		for _, r := range b.refs[i] {
			if blobs[i].Digests.Sum(int(r.index)) == nil {
				return nil, corrupt("chunk table: chunk %d of blob %d, which a file has, is missing", r.index, i)
			}
		}
		if err := b.Check(i, table); err != nil {
			return nil, err
		}
	}
	return blobs, nil
}

// knownTable makes the table of a blob of chunks that are sorted by their index. Those between them are made up.
func knownTable(info *nydusblob.Info, known []knownChunk) (*nydusblob.Table, error) {
	v2 := info.Features&nydusblob.FeatureChunkInfoV2 != 0
	t := &nydusblob.Table{}
	if v2 {
		t = nydusblob.NewTableV2()
	}
	var next, stored int64
	for i := range info.ChunkCount {
		// As if it were a byte behind the chunk before, so that no two of them lie at one place.
		e := nydusblob.Entry{Plain: blob.Range{Off: next, Len: 1}, Stored: blob.Range{Off: stored, Len: 1}}
		for len(known) > 0 && known[0].index == i {
			e, known = known[0].Entry, known[1:]
		}
		if e.Plain.Off < next || e.Plain.Off%nydusblob.Align != 0 || e.Plain.Len < 1 || e.Plain.Len > int64(info.ChunkSize) || e.Plain.Off > nydusblob.MaxPlainSize-nydusblob.MaxChunkSize {
			return nil, corrupt("chunk %d with %d bytes at %d", i, e.Plain.Len, e.Plain.Off)
		}
		e.InGroup = info.Features&nydusblob.FeatureBatch != 0 && e.Stored.Len == 0
		switch n := e.Stored.Len; {
		case e.Stored.Off < 0 || e.Stored.Off > nydusblob.MaxStoredSize-nydusblob.MaxChunkSize || n > nydusblob.MaxChunkSize || v2 && n > nydusblob.MaxStoredV2 || !v2 && n == 0:
			return nil, corrupt("chunk %d stored as %d bytes at %d", i, n, e.Stored.Off)
		case v2:
			t.AppendV2(e)
		default:
			t.Append(e)
		}
		stored = e.Stored.End()
		next = (e.Plain.End() + nydusblob.Align - 1) &^ (nydusblob.Align - 1)
	}
	return t, nil
}

// JoinKnown returns what two bootstraps know of one blob, as their [Bootstrap.KnownBlobs] gave it.
func JoinKnown(x, y Blob) (Blob, error) {
	n := x.Table.Len()
	if y.Table.Len() != n {
		return Blob{}, corrupt("blob %.64q: %d chunks, and %d elsewhere", x.Info.ID, n, y.Table.Len())
	}
	var known []knownChunk
	out := Blob{Info: x.Info, Digests: nydusblob.Digests{Sums: make([]byte, n*nydusblob.DigestSize), CRC32C: make([]uint32, n)}}
	for i := range n {
		from := &x
		if x.Digests.Sum(i) == nil {
			from = &y
		}
		sum := from.Digests.Sum(i)
		if sum == nil {
			continue
		}
		known = append(known, knownChunk{uint32(i), from.Table.Entry(i)})
		copy(out.Digests.Sums[i*nydusblob.DigestSize:], sum)
		if from.Digests.CRC32C != nil {
			out.Digests.CRC32C[i] = from.Digests.CRC32C[i]
		}
	}
	var err error
	if out.Table, err = knownTable(&out.Info, known); err != nil {
		return Blob{}, fmt.Errorf("blob %.64q: %w", x.Info.ID, err)
	}
	return out, nil
}
