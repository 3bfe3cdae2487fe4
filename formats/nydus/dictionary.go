package nydus

import (
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
)

// Dictionary finds chunks of blobs that exist, by their digests. It may be used concurrently. It takes about 60 bytes of memory
// for a chunk.
type Dictionary struct {
	blobs  []rafs6.Blob
	chunks map[[nydusblob.DigestSize]byte]uint32 // in the form of chunker.refs
}

// NewDictionary makes a dictionary of all chunks of the blobs whose digests are known. Of equal ones the first counts.
func NewDictionary(blobs []rafs6.Blob) (*Dictionary, error) {
	if len(blobs) > rafs6.MaxBlobs {
		return nil, fmt.Errorf("chunk dictionary of %d blobs, at most %d: %w", len(blobs), rafs6.MaxBlobs, blob.ErrUnsupported)
	}
	d := &Dictionary{blobs: blobs, chunks: make(map[[nydusblob.DigestSize]byte]uint32)}
	for i := range blobs {
		b := &blobs[i]
		for k := range b.Table.Len() {
			sum := b.Digests.Sum(k)
			if sum == nil {
				continue
			}
			key := [nydusblob.DigestSize]byte(sum)
			if _, ok := d.chunks[key]; !ok {
				d.chunks[key] = uint32(i+1)<<refBlobShift | uint32(k)
			}
		}
	}
	return d, nil
}

// find returns the reference to a chunk of size bytes.
func (d *Dictionary) find(sum *[nydusblob.DigestSize]byte, size int64) (uint32, bool) {
	if d == nil {
		return 0, false
	}
	ref, ok := d.chunks[*sum]
	if !ok || d.blobs[ref>>refBlobShift-1].Table.Entry(int(ref&refIndexMask)).Plain.Len != size {
		return 0, false
	}
	return ref, true
}

// fits checks that chunks of the dictionary may stand in files of a layer.
func (d *Dictionary) fits(s *settings) error {
	if d == nil {
		return nil
	}
	for i := range d.blobs {
		info := &d.blobs[i].Info
		if int(info.ChunkSize) != s.chunkSize || info.Digester != s.digester {
			return fmt.Errorf("blob %.64q has chunks of %d bytes and digest %s, not %d and %s: %w",
				info.ID, info.ChunkSize, info.Digester, s.chunkSize, s.digester, blob.ErrUnsupported)
		}
	}
	return nil
}
