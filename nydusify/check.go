package nydusify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
)

// CheckOptions are the flags of "nydusify check".
type CheckOptions struct {
	Target store.Ref
	Image  image.Options // of the target
	// Source is compared with the target, unless it is the zero reference.
	Source      store.Ref
	SourceImage image.Options
	// MultiPlatform wants an index with a plain and a Nydus image for the platform of Image.
	MultiPlatform bool
	// OnRule is called before each rule; OnDifference for each difference between the files. One that is minor breaks no rule: times,
	// of which other builders keep whole seconds since 1970 only.
	OnRule       func(name string)
	OnDifference func(d check.Difference, minor bool)
}

// ErrRule means that an image breaks one of the rules.
var ErrRule = errors.New("rule is broken")

// ruleError says what an image breaks.
func ruleError(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrRule)
}

// Check checks an image by three rules: its manifest and configuration have the right form; its bootstrap is whole, and names blobs
// that the manifest has; every chunk is what its digest says and, with a source, every file is like the source's but for times.
func Check(ctx context.Context, o CheckOptions) error {
	target, err := image.Open(ctx, o.Target, o.Image)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	defer target.Close() // only read from
	var source *image.Image
	if o.Source.Transport != "" {
		if source, err = image.Open(ctx, o.Source, o.SourceImage); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		defer source.Close() // only read from
	}
	o.OnRule("manifest")
	if err := checkManifests(ctx, &o, source, target); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	o.OnRule("bootstrap")
	for _, im := range []*image.Image{source, target} {
		if err := checkBlobs(im); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
	}
	o.OnRule("filesystem")
	if _, err := check.Verify(ctx, target.Image); err != nil {
		return fmt.Errorf("filesystem: %w", err)
	}
	if source == nil {
		return nil
	}
	different := 0
	err = check.Compare(ctx, source.Image, target.Image, func(d check.Difference) error {
		minor := d.What == "time"
		if !minor {
			different++
		}
		o.OnDifference(d, minor)
		return nil
	})
	if err == nil && different > 0 {
		err = ruleError("%d differences between the files of source and target", different)
	}
	if err != nil {
		return fmt.Errorf("filesystem: %w", err)
	}
	return nil
}

func checkManifests(ctx context.Context, o *CheckOptions, source, target *image.Image) error {
	if err := checkManifest(target.Manifest); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if o.MultiPlatform {
		if err := checkMerged(ctx, o); err != nil {
			return fmt.Errorf("target: %w", err)
		}
	}
	if source == nil {
		return nil
	}
	if err := checkManifest(source.Manifest); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	// Older converters drop ArgsEscaped, which means nothing on Linux.
	want, got := source.Manifest.Config.Config, target.Manifest.Config.Config
	got.ArgsEscaped = want.ArgsEscaped //nolint:staticcheck // deprecated, but in images
	w, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	g, err := json.Marshal(got)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if string(w) != string(g) {
		return ruleError("the configuration of the target is %s instead of %s", g, w)
	}
	return nil
}

// checkManifest checks one manifest with its configuration.
func checkManifest(m *formats.Manifest) error {
	if m == nil {
		return fmt.Errorf("a bare bootstrap has none: %w", blob.ErrUnsupported)
	}
	layers := m.Manifest.Layers
	if n := len(m.Config.RootFS.DiffIDs); n != len(layers) {
		return ruleError("%d diff IDs for %d layers", n, len(layers))
	}
	if !(nydus.Reader{}).Recognize(m) {
		return nil
	}
	if last := layers[len(layers)-1]; last.Annotations[nydus.AnnotationBootstrap] != "true" {
		return ruleError("the last layer is no bootstrap layer")
	}
	for i, l := range layers[:len(layers)-1] {
		if l.MediaType != nydus.MediaTypeBlob || l.Annotations[nydus.AnnotationBlob] != "true" {
			return ruleError("layer %d (%s) is no blob of Nydus: media type %q", i, l.Digest, l.MediaType)
		}
	}
	return nil
}

// checkMerged looks for a plain and a Nydus image of the platform.
func checkMerged(ctx context.Context, o *CheckOptions) error {
	src, err := store.OpenSource(ctx, o.Target, o.Image.Store)
	if err != nil {
		return err
	}
	defer src.Close() // only read from
	desc, err := src.Resolve(ctx)
	if err != nil {
		return err
	}
	if !store.IsIndex(desc.MediaType) {
		return ruleError("%s is no index", o.Target)
	}
	for _, reader := range o.Image.Readers {
		opt := o.Image
		opt.Readers, opt.Referrers = []formats.Reader{onlyOf{reader, o.Image.Readers}}, false
		im, err := image.OpenManifest(ctx, src, nil, desc, opt)
		if err != nil {
			return ruleError("no image of format %s in the index: %v", reader.Name(), err)
		}
		if err := im.Close(); err != nil {
			return err
		}
	}
	return nil
}

// onlyOf is a reader that leaves to the others what they recognise before it.
type onlyOf struct {
	formats.Reader
	all []formats.Reader
}

// Recognize implements [formats.Reader].
func (r onlyOf) Recognize(m *formats.Manifest) bool {
	i := slices.IndexFunc(r.all, func(x formats.Reader) bool { return x.Recognize(m) })
	return i >= 0 && r.all[i] == r.Reader
}

// checkBlobs checks that the manifest has the blobs that the image's files are in, unless they are elsewhere.
func checkBlobs(im *image.Image) error {
	if im == nil || im.Format != nydus.Name || len(im.Manifest.Manifest.Layers) == 1 {
		return nil // the blobs of nydus-ref are the source's layers, and an image without blobs has them in a backend
	}
	for i, b := range im.Blobs {
		if !slices.ContainsFunc(im.Manifest.Manifest.Layers, func(l ocispec.Descriptor) bool { return l.Digest == b.Desc.Digest }) {
			return ruleError("blob %d (%s) is not in the manifest", i, b.Desc.Digest)
		}
	}
	return nil
}
