package nydus

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
)

// Dictionary finds chunks of blobs that exist, by their digests. It may be used concurrently. It takes about 60 bytes of memory
// for a chunk.
type Dictionary struct {
	blobs []rafs6.Blob
	// objects are the blobs as they stand in the dictionary's manifest, by their ids; nil for a bare bootstrap.
	objects map[string]ocispec.Descriptor
	id      string                                // of what it has
	chunks  map[[nydusblob.DigestSize]byte]uint32 // in the form of chunker.refs
}

// NewDictionary makes a dictionary of all chunks of the blobs whose digests are known. Of equal ones the first counts.
func NewDictionary(blobs []rafs6.Blob) (*Dictionary, error) {
	if len(blobs) > rafs6.MaxBlobs {
		return nil, fmt.Errorf("chunk dictionary of %d blobs, at most %d: %w", len(blobs), rafs6.MaxBlobs, blob.ErrUnsupported)
	}
	d := &Dictionary{blobs: blobs, chunks: make(map[[nydusblob.DigestSize]byte]uint32)}
	all := sha256.New()
	for i := range blobs {
		b := &blobs[i]
		fmt.Fprintf(all, "%s %x\n", b.Info.ID, b.Digests.Sums)
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
	d.id = hex.EncodeToString(all.Sum(nil)[:8])
	return d, nil
}

// OpenDictionary makes a dictionary of an image that a [Reader] opened. m is its manifest.
func OpenDictionary(m *formats.Manifest, img *formats.Image) (*Dictionary, error) {
	blobs := make([]rafs6.Blob, len(img.Blobs))
	objects := make(map[string]ocispec.Descriptor, len(img.Blobs))
	for i, b := range img.Blobs {
		l, ok := b.Layout.(*nydusblob.Layout)
		if !ok || img.Format != Name {
			return nil, fmt.Errorf("chunk dictionary of format %q: %w", img.Format, blob.ErrUnsupported)
		}
		blobs[i] = rafs6.Blob{Info: l.Info(), Table: l.Table(), Digests: l.Digests()}
		objects[blobs[i].Info.ID] = layerDesc(b.Desc)
	}
	d, err := NewDictionary(blobs)
	if err != nil {
		return nil, err
	}
	if m != nil {
		d.objects = objects
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
