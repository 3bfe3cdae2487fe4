package nydus

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/lazuli-project/lazuli/blob"
)

// maxLayer bounds what a bootstrap layer holds, in bytes: the bootstrap and the chunk tables.
const maxLayer = 2 * maxBootstrap

// readBootstrapLayer reads a bootstrap layer, a tar that may be gzipped, to its end: the bootstrap, and the chunk tables
// by blob id. Memory grows with what is there, not with what headers say.
func readBootstrapLayer(r io.Reader) (boot []byte, metas map[string][]byte, err error) {
	src := &sourceReader{r: r}
	boot, metas, err = readLayer(bufio.NewReader(src))
	switch {
	case err == nil:
	case src.err != nil && !errors.Is(err, src.err):
		// The source failed, or is not what its digest says; what was read of it does not matter then.
		err = fmt.Errorf("%w: %w", src.err, err)
	case src.err == nil && !errors.Is(err, blob.ErrCorrupt):
		err = fmt.Errorf("%w: %w", blob.ErrCorrupt, err)
	}
	if err == nil && boot == nil {
		err = fmt.Errorf("no %s: %w", bootstrapFile, blob.ErrCorrupt)
	}
	return boot, metas, err
}

// sourceReader keeps the error of the source apart from those that its content gives.
type sourceReader struct {
	r   io.Reader
	err error // but io.EOF
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func readLayer(br *bufio.Reader) (boot []byte, metas map[string][]byte, err error) {
	plain := io.Reader(br)
	if m, err := br.Peek(2); err == nil && m[0] == 0x1f && m[1] == 0x8b {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, nil, fmt.Errorf("gzip: %w", err)
		}
		plain = z
	}
	limited := &io.LimitedReader{R: plain, N: maxLayer}
	if boot, metas, err = readMembers(tar.NewReader(limited)); err != nil {
		return nil, nil, err
	}
	// The layer's digest is verified at its end.
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return nil, nil, fmt.Errorf("end of the tar: %w", err)
	}
	if limited.N <= 0 {
		return nil, nil, fmt.Errorf("more than %d bytes: %w", int64(maxLayer), blob.ErrCorrupt)
	}
	if _, err := io.Copy(io.Discard, br); err != nil {
		return nil, nil, fmt.Errorf("end of the layer: %w", err)
	}
	return boot, metas, nil
}

func readMembers(t *tar.Reader) (boot []byte, metas map[string][]byte, err error) {
	metas = make(map[string][]byte)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return boot, metas, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("tar: %w", err)
		}
		name := path.Clean(h.Name)
		id, isMeta := strings.CutSuffix(path.Base(name), metaSuffix)
		isMeta = isMeta && path.Dir(name) == bootstrapDir
		if h.Typeflag != tar.TypeReg || name != bootstrapFile && !isMeta {
			continue
		}
		if h.Size > maxBootstrap {
			return nil, nil, fmt.Errorf("%s: %d bytes: %w", name, h.Size, blob.ErrCorrupt)
		}
		var b bytes.Buffer
		if h.Size <= 16<<20 {
			b.Grow(int(h.Size) + bytes.MinRead)
		}
		if _, err := b.ReadFrom(t); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		if isMeta {
			metas[id] = b.Bytes()
		} else {
			boot = b.Bytes()
		}
	}
}

// hashingWriter also gives what is written to a hash.
type hashingWriter struct {
	w io.Writer
	h hash.Hash
}

func (h *hashingWriter) Write(p []byte) (int, error) {
	h.h.Write(p)
	return h.w.Write(p)
}
