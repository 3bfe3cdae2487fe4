package formats

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
)

// Media types of Docker's images; those of OCI are in [ocispec].
const (
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	// MediaTypeDockerLayer is a layer that is not compressed; ".gzip" behind it says that it is.
	MediaTypeDockerLayer = "application/vnd.docker.image.rootfs.diff.tar"
)

// IsDocker reports whether the image has Docker's media types.
func (m *Manifest) IsDocker() bool {
	return m.Manifest.MediaType == MediaTypeDockerManifest || m.Desc.MediaType == MediaTypeDockerManifest
}

// ChangeConfig returns an image's configuration with other layers and, where it has a history, another one. Everything else
// of it is kept, also what this version does not know.
func ChangeConfig(source []byte, diffIDs []digest.Digest, change func([]json.RawMessage) []json.RawMessage) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(source, &fields); err != nil {
		return nil, fmt.Errorf("config: %w: %w", blob.ErrCorrupt, err)
	}
	var err error
	if fields["rootfs"], err = json.Marshal(ocispec.RootFS{Type: "layers", DiffIDs: diffIDs}); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if raw, ok := fields["history"]; ok {
		var history []json.RawMessage
		if err := json.Unmarshal(raw, &history); err != nil {
			return nil, fmt.Errorf("config: history: %w: %w", blob.ErrCorrupt, err)
		}
		// A history without entries would have fewer layers than the image.
		if len(history) > 0 {
			if fields["history"], err = json.Marshal(change(history)); err != nil {
				return nil, fmt.Errorf("config: history: %w", err)
			}
		}
	}
	out, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return out, nil
}
