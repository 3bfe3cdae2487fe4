package store

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
)

// Limits of archives.
const (
	maxMembers    = 1 << 17
	maxMemberName = 4096 // bytes
	maxLinks      = 16   // symbolic links one after the other
)

// archive is the members of a tar in a file, by their cleaned names.
type archive struct {
	content io.ReaderAt
	closer  io.Closer
	members map[string]member
}

type member struct {
	off, size int64
	link      string // the member that this one stands for
}

// openArchive opens an archive of either kind. Standard input and compressed archives are written to a temporary file
// first, which is gone when it is closed.
func openArchive(ctx context.Context, ref Ref, opts Options) (Source, error) {
	f, err := seekable(ctx, ref, opts)
	if err != nil {
		return nil, err
	}
	a, err := indexArchive(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read archive %s: %w", ref.Path, err), f.Close())
	}
	if ref.Transport == Archive || a.has(ocispec.ImageIndexFile) && a.has(ocispec.ImageLayoutFile) {
		if !a.has(ocispec.ImageIndexFile) {
			return nil, errors.Join(fmt.Errorf("archive %s has no %s: %w", ref.Path, ocispec.ImageIndexFile, blob.ErrCorrupt), f.Close())
		}
		return newLayout(ref, a), nil
	}
	d, err := openDockerArchive(ref, a)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read archive %s: %w", ref.Path, err), f.Close())
	}
	return d, nil
}

// seekable returns the archive as a file that can be read at random.
func seekable(ctx context.Context, ref Ref, opts Options) (*os.File, error) {
	var in io.Reader
	if ref.Path == "-" {
		if opts.Stdin == nil {
			return nil, fmt.Errorf("read %s: there is no standard input: %w", ref, ErrReference)
		}
		in = opts.Stdin
	} else {
		f, err := os.Open(ref.Path)
		if err != nil {
			return nil, fileError("open archive", ref.Path, err)
		}
		st, err := f.Stat()
		if err == nil && st.IsDir() {
			err = fmt.Errorf("it is a directory: %w", ErrReference)
		}
		if err != nil {
			return nil, errors.Join(fileError("open archive", ref.Path, err), f.Close())
		}
		var magic [2]byte
		_, _ = f.ReadAt(magic[:], 0)
		if st.Mode().IsRegular() && !isGzip(magic[:]) {
			return f, nil
		}
		defer f.Close()
		in = f
	}
	buffered := bufio.NewReaderSize(&contextReader{ctx, in}, 1<<20)
	in = buffered
	if magic, _ := buffered.Peek(2); isGzip(magic) {
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("read archive %s: %w: %w", ref.Path, blob.ErrCorrupt, err)
		}
		in = z
	}
	return spool(ref, opts.TempDir, in)
}

func isGzip(magic []byte) bool { return len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b }

// spool copies a stream to a temporary file without a name.
func spool(ref Ref, dir string, in io.Reader) (*os.File, error) {
	f, err := nameless(dir)
	if err != nil {
		return nil, fileError("spool archive in", dir, err)
	}
	if _, err := io.CopyBuffer(onlyWriter{f}, in, make([]byte, 1<<20)); err != nil {
		removeNameless(f)
		return nil, fileError("spool archive", ref.Path, err)
	}
	return f, nil
}

// nameless makes a temporary file that goes when it is closed, where the system can do that; elsewhere
// removeNameless removes it.
func nameless(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name())
	return f, nil
}

func removeNameless(f *os.File) {
	_ = f.Close()
	_ = os.Remove(f.Name())
}

// indexArchive notes where the members are. It reads headers only.
func indexArchive(f *os.File) (*archive, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	members, err := indexTar(io.NewSectionReader(f, 0, size))
	if err != nil {
		return nil, err
	}
	return &archive{content: f, closer: f, members: members}, nil
}

// indexTar lists the regular files and links of a tar. A tar reader seeks over content and reads nothing ahead, so
// the place of the underlying reader behind a header is where the content begins.
func indexTar(r io.ReadSeeker) (map[string]member, error) {
	size, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	members := map[string]member{}
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return members, nil
		}
		if err != nil {
			return nil, fmt.Errorf("member %d: %w: %w", n, blob.ErrCorrupt, err)
		}
		if n >= maxMembers || len(h.Name) > maxMemberName {
			return nil, fmt.Errorf("member %d: too many members, or too long a name: %w", n, blob.ErrCorrupt)
		}
		name := cleanName(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			off, err := r.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			if err := blob.CheckRange(off, h.Size, size); err != nil {
				return nil, fmt.Errorf("member %d: %w", n, err)
			}
			members[name] = member{off: off, size: h.Size}
		case tar.TypeSymlink:
			members[name] = member{link: cleanName(path.Join(path.Dir(name), h.Linkname))}
		case tar.TypeLink:
			members[name] = member{link: cleanName(h.Linkname)}
		case tar.TypeGNUSparse:
			return nil, fmt.Errorf("member %d: sparse: %w", n, blob.ErrUnsupported)
		}
	}
}

// cleanName makes "./a", "/a" and "a/" the same. Nothing is ever written under these names.
func cleanName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (a *archive) has(name string) bool {
	_, ok := a.find(name)
	return ok
}

// find follows links.
func (a *archive) find(name string) (member, bool) {
	name = cleanName(name)
	for range maxLinks {
		m, ok := a.members[name]
		if !ok || m.link == "" {
			return m, ok
		}
		name = m.link
	}
	return member{}, false
}

func (a *archive) open(name string) (object, error) {
	m, ok := a.find(name)
	if !ok {
		return object{}, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return object{io.NewSectionReader(a.content, m.off, m.size), nothing{}, m.size}, nil
}

func (a *archive) Close() error {
	err := a.closer.Close()
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}
