package store

import (
	"context"
	"crypto/sha256"
	"crypto/sha512" // sha512 digests
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
)

var _ = sha512.Size // package digest finds the algorithm by its registration

// checkDescriptor refuses descriptors whose digest is none, which also keeps it out of paths and URLs.
func checkDescriptor(desc ocispec.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %.100q: %w: %w", desc.Digest, blob.ErrCorrupt, err)
	}
	if desc.Size < 0 {
		return fmt.Errorf("%s: size %d: %w", desc.Digest, desc.Size, blob.ErrCorrupt)
	}
	return nil
}

// verifier passes an object's bytes on and gives an error instead of EOF unless size and digest are right.
type verifier struct {
	r    io.Reader
	c    io.Closer
	desc ocispec.Descriptor
	sum  hash.Hash
	left int64
	err  error // what all further reads give
}

// verified wraps the stream of an object whose descriptor was checked. Close closes c.
func verified(r io.Reader, c io.Closer, desc ocispec.Descriptor) *verifier {
	return &verifier{r: r, c: c, desc: desc, sum: desc.Digest.Algorithm().Hash(), left: desc.Size}
}

// Verify returns the stream of an object that ends with an error instead of io.EOF unless size and digest are right. Closing it closes r.
func Verify(r io.ReadCloser, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return verified(r, r, desc), nil
}

// Read implements io.Reader.
func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	if v.left == 0 {
		v.err = v.end()
		return 0, v.err
	}
	n, err := v.r.Read(p[:min(int64(len(p)), v.left)])
	v.sum.Write(p[:n])
	v.left -= int64(n)
	switch {
	case v.left == 0:
	case errors.Is(err, io.EOF):
		v.err = fmt.Errorf("%s: %d of %d bytes are missing: %w: %w", v.desc.Digest, v.left, v.desc.Size, blob.ErrCorrupt, io.ErrUnexpectedEOF)
	case err != nil:
		v.err = err
	}
	if n > 0 {
		return n, nil
	}
	return 0, v.err
}

// end checks the whole.
func (v *verifier) end() error {
	var one [1]byte
	if n, _ := io.ReadFull(v.r, one[:]); n > 0 {
		return fmt.Errorf("%s: more than %d bytes: %w", v.desc.Digest, v.desc.Size, blob.ErrCorrupt)
	}
	if got := digest.NewDigest(v.desc.Digest.Algorithm(), v.sum); got != v.desc.Digest {
		return fmt.Errorf("%s: content has digest %s: %w", v.desc.Digest, got, blob.ErrDigest)
	}
	return io.EOF
}

// Close implements io.Closer.
func (v *verifier) Close() error { return v.c.Close() }

// checkContent verifies bytes in memory.
func checkContent(desc ocispec.Descriptor, p []byte) error {
	if err := checkDescriptor(desc); err != nil {
		return err
	}
	if int64(len(p)) != desc.Size {
		return fmt.Errorf("%s: %d bytes, expected %d: %w", desc.Digest, len(p), desc.Size, blob.ErrCorrupt)
	}
	if got := desc.Digest.Algorithm().FromBytes(p); got != desc.Digest {
		return fmt.Errorf("%s: content has digest %s: %w", desc.Digest, got, blob.ErrDigest)
	}
	return nil
}

// ReadAll fetches a whole verified object, which must not be larger than limit bytes.
func ReadAll(ctx context.Context, s formats.Sources, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	if desc.Size > limit {
		return nil, fmt.Errorf("%s: %d bytes, the limit is %d: %w", desc.Digest, desc.Size, limit, blob.ErrCorrupt)
	}
	rc, err := s.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	p := make([]byte, desc.Size)
	if _, err := io.ReadFull(rc, p); err != nil {
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	// The digest is checked where the stream ends.
	var one [1]byte
	if _, err := io.ReadFull(rc, one[:]); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	return p, nil
}

// runningSHA256 returns the sum of what a digest has seen, if that is a SHA-256.
func runningSHA256(alg digest.Algorithm, h hash.Hash) (sum [sha256.Size]byte, ok bool) {
	if alg != digest.SHA256 {
		return sum, false
	}
	h.Sum(sum[:0])
	return sum, true
}
