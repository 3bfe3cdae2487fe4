package convert

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// Attach says how a converted image appears at its target.
type Attach string

// Ways of appearing.
const (
	// AttachTag: an image, or an index of images, of its own under the target's tag.
	AttachTag Attach = "tag"
	// AttachIndex: an index under the target's tag with the untouched source manifests first and ours behind them.
	AttachIndex Attach = "index"
	// AttachReferrer: the target's tag names the source, and our manifests have it as their subject.
	AttachReferrer Attach = "referrer"
)

// Output is one format and where its image goes.
type Output struct {
	Writer formats.Writer
	Target store.Target
}

// Options of a conversion. The zero value is a good default.
type Options struct {
	Attach Attach // default AttachTag
	// Subject makes our manifests name their source as subject also where they are attached in another way than AttachReferrer.
	Subject bool
	// Index says how the index of an output's images is made, with AttachTag.
	Index IndexOptions
	// ArtifactManifest makes referrers artifact manifests, which release candidates of OCI 1.1 had, instead of image manifests with
	// an artifact type. It needs AttachReferrer.
	ArtifactManifest bool
	// Untagged leaves the targets' tags alone: what was made is known by its digest, as a referrer is. It cannot be with AttachIndex.
	Untagged bool
	// Platforms to convert, as "os/arch[/variant]"; none means all of them. A source without index is taken as it is.
	Platforms []string
	// Jobs is how many layers are at work at once; 0 means GOMAXPROCS.
	Jobs int
	// Others are images of which an output's images may need objects, such as a chunk dictionary.
	Others []store.Source
	// Record knows layers that were converted before; nil means none is known.
	Record Record
	// OpenPlace opens a repository, layout or archive that Record names, so that a layer which was converted for another image
	// is taken from there: mounted where the target's registry is the same, else copied. nil means that only what the target has
	// is taken.
	OpenPlace func(ctx context.Context, place string) (store.Source, error)
	// BeforeTag is called for each converted image once the target has all of it but the manifest, which out's Target
	// hands out nevertheless. An error ends the conversion before anything of the image can be seen.
	BeforeTag func(ctx context.Context, out Output, image, source ocispec.Descriptor) error
	// OnMissing, if set, is called for entries of the source's index that the source lacks, which are left out: images, unless Platforms
	// asks for them, and what is carried along. Without it, they are errors.
	OnMissing func(desc ocispec.Descriptor, platform string)
	// OnProgress is called often, concurrently; it must be quick.
	OnProgress func(Progress)
	// Readers recognise images that are converted already; they are carried along as they are, but by [Reverse].
	Readers []formats.Reader
	// TempDir is where is spooled what cannot be streamed; "" means the system's directory.
	TempDir string
}

// IndexOptions of an index of converted images. The zero value is a good default.
type IndexOptions struct {
	// MediaType of the index; "" means the source's.
	MediaType string
	// Always makes an index of whatever the source has one for, also where it has one image and nothing beside that.
	Always bool
	// Subject makes the index name the source's as its subject, with the artifact type of the manifests.
	Subject bool
}

func (o *Options) setDefaults() error {
	switch o.Attach {
	case "":
		o.Attach = AttachTag
	case AttachTag, AttachIndex, AttachReferrer:
	default:
		return fmt.Errorf("way to attach %q: tag, index and referrer are possible", o.Attach)
	}
	if o.ArtifactManifest && o.Attach != AttachReferrer {
		return fmt.Errorf("an artifact manifest is a referrer, and %q is not: %w", o.Attach, blob.ErrUnsupported)
	}
	if o.Untagged && o.Attach == AttachIndex {
		return fmt.Errorf("an index that nothing names: %w", blob.ErrUnsupported)
	}
	if o.Jobs <= 0 {
		o.Jobs = runtime.GOMAXPROCS(0)
	}
	return nil
}

// Progress is the state of one layer.
type Progress struct {
	Platform string
	Layer    int // from 0
	Layers   int // of the platform's image
	State    State
	Done     int64 // bytes of the source's layer so far
	Total    int64
}

// State of a layer.
type State string

// States of a layer.
const (
	Converting State = "converting"
	Reused     State = "reused"
	Converted  State = "done"
)

// Key says what a converted layer depends on.
type Key struct {
	Source digest.Digest // of the stored source layer
	Format string
	Writer string // version of the writer with its options
	// Below stands for the stored source layers below, as their chain, and Chain is OCI's chain ID of this layer and those. Both are
	// empty for formats whose layers do not depend on those below, and Below is at the bottom.
	Below, Chain digest.Digest
}

// Known is the stored blob that a layer became.
type Known struct {
	Desc ocispec.Descriptor
	// Places are where the blob was seen, as [store.Ref.Place] gives them.
	Places []string
}

// Record knows which layers were converted before. It may be used concurrently. It is a help only: what it says is checked
// where the blob is, and its errors do not end a conversion.
type Record interface {
	// Lookup returns what a layer became; false where that is not known.
	Lookup(ctx context.Context, k Key) (Known, bool, error)
	// Store notes what a layer became. Places of the same blob are added to those that are known.
	Store(ctx context.Context, k Key, blob Known) error
	// Forget notes that a place has the blob no more. A layer whose blob is nowhere any more is not known any more.
	Forget(ctx context.Context, k Key, place string) error
}

// NearRecord is the optional ability of a [Record] to look for the places of a blob that are near to a target first, where it knows more of
// them than are worth a try.
type NearRecord interface {
	// LookupNear is Lookup for a target: here is its place.
	LookupNear(ctx context.Context, k Key, here string) (Known, bool, error)
}

// ManifestKey says what a converted image depends on.
type ManifestKey struct {
	Source digest.Digest // of the source's manifest
	Format string
	Writer string // version of the writer with its options, and how the image is attached
}

// ManifestRecord is the optional ability of a [Record] to know images as a whole, of writers that are [formats.ImageVersioner]. What is
// said of Record and its methods holds for manifests.
type ManifestRecord interface {
	// LookupManifest may leave out places of which there are many that are nearer to here, the target's place.
	LookupManifest(ctx context.Context, k ManifestKey, here string) (Known, bool, error)
	StoreManifest(ctx context.Context, k ManifestKey, manifest Known) error
	ForgetManifest(ctx context.Context, k ManifestKey, place string) error
}

// Result is a finished conversion. Its sizes are in bytes.
type Result struct {
	Images []Image // one for each output and platform
	// Tagged is what each output's target names now.
	Tagged []ocispec.Descriptor
	Wall   time.Duration
}

// Image is one converted image.
type Image struct {
	Format   string             // name of the format
	Output   int                // number of the output, from 0
	Platform string             // "os/arch[/variant]"; "" where the source does not say
	Source   ocispec.Descriptor // of the source's manifest
	Desc     ocispec.Descriptor // of the manifest that was made
	// SourceSize and Size are the stored bytes of all layers.
	SourceSize, Size int64
	// Layers are the source's, lowest first. It is nil for an image that was converted before as a whole.
	Layers []LayerResult
	Stats  map[string]int64   // the format's own
	CPU    map[string]float64 // seconds of the image's own stages
}

// LayerResult is one converted layer.
type LayerResult struct {
	Source ocispec.Descriptor // the source's layer
	Desc   ocispec.Descriptor // what it became; its digest is empty for a layer that has no blob
	Reused bool               // it was converted before; there are no figures then
	// From is the place that a reused layer was taken from, as [store.Ref.Place] gives it; "" where the layer stands twice in
	// the image.
	From string
	formats.LayerStats
}
