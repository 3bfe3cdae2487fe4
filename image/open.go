package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/backend"
	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/store"
)

// Options say what to open and how.
type Options struct {
	Store store.Options
	Fetch fetch.Options
	// Platform as "os/arch[/variant]" chooses from an index; "" means linux and this machine's architecture.
	Platform string
	// Readers are the formats that are known, the preferred ones first: where an index has several images for the
	// platform, the first format wins.
	Readers []formats.Reader
	// Referrers makes a plain image be looked up in its referrers, where a converted one may hang.
	Referrers bool
	// Backend has the data blobs; nil means that they are where the manifest is, or beside the bootstrap.
	Backend backend.Backend
	// Offline fetches nothing from a registry: what is not in Fetch.Cache gives ErrOffline.
	Offline bool
}

// Image is an open image.
type Image struct {
	*fetch.Image
	// Manifest is nil for a bare bootstrap.
	Manifest *formats.Manifest
	source   io.Closer // store or files
}

// Close closes the image and its store.
func (im *Image) Close() error {
	err := im.Image.Close()
	if im.source != nil {
		err = errors.Join(err, im.source.Close())
	}
	return err
}

// Open opens the image that ref names.
func Open(ctx context.Context, ref store.Ref, opt Options) (_ *Image, err error) {
	if ref.Transport == store.Bare {
		return openBare(ctx, ref, opt)
	}
	src, err := openSource(ctx, ref, opt)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, src.Close())
		}
	}()
	desc, err := src.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	var from formats.Sources = src
	if opt.Backend != nil {
		from = backend.NewSource(src, opt.Backend)
	}
	im, err := OpenManifest(ctx, from, src, desc, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	im.source = src
	if k, ok := src.(*keeper); ok {
		k.opening.Store(false)
	}
	return im, nil
}

// openSource opens the store. Metadata of images in registries is kept in the cache.
func openSource(ctx context.Context, ref store.Ref, opt Options) (store.Source, error) {
	if ref.Transport != store.Registry || opt.Fetch.Cache == nil {
		if opt.Offline && ref.Transport == store.Registry {
			return nil, fmt.Errorf("%s: no cache is in use: %w", ref, ErrOffline)
		}
		return store.OpenSource(ctx, ref, opt.Store)
	}
	if opt.Offline {
		return newKeeper(ref, opt.Fetch.Cache, nil), nil
	}
	src, err := store.OpenSource(ctx, ref, opt.Store)
	if err != nil {
		return nil, err
	}
	return newKeeper(ref, opt.Fetch.Cache, src), nil
}

// referrers lists manifests that refer to another: the ability of a source.
type referrers interface {
	Referrers(ctx context.Context, desc ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error)
}

// OpenManifest opens the image, or the platform's image of the index, with that descriptor. refs may be nil.
func OpenManifest(ctx context.Context, s formats.Sources, refs referrers, desc ocispec.Descriptor, opt Options) (*Image, error) {
	found, err := candidates(ctx, s, desc, opt.platform())
	if err != nil {
		return nil, err
	}
	m, r := choose(found, opt.Readers)
	if opt.Referrers && refs != nil && m != nil && r == opt.Readers[len(opt.Readers)-1] {
		list, err := refs.Referrers(ctx, m.Desc, "")
		if err != nil {
			return nil, err
		}
		if m2, r2 := choose(loadAll(ctx, s, list), opt.Readers[:len(opt.Readers)-1]); m2 != nil {
			m, r = m2, r2
		}
	}
	if m == nil {
		return nil, fmt.Errorf("no known format: %w", blob.ErrUnsupported)
	}
	img, err := r.Open(ctx, m, s)
	if err != nil {
		return nil, fmt.Errorf("%s image %s: %w", r.Name(), m.Desc.Digest, err)
	}
	im, err := fetch.NewImage(img, opt.Fetch)
	if err != nil {
		return nil, err
	}
	return &Image{Image: im, Manifest: m}, nil
}

func (o *Options) platform() string {
	if o.Platform != "" {
		return o.Platform
	}
	return "linux/" + runtime.GOARCH
}

// candidates loads the manifests that the descriptor stands for, for the platform. Entries of an index that are no images are
// passed over.
func candidates(ctx context.Context, s formats.Sources, desc ocispec.Descriptor, platform string) ([]*formats.Manifest, error) {
	if !store.IsIndex(desc.MediaType) {
		m, err := store.LoadManifest(ctx, s, desc)
		if err != nil {
			return nil, err
		}
		return []*formats.Manifest{m}, nil
	}
	index, err := store.LoadIndex(ctx, s, desc)
	if err != nil {
		return nil, err
	}
	var found []*formats.Manifest
	var others []string
	for _, d := range index.Index.Manifests {
		if !store.IsImage(d.MediaType) || d.Platform != nil && d.Platform.OS == "unknown" {
			continue
		}
		if d.Platform != nil && !matches(d.Platform, platform) {
			others = append(others, platformName(d.Platform))
			continue
		}
		m, err := store.LoadManifest(ctx, s, d)
		if err != nil {
			return nil, err
		}
		if d.Platform == nil && m.Config.OS != "" && !matches(&m.Config.Platform, platform) {
			others = append(others, platformName(&m.Config.Platform))
			continue
		}
		found = append(found, m)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("index %s has no image for %s but for %s: %w", desc.Digest, platform, strings.Join(others, ", "), store.ErrNotFound)
	}
	return found, nil
}

// loadAll loads those of the manifests that are images and can be loaded.
func loadAll(ctx context.Context, s formats.Sources, list []ocispec.Descriptor) []*formats.Manifest {
	var found []*formats.Manifest
	for _, d := range list {
		if m, err := store.LoadManifest(ctx, s, d); err == nil {
			found = append(found, m)
		}
	}
	return found
}

// choose returns the first manifest of the most preferred format.
func choose(found []*formats.Manifest, readers []formats.Reader) (*formats.Manifest, formats.Reader) {
	for _, r := range readers {
		if i := slices.IndexFunc(found, r.Recognize); i >= 0 {
			return found[i], r
		}
	}
	return nil, nil
}

// matches compares without regard to features, which mark formats. A wanted platform without variant takes every variant.
func matches(p *ocispec.Platform, want string) bool {
	name := platformName(p)
	return name == want || strings.HasPrefix(name, want+"/")
}

func platformName(p *ocispec.Platform) string {
	name := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		name += "/" + p.Variant
	}
	return name
}

// openBare opens a Nydus bootstrap in a file, with blobs that are files named by their ids.
func openBare(ctx context.Context, ref store.Ref, opt Options) (_ *Image, err error) {
	files := &bareFiles{dirs: ref.Dirs}
	if len(files.dirs) == 0 {
		files.dirs = []string{filepath.Join(filepath.Dir(ref.Path), "blobs")}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, files.Close())
		}
	}()
	boot, err := files.open(ref.Path)
	if err != nil {
		return nil, err
	}
	find := files.find
	if opt.Backend != nil {
		find = func(id string) (blob.Source, error) { return opt.Backend.Open(ctx, id) }
	}
	img, err := nydus.OpenBare(ctx, boot, filepath.Base(ref.Path), find)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	im, err := fetch.NewImage(img, opt.Fetch)
	if err != nil {
		return nil, err
	}
	return &Image{Image: im, source: files}, nil
}

// bareFiles are the files of a bare image.
type bareFiles struct {
	dirs   []string
	opened []*os.File
}

func (b *bareFiles) open(path string) (blob.Source, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: %w", store.ErrNotFound, err)
		}
		return nil, err
	}
	b.opened = append(b.opened, f)
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return blob.ReaderAtSource{R: f, N: fi.Size()}, nil
}

// find opens the blob with that id, which comes from the bootstrap and so must be a plain file name.
func (b *bareFiles) find(id string) (blob.Source, error) {
	if id != filepath.Base(id) || id == "." || id == ".." {
		return nil, fmt.Errorf("blob id %q: %w", id, blob.ErrCorrupt)
	}
	for _, d := range b.dirs {
		s, err := b.open(filepath.Join(d, id))
		if err == nil || !errors.Is(err, store.ErrNotFound) {
			return s, err
		}
	}
	return nil, fmt.Errorf("blob %s in %s: %w", id, strings.Join(b.dirs, ", "), store.ErrNotFound)
}

func (b *bareFiles) Close() error {
	errs := make([]error, 0, len(b.opened))
	for _, f := range b.opened {
		errs = append(errs, f.Close())
	}
	b.opened = nil
	return errors.Join(errs...)
}
