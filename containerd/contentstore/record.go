package contentstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/store"
)

// labelKnown begins the label of a source's layer that describes what the layer became: the format's name and a digest of the key
// follow. Behind labelRef, the same keeps that blob for as long as the source's layer stays.
const labelKnown = "lazuli."

// Record knows what layers were converted into, by labels of these layers in a content store. It knows no places: what was converted is
// in the same store.
type Record struct{ cs content.Manager }

var _ convert.Record = (*Record)(nil)

// NewRecord returns the record of a content store, for conversions from it into it.
func NewRecord(cs content.Manager) *Record { return &Record{cs} }

// label is the label that a layer's conversion has.
func label(k convert.Key) string {
	h := sha256.New()
	for _, s := range []string{k.Source.String(), k.Format, k.Writer, k.Below.String(), k.Chain.String()} {
		_, _ = fmt.Fprintf(h, "%d:%s", len(s), s) // hashes take everything
	}
	return labelKnown + k.Format + "." + hex.EncodeToString(h.Sum(nil)[:shortDigest])
}

// Lookup implements [convert.Record].
func (r *Record) Lookup(ctx context.Context, k convert.Key) (convert.Known, bool, error) {
	info, err := r.cs.Info(ctx, k.Source)
	if err != nil {
		if err = Fail(ctx, fmt.Sprintf("look for what %s became", k.Source), err); errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		return convert.Known{}, false, err
	}
	raw, ok := info.Labels[label(k)]
	if !ok || raw == "" {
		return convert.Known{}, false, nil
	}
	var desc ocispec.Descriptor
	if err := json.Unmarshal([]byte(raw), &desc); err != nil {
		return convert.Known{}, false, fmt.Errorf("label %s of %s: %w: %w", label(k), k.Source, blob.ErrCorrupt, err)
	}
	if err := desc.Digest.Validate(); err != nil || desc.Size < 0 {
		return convert.Known{}, false, fmt.Errorf("label %s of %s: %w", label(k), k.Source, errors.Join(blob.ErrCorrupt, err))
	}
	return convert.Known{Desc: desc}, true, nil
}

// Store implements [convert.Record]. The source's layer has to be in the store.
func (r *Record) Store(ctx context.Context, k convert.Key, known convert.Known) error {
	raw, err := json.Marshal(known.Desc)
	if err != nil {
		return fmt.Errorf("describe %s: %w", known.Desc.Digest, err)
	}
	return r.set(ctx, k, string(raw), known.Desc.Digest.String())
}

// Forget implements [convert.Record].
func (r *Record) Forget(ctx context.Context, k convert.Key, _ string) error {
	return r.set(ctx, k, "", "")
}

// set sets the labels of a conversion; empty ones are removed.
func (r *Record) set(ctx context.Context, k convert.Key, desc, ref string) error {
	name := label(k)
	info, err := r.cs.Info(ctx, k.Source)
	if err == nil && info.Labels[name] == desc {
		return nil
	}
	if err == nil {
		err = addLabels(ctx, r.cs, k.Source, map[string]string{name: desc, labelRef + name: ref})
	}
	if err != nil {
		return Fail(ctx, fmt.Sprintf("note what %s became", k.Source), err)
	}
	return nil
}
