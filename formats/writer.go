package formats

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// Writer makes images of one format. It may be used concurrently, for several layers at once.
//
// The stored bytes of a layer depend on the layer as it is stored, the writer's options and [Writer.Version] alone (and, for
// formats whose layers build on each other, on the parents), so that a converted layer can be reused in other images.
type Writer interface {
	// Name returns the format's name as in flags, files and metrics.
	Name() string
	// Version changes whenever the stored bytes of the same input change: code version and every option.
	Version() string
	// Layer begins the conversion of one layer, whose stored blob goes to sink.
	Layer(ctx context.Context, src LayerSource, sink Sink) (LayerWriter, error)
	// Finish makes the image of the layers, lowest first: merges metadata, puts what else belongs to the
	// image (a bootstrap layer, the configuration) into sink, and returns the manifest, not yet stored.
	Finish(ctx context.Context, layers []Layer, src *Manifest, sink Sink) (*Result, error)
}

// NeedsParents is the optional ability of a [Writer] whose layers depend on the layers below. Their content is read at the same
// time all the same: only [LayerWriter].Close, which asks for [LayerSource].Below, comes in the order of the layers. What a layer
// became is taken up from a record only together with all layers below it.
type NeedsParents interface{ NeedsParents() bool }

// Reopener is the optional ability of a [Writer] to take up a layer that it converted before, from the
// stored blob alone, so that a known layer is neither downloaded nor converted again.
type Reopener interface {
	// Reopen returns what [LayerWriter.Close] returned for the blob.
	Reopen(ctx context.Context, desc ocispec.Descriptor, src blob.Source) (Layer, error)
}

// ImageVersioner is the optional ability of a [Writer] to say on what its images depend beside their source, so that an image that was
// converted before is known as a whole.
type ImageVersioner interface {
	// ImageVersion changes whenever the manifest of the same source, or what that names, changes: [Writer.Version] and every option
	// that counts for the image alone. It is short, and the same for the same options.
	ImageVersion() string
}

// IndexMarker is the optional ability of a [Writer] to mark its images in an index, so that runtimes that know the format
// find them and others pass them over.
type IndexMarker interface {
	// MarkIndexEntry returns the descriptor with the format's artifact type and platform features.
	MarkIndexEntry(d ocispec.Descriptor) ocispec.Descriptor
}

// KeepsLayers is the optional ability of a [Writer] whose images refer to the layers of their source. The target gets these,
// as they are, beside what the writer makes, and the source's manifest and configuration, which keep them there.
type KeepsLayers interface{ KeepsLayers() bool }

// ErrAgain is what Entry and Data of a [LayerWriter] give for a layer that cannot be stored in the way that was tried: the layer has to be
// converted once more, with [LayerSource].Again set.
var ErrAgain = errors.New("layer has to be converted in another way")

// Tracer is the optional ability of a [Writer] that asks [LayerSource].Stream for more than the plain bytes.
type Tracer interface {
	// Trace says what the stream must note.
	Trace() flate.Trace
}

// ReferrerMarker is the optional ability of a [Writer] whose images have another artifact type as referrers than in an index.
type ReferrerMarker interface {
	// ReferrerType returns the artifact type of a manifest that refers to the source.
	ReferrerType() string
}

// LayerSource says which layer is converted.
type LayerSource struct {
	Desc  ocispec.Descriptor // as in the source manifest
	Index int                // place in the image, from 0 at the bottom
	// Stream is what is inflated. While a [LayerWriter]'s Entry and Data are called, it stands at the piece that holds these
	// bytes, and may be asked about it; [tarfs.Entry].Data says where an entry's content lies. It notes what the Tracers
	// among the writers ask for, and maybe more. It is nil where the layer does not come from a stream.
	Stream *flate.Reader
	// Again says that the format's LayerWriter gave the layer up with ErrAgain.
	Again bool
	// Chains are the chain IDs, as OCI defines them, of this layer, which comes last, and of those below: each stands for the content
	// of a layer and of all that it lies on. It is empty where no image is converted.
	Chains []digest.Digest
	// Below waits for the layers below to be ready, and returns them, lowest first. It is for formats that ask for it, see
	// [NeedsParents], whose next layer alone may change what Data of the highest of them holds. nil means that there is none.
	Below func(ctx context.Context) ([]Layer, error)
	// Ready says what Below of the layers above needs of this one, before Close has stored it and returns. It may be nil, and need not
	// be called.
	Ready func(l Layer)
	// Spool makes a temporary file for what cannot be streamed, such as a header that depends on the end.
	Spool func() (Spool, error)
}

// SetReady calls Ready, where there is one.
func (s *LayerSource) SetReady(l Layer) {
	if s.Ready != nil {
		s.Ready(l)
	}
}

// LayersBelow waits for the layers below, where there are some; see Below.
func (s *LayerSource) LayersBelow(ctx context.Context) ([]Layer, error) {
	if s.Below == nil {
		return nil, nil
	}
	return s.Below(ctx)
}

// Spool is a temporary file, which vanishes when it is closed.
type Spool interface {
	io.Writer
	io.WriterAt
	io.ReaderAt
	io.Closer
}

// LayerWriter is pushed one layer in tar order, so that one inflation can feed many writers. Entry comes
// before the Data of its content. It is used by one goroutine; after an error only Abort may be called.
type LayerWriter interface {
	// Entry begins an entry; the one before it is complete. node is the entry's place in the layer's tree, as
	// package tarfs built it: the writer sets the extents of regular files with content of its own (not hard links)
	// by the time Close returns. node is nil for an entry that has no node.
	Entry(e *tarfs.Entry, node *tree.Node) error
	// Data gives the next bytes of the current entry's content. p is valid during the call only.
	Data(p []byte) error
	// Close ends the layer. t is its whole tree. The stored blob has been given to the sink.
	Close(t *tree.Tree) (Layer, error)
	// Abort gives the layer up and frees what it holds. It may be called after Close.
	Abort()
}

// Follower is the optional ability of a [LayerWriter] that looks at every piece of [LayerSource].Stream, also at those without content
// of an entry.
type Follower interface {
	// Follow is called for each piece when the stream stands at it, before what lies in it is given to Entry and Data. p is the piece; it
	// is valid during the call only.
	Follow(p []byte) error
}

// Layer is a finished layer.
type Layer struct {
	// Desc is the stored blob as it stands in the manifest; its digest is empty where the layer has none.
	Desc ocispec.Descriptor
	// Tree of the layer alone, with whiteouts; extents refer to the layer's own blob as number 0.
	Tree *tree.Tree
	// Final says that nobody needs Tree any more when the layer is given to [Writer.Finish], which may make its nodes a part
	// of the image's tree instead of copying them. It may not be set where another layer of the image has the same Tree.
	Final bool
	// Data is the format's own: chunk tables and the like.
	Data any
	// TOCDigest is that of the table of contents in the stored blob, as the format's readers want it; "" for formats that have none, and
	// for layers that were taken up again.
	TOCDigest digest.Digest
	Stats     LayerStats
}

// LayerStats are the figures of a layer. Sizes are in bytes.
type LayerStats struct {
	Entries     int64              `json:"entries"`
	Plain       int64              `json:"plain_bytes"`  // content of regular files
	Stored      int64              `json:"stored_bytes"` // stored blob
	Chunks      int64              `json:"chunks"`
	Referred    bool               `json:"referred,omitempty"` // the layer stays as it is, and Stored is what was added
	Deduped     int64              `json:"deduplicated_chunks"`
	DedupedSize int64              `json:"deduplicated_bytes"`
	CPU         map[string]float64 `json:"cpu_seconds,omitempty"` // by stage
}

// Result is a finished image.
type Result struct {
	Desc     ocispec.Descriptor // of the manifest
	Manifest []byte             // as it must be stored
	// Needs are objects of other images that the manifest names, and the target may lack.
	Needs []ocispec.Descriptor
	Stats map[string]int64   // the format's own figures
	CPU   map[string]float64 // seconds by stage
}

// Sink takes stored objects of one target. It may be used concurrently.
type Sink interface {
	// Create begins an object whose digest is not known yet. It is streamed to the target while it is written.
	Create(ctx context.Context, mediaType string) (ObjectWriter, error)
	// Put stores a small object, unless the target has it.
	Put(ctx context.Context, desc ocispec.Descriptor, content []byte) error
}

// ObjectWriter takes one object.
type ObjectWriter interface {
	io.Writer
	// Commit ends the object and returns its digest and size once the target has it.
	Commit(ctx context.Context) (digest.Digest, int64, error)
	// Abort gives the object up. It may be called after Commit, and then does nothing.
	Abort()
}

// RunningDigest is the optional ability of an [ObjectWriter] to tell the digest of what was written to it so far, for formats
// whose metadata has the digest of a part that the object begins with: it is not computed twice.
type RunningDigest interface {
	// RunningSHA256 returns the digest, and false where the target uses another algorithm.
	RunningSHA256() (sum [32]byte, ok bool)
}
