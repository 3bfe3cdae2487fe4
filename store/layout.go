package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
)

// annotationImageName is where containerd and docker write an image's whole name.
const annotationImageName = "io.containerd.image.name"

// object is one stored file. Closing it ends all reads.
type object struct {
	io.ReaderAt
	io.Closer
	size int64
}

// section is the object from its beginning.
func (o object) section() *io.SectionReader { return io.NewSectionReader(o, 0, o.size) }

// nothing is the closer of objects that share an open file.
type nothing struct{}

func (nothing) Close() error { return nil }

// files are the files of an OCI layout by their names with slashes: those of a directory, members of an archive.
type files interface {
	// open opens a file; fs.ErrNotExist if there is none.
	open(name string) (object, error)
	io.Closer
}

func blobName(d digest.Digest) string { return path.Join("blobs", d.Algorithm().String(), d.Encoded()) }

// layout reads an OCI image layout, wherever its files are: version 1.0.0 of image-layout.md of the image
// specification.
type layout struct {
	ref   Ref
	files files

	mu     sync.Mutex // guards opened
	opened map[digest.Digest]object
}

var _ Source = (*layout)(nil)

func newLayout(ref Ref, f files) *layout {
	return &layout{ref: ref, files: f, opened: map[digest.Digest]object{}}
}

// openLayout opens a directory that exists.
func openLayout(ref Ref) (*layout, error) {
	if _, err := os.Stat(filepath.Join(ref.Path, ocispec.ImageIndexFile)); err != nil {
		return nil, fileError("open OCI layout", ref.Path, err)
	}
	return newLayout(ref, directory(ref.Path)), nil
}

// directory is the files of a layout in a directory.
type directory string

func (d directory) open(name string) (object, error) {
	f, err := os.Open(filepath.Join(string(d), filepath.FromSlash(name)))
	if err != nil {
		return object{}, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("not a regular file: %w", blob.ErrCorrupt)
	}
	if err != nil {
		return object{}, errors.Join(err, f.Close())
	}
	return object{f, f, st.Size()}, nil
}

func (directory) Close() error { return nil }

// Ref implements [Source].
func (l *layout) Ref() Ref { return l.ref }

// Close implements [Source].
func (l *layout) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, o := range l.opened {
		errs = append(errs, o.Close())
	}
	clear(l.opened)
	return errors.Join(append(errs, l.files.Close())...)
}

// readFile reads a small file of the layout.
func (l *layout) readFile(name string) ([]byte, error) {
	o, err := l.files.open(name)
	if err != nil {
		return nil, fileError("read "+name+" of", l.ref.Path, err)
	}
	defer o.Close()
	if o.size > maxManifest {
		return nil, fmt.Errorf("%s of %s: %d bytes, the limit is %d: %w", name, l.ref.Path, o.size, maxManifest, blob.ErrCorrupt)
	}
	p := make([]byte, o.size)
	if _, err := io.ReadFull(o.section(), p); err != nil {
		return nil, fileError("read "+name+" of", l.ref.Path, err)
	}
	return p, nil
}

// index reads index.json.
func (l *layout) index() (*ocispec.Index, error) {
	raw, err := l.readFile(ocispec.ImageIndexFile)
	if err != nil {
		return nil, err
	}
	x, err := ParseIndex(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw)}, raw)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", ocispec.ImageIndexFile, l.ref.Path, err)
	}
	return &x.Index, nil
}

// Resolve implements [Source].
func (l *layout) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	x, err := l.index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var desc ocispec.Descriptor
	if l.ref.Digest != "" {
		desc, err = l.resolveDigest(ctx, x.Manifests)
	} else {
		desc, err = choose(x.Manifests, l.ref.Tag)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve %s: %w", l.ref, err)
	}
	if desc.MediaType == "" {
		raw, err := ReadAll(ctx, l, desc, maxManifest)
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("resolve %s: %w", l.ref, err)
		}
		return Sniff(desc, raw)
	}
	return desc, nil
}

// IsArtifact reports whether an entry of an index is marked as something else than a container image. Some tools give images the type
// of their configuration.
func IsArtifact(d ocispec.Descriptor) bool {
	return d.ArtifactType != "" && d.ArtifactType != ocispec.MediaTypeImageConfig && d.ArtifactType != formats.MediaTypeDockerConfig
}

// choose finds the entry of index.json that has a name. Without a name it must be the only image.
func choose(entries []ocispec.Descriptor, name string) (ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	var names []string
	for _, e := range entries {
		tag := e.Annotations[ocispec.AnnotationRefName]
		if tag == "" && name == "" && IsArtifact(e) {
			continue // a referrer, listed to be found
		}
		if name == "" || tag == name || e.Annotations[annotationImageName] == name {
			found = append(found, e)
		}
		names = append(names, tag)
	}
	if len(found) == 0 && name != "" {
		for _, e := range entries { // REPO:TAG of tools that write whole names
			if strings.HasSuffix(e.Annotations[ocispec.AnnotationRefName], ":"+name) {
				found = append(found, e)
			}
		}
	}
	same := func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest }
	found = slices.CompactFunc(found, same)
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return ocispec.Descriptor{}, fmt.Errorf("no image of that name, there are %.300q: %w", names, ErrNotFound)
	}
	return ocispec.Descriptor{}, fmt.Errorf("%d images, name one of %.300q: %w", len(found), names, ErrReference)
}

// resolveDigest finds a manifest by its digest: in index.json, in an index that this names, or merely stored.
func (l *layout) resolveDigest(ctx context.Context, entries []ocispec.Descriptor) (ocispec.Descriptor, error) {
	for _, e := range entries {
		if e.Digest == l.ref.Digest {
			return e, nil
		}
	}
	for _, e := range entries {
		if !IsIndex(e.MediaType) {
			continue
		}
		x, err := LoadIndex(ctx, l, e)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		for _, c := range x.Index.Manifests {
			if c.Digest == l.ref.Digest {
				return c, nil
			}
		}
	}
	o, err := l.files.open(blobName(l.ref.Digest))
	if err != nil {
		return ocispec.Descriptor{}, fileError("read", l.ref.Path, err)
	}
	defer o.Close()
	return ocispec.Descriptor{Digest: l.ref.Digest, Size: o.size}, nil
}

// Sniff gives a manifest that nobody says the media type of the one that it has by what is in it.
func Sniff(desc ocispec.Descriptor, raw []byte) (ocispec.Descriptor, error) {
	g, err := parseGraph(desc, raw)
	if err != nil {
		return desc, err
	}
	switch {
	case isManifest(g.MediaType):
		desc.MediaType = g.MediaType
	case g.Config != nil:
		desc.MediaType = ocispec.MediaTypeImageManifest
	case g.Manifests != nil:
		desc.MediaType = ocispec.MediaTypeImageIndex
	default:
		return desc, fmt.Errorf("%s is no manifest: %w", desc.Digest, blob.ErrUnsupported)
	}
	return desc, nil
}

// Referrers implements [Source]. A layout lists referrers in index.json, as manifests of their own or in an index
// with the fallback tag; children of its indexes are looked at too.
func (l *layout) Referrers(ctx context.Context, desc ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	x, err := l.index()
	if err != nil {
		return nil, err
	}
	return findReferrers(ctx, l, x.Manifests, desc, artifactType)
}

// maxReferrerCandidates bounds how many manifests are read to find referrers.
const maxReferrerCandidates = 4096

func findReferrers(ctx context.Context, l *layout, entries []ocispec.Descriptor, desc ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	seen := map[digest.Digest]bool{desc.Digest: true}
	for queue := slices.Clone(entries); len(queue) > 0 && len(seen) < maxReferrerCandidates; queue = queue[1:] {
		e := queue[0]
		if seen[e.Digest] || !isManifest(e.MediaType) {
			continue
		}
		seen[e.Digest] = true
		raw, err := ReadAll(ctx, l, e, maxManifest)
		if errors.Is(err, ErrNotFound) {
			continue // a layout need not have all platforms
		}
		if err != nil {
			return nil, fmt.Errorf("referrers of %s: %w", desc.Digest, err)
		}
		g, err := parseGraph(e, raw)
		if err != nil {
			return nil, fmt.Errorf("referrers of %s: %w", desc.Digest, err)
		}
		queue = append(queue, g.Manifests...)
		if g.Subject == nil || g.Subject.Digest != desc.Digest {
			continue
		}
		r := referrerEntry(e, g)
		if artifactType == "" || artifactType == r.ArtifactType {
			found = append(found, r)
		}
	}
	return found, nil
}

// referrerEntry describes a referrer as the referrers API does.
func referrerEntry(desc ocispec.Descriptor, g *graph) ocispec.Descriptor {
	kind := g.ArtifactType
	if kind == "" && g.Config != nil {
		kind = g.Config.MediaType
	}
	return ocispec.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size, ArtifactType: kind, Annotations: g.Annotations,
	}
}

// openBlob opens a blob and compares its size.
func (l *layout) openBlob(desc ocispec.Descriptor) (object, error) {
	if err := checkDescriptor(desc); err != nil {
		return object{}, err
	}
	o, err := l.files.open(blobName(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return object{}, fmt.Errorf("%s in %s: %w", desc.Digest, l.ref, ErrNotFound)
	}
	if err != nil {
		return object{}, fileError("open "+desc.Digest.String()+" in", l.ref.Path, err)
	}
	if o.size != desc.Size {
		err := fmt.Errorf("%s in %s: %d bytes, expected %d: %w", desc.Digest, l.ref, o.size, desc.Size, blob.ErrCorrupt)
		return object{}, errors.Join(err, o.Close())
	}
	return o, nil
}

// Open implements [formats.Sources]. Files stay open until Close.
func (l *layout) Open(_ context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o, ok := l.opened[desc.Digest]
	if !ok {
		var err error
		if o, err = l.openBlob(desc); err != nil {
			return nil, err
		}
		l.opened[desc.Digest] = o
	}
	return blob.ReaderAtSource{R: o, N: o.size}, nil
}

// Fetch implements [formats.Sources].
func (l *layout) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	o, err := l.openBlob(desc)
	if err != nil {
		return nil, err
	}
	return verified(&contextReader{ctx, o.section()}, o, desc), nil
}

// contextReader stops reading when its context ends.
type contextReader struct {
	ctx context.Context //nolint:containedctx // a stream lives in the context that it was opened with
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// encodeIndex is index.json.
func encodeIndex(x *ocispec.Index) ([]byte, error) {
	x.SchemaVersion, x.MediaType = 2, ocispec.MediaTypeImageIndex
	return json.Marshal(x)
}

// layoutVersion is the file oci-layout.
const layoutVersion = `{"imageLayoutVersion":"1.0.0"}`

// merge enters names and referrers into the entries of index.json. A name that is there moves.
func merge(entries, added []ocispec.Descriptor) []ocispec.Descriptor {
	for _, a := range added {
		name := a.Annotations[ocispec.AnnotationRefName]
		entries = slices.DeleteFunc(entries, func(e ocispec.Descriptor) bool {
			tag := e.Annotations[ocispec.AnnotationRefName]
			return tag == name && (name != "" || e.Digest == a.Digest)
		})
		entries = append(entries, a)
	}
	return entries
}
