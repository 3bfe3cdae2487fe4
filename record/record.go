package record

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
)

// Record is an open record, which may be used concurrently.
type Record interface {
	convert.Record
	convert.ManifestRecord
	// Entries returns all layers that are known, sorted by their keys.
	Entries(ctx context.Context) ([]Entry, error)
	// Import adds an entry. Its places are added to those that are known of the blob.
	Import(ctx context.Context, e Entry) error
	// Remove forgets layers and returns how many: with a digest, those whose source layer or blob that is; with a place, all that
	// is there or below it, unless it was seen elsewhere too; with neither, all. Images as a whole are forgotten in each case.
	Remove(ctx context.Context, dgst digest.Digest, place string) (int64, error)
	Close() error
}

// None knows nothing and remembers nothing.
var None Record = (*DB)(nil)

// Foreign is the writer of layers that overlaybd's own converter made. They are known by their chain alone, and no writer of ours
// takes them up: a layer fits only on the exact file system below it, of which the rows of that converter say nothing.
const Foreign = "overlaybd-convertor"

// Entry is what is known of one layer, as it is exported: one JSON object.
type Entry struct {
	Source digest.Digest      `json:"source,omitempty"` // of the stored source layer; "" for layers of Foreign
	Format string             `json:"format"`
	Writer string             `json:"writer"`          // version and options of the writer
	Below  digest.Digest      `json:"below,omitempty"` // of a layer that depends on those below, see [convert.Key]
	Chain  digest.Digest      `json:"chain,omitempty"`
	Blob   ocispec.Descriptor `json:"blob"`
	Places []string           `json:"places"` // repositories, layouts and archives where the blob was seen
}

// ErrEntry means that an entry to import lacks something.
var ErrEntry = errors.New("invalid entry")

// Key returns what the layer is known by.
func (e *Entry) Key() convert.Key {
	return convert.Key{Source: e.Source, Format: e.Format, Writer: e.Writer, Below: e.Below, Chain: e.Chain}
}

// isForeign reports whether a key is that of a layer of another converter.
func isForeign(k convert.Key) bool { return k.Source == "" && k.Writer == Foreign }

// Validate returns ErrEntry for an entry that lacks something.
func (e *Entry) Validate() error {
	needed := e.Source
	if isForeign(e.Key()) {
		needed = e.Chain
	}
	if err := needed.Validate(); err != nil {
		return fmt.Errorf("%w: source %.100q: %w", ErrEntry, needed, err)
	}
	for _, d := range []digest.Digest{e.Below, e.Chain} {
		if d == "" {
			continue
		}
		if err := d.Validate(); err != nil {
			return fmt.Errorf("%w: chain %.100q: %w", ErrEntry, d, err)
		}
	}
	if err := e.Blob.Digest.Validate(); err != nil {
		return fmt.Errorf("%w: blob %.100q: %w", ErrEntry, e.Blob.Digest, err)
	}
	if e.Format == "" || e.Writer == "" || e.Blob.Size < 0 {
		return fmt.Errorf("%w: layer %s: format %q, writer %q, %d bytes", ErrEntry, e.Source, e.Format, e.Writer, e.Blob.Size)
	}
	return nil
}

// importEntry stores an entry once it is valid.
func importEntry(ctx context.Context, r convert.Record, e Entry) error {
	if err := e.Validate(); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return r.Store(ctx, e.Key(), convert.Known{Desc: e.Blob, Places: e.Places})
}

// sortEntries sorts by key, then by blob.
func sortEntries(list []Entry) {
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Format, b.Format), cmp.Compare(a.Writer, b.Writer),
			cmp.Compare(a.Below, b.Below), cmp.Compare(a.Chain, b.Chain), cmp.Compare(a.Blob.Digest, b.Blob.Digest))
	})
}

func parseDescriptor(raw string) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	if err := json.Unmarshal([]byte(raw), &desc); err != nil {
		return desc, err
	}
	return desc, desc.Digest.Validate()
}
