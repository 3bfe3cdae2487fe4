package output

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/moby/buildkit/util/purl"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// Limits of attestations, in bytes: an SBOM names every file of an image.
const maxStatement = 256 << 20

// mediaTypeInToto is that of layers that are statements about an image.
const mediaTypeInToto = "application/vnd.in-toto+json"

// attestations points the attestations of an index at what the images became: they are about plain images, which nobody will see.
// Nobody signed them yet.
type attestations struct {
	target Objects
	became map[digest.Digest]ocispec.Descriptor // plain images to ours
	name   string                               // of subjects
}

// Objects is where what was made is, and where more can be put.
type Objects interface {
	formats.Sources
	formats.Sink
	// Push stores a blob of known digest.
	Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error
}

// PointAttestations points the attestations of what was made at our images.
func (m *Made) PointAttestations(ctx context.Context, target Objects) error {
	if !store.IsIndex(m.Tagged.MediaType) {
		return nil
	}
	a := &attestations{target, make(map[digest.Digest]ocispec.Descriptor), m.Name}
	ours := make(map[digest.Digest]digest.Digest) // ours to plain images
	for _, im := range m.Images {
		a.became[im.Source.Digest] = ocispec.Descriptor{
			MediaType: im.Desc.MediaType, Digest: im.Desc.Digest, Size: im.Desc.Size, Platform: im.Source.Platform,
		}
		ours[im.Desc.Digest] = im.Source.Digest
	}
	index, err := store.LoadIndex(ctx, a.target, m.Tagged)
	if err != nil {
		return err
	}
	changed := false
	entries := index.Index.Manifests
	for i, e := range entries {
		if e.Annotations[annotationReferenceType] != "attestation-manifest" || ours[digest.Digest(e.Annotations[annotationReferenceDigest])] == "" {
			continue
		}
		d, err := a.manifest(ctx, e)
		if err != nil {
			return fmt.Errorf("attestations of %s: %w", e.Annotations[annotationReferenceDigest], err)
		}
		changed = changed || d.Digest != e.Digest
		entries[i].Digest, entries[i].Size = d.Digest, d.Size
	}
	if !changed {
		return nil
	}
	desc, raw, err := MarshalIndex(entries, index.Index.Annotations)
	if err != nil {
		return err
	}
	m.Tagged = desc
	return a.target.Put(ctx, desc, raw)
}

// manifest points an attestation manifest, its subject and its statements, at our images.
func (a *attestations) manifest(ctx context.Context, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	m, err := store.LoadManifest(ctx, a.target, desc)
	if err != nil {
		return desc, err
	}
	out := m.Manifest
	if out.Subject != nil {
		if d, ok := a.became[out.Subject.Digest]; ok {
			d.Platform = nil // some registries refuse it there
			out.Subject = &d
		}
	}
	became := make(map[digest.Digest]digest.Digest) // statements
	for i, l := range out.Layers {
		if l.MediaType != mediaTypeInToto {
			continue
		}
		raw, err := store.ReadAll(ctx, a.target, l, maxStatement)
		if err != nil {
			return desc, err
		}
		if raw, err = a.statement(raw); err != nil {
			return desc, fmt.Errorf("statement %s: %w", l.Digest, err)
		}
		d := formats.DigestOf(l.MediaType, raw)
		if err := a.target.Push(ctx, d, bytes.NewReader(raw)); err != nil {
			return desc, err
		}
		became[l.Digest] = d.Digest
		out.Layers[i].Digest, out.Layers[i].Size = d.Digest, d.Size
	}
	if out.Config, err = a.config(ctx, m, became); err != nil {
		return desc, err
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return desc, err
	}
	d := formats.DigestOf(desc.MediaType, raw)
	return d, a.target.Put(ctx, d, raw)
}

// config gives the diff IDs of a configuration, which are the statements, the new digests. Artifacts have none.
func (a *attestations) config(ctx context.Context, m *formats.Manifest, became map[digest.Digest]digest.Digest) (ocispec.Descriptor, error) {
	desc := m.Manifest.Config
	if len(m.Config.RootFS.DiffIDs) == 0 {
		return desc, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(m.ConfigRaw, &fields); err != nil {
		return desc, err
	}
	rootFS := m.Config.RootFS
	for i, d := range rootFS.DiffIDs {
		if to := became[d]; to != "" {
			rootFS.DiffIDs[i] = to
		}
	}
	var err error
	if fields["rootfs"], err = json.Marshal(rootFS); err != nil {
		return desc, err
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return desc, err
	}
	d := formats.DigestOf(desc.MediaType, raw)
	return d, a.target.Put(ctx, d, raw)
}

// statement points the subjects of an in-toto statement at our images.
func (a *attestations) statement(raw []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	var subjects []map[string]json.RawMessage
	if len(fields["subject"]) == 0 {
		return raw, nil
	}
	if err := json.Unmarshal(fields["subject"], &subjects); err != nil {
		return nil, fmt.Errorf("subjects: %w", err)
	}
	changed := false
	for _, s := range subjects {
		var digests map[string]string
		if json.Unmarshal(s["digest"], &digests) != nil {
			continue // it is about something else
		}
		d, ok := a.became[digest.NewDigestFromEncoded(digest.SHA256, digests["sha256"])]
		if !ok {
			continue
		}
		text, err := json.Marshal(map[string]string{"sha256": d.Digest.Encoded()})
		if err != nil {
			return nil, err
		}
		s["digest"], changed = text, true
		if a.name == "" {
			continue
		}
		name, err := purl.RefToPURL(packageurl.TypeDocker, a.name, d.Platform)
		if err == nil {
			s["name"], err = json.Marshal(name)
		}
		if err != nil {
			return nil, fmt.Errorf("name of a subject: %w", err)
		}
	}
	if !changed {
		return raw, nil
	}
	text, err := json.Marshal(subjects)
	if err != nil {
		return nil, err
	}
	fields["subject"] = text
	return json.Marshal(fields)
}
