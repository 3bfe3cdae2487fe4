package contentstore

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// Labels by which containerd's garbage collection goes from an object to others, see docs/garbage-collection.md of containerd. It gives
// children of manifests the same ones, by their kind and with a number behind.
const (
	labelRef      = "containerd.io/gc.ref.content."
	labelNeeded   = labelRef + "lazuli.needed."   // with a number: objects that an image needs and its manifest does not list
	labelReferrer = labelRef + "lazuli.referrer." // with the beginning of the digest: manifests whose subject this is
)

// shortDigest is how much of a digest stands in a label.
const shortDigest = 16

// graph is what manifests of all kinds say about other objects.
type graph struct {
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Blobs        []ocispec.Descriptor `json:"blobs"` // of artifact manifests
	Subject      *ocispec.Descriptor  `json:"subject"`
	Annotations  map[string]string    `json:"annotations"`
}

// parseGraph decodes a manifest or index and checks the digests in it.
func parseGraph(desc ocispec.Descriptor, raw []byte) (*graph, error) {
	var g graph
	if err := json.Unmarshal(raw, &g); err != nil {
		return nil, fmt.Errorf("manifest %s: %w: %w", desc.Digest, blob.ErrCorrupt, err)
	}
	all := g.children()
	if g.Subject != nil {
		all = append(all, *g.Subject)
	}
	for _, d := range all {
		if err := d.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("manifest %s: digest %.100q: %w: %w", desc.Digest, d.Digest, blob.ErrCorrupt, err)
		}
	}
	return &g, nil
}

// children are the objects without which a manifest is not whole.
func (g *graph) children() []ocispec.Descriptor {
	all := slices.Concat(g.Manifests, g.Layers, g.Blobs)
	if g.Config != nil {
		all = append(all, *g.Config)
	}
	return all
}

// labels are the garbage collector's ways to the children, and to what is needed beside them.
func (g *graph) labels(needed []digest.Digest) map[string]string {
	labels := make(map[string]string)
	count := make(map[string]int)
	for _, d := range g.children() {
		kind := kindOf(d.MediaType)
		n := count[kind]
		count[kind]++
		if n == 0 && kind == kindConfig {
			labels[labelRef+kind] = d.Digest.String()
			continue
		}
		labels[labelRef+kind+strconv.Itoa(n)] = d.Digest.String()
	}
	for i, d := range needed {
		labels[labelNeeded+strconv.Itoa(i)] = d.String()
	}
	return labels
}

// kindConfig is the only kind that has no number, as there is one.
const kindConfig = "config"

// kindOf returns how containerd calls children of a media type.
func kindOf(mediaType string) string {
	switch {
	case mediaType == ocispec.MediaTypeImageConfig, mediaType == formats.MediaTypeDockerConfig:
		return kindConfig
	case store.IsImage(mediaType):
		return "m."
	case strings.HasPrefix(mediaType, "application/vnd.oci.image.layer."), strings.HasPrefix(mediaType, formats.MediaTypeDockerLayer):
		return "l."
	}
	return ""
}

// addLabels gives an object labels beside those that it has.
func addLabels(ctx context.Context, cs content.Manager, d digest.Digest, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	fields := slices.Sorted(maps.Keys(labels))
	for i := range fields {
		fields[i] = "labels." + fields[i]
	}
	_, err := cs.Update(ctx, content.Info{Digest: d, Labels: labels}, fields...)
	return err
}
