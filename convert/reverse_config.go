package convert

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
)

// fitConfig gives the configuration these diff IDs. A history of another number of layers is left out.
func fitConfig(config []byte, diffIDs []digest.Digest) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, fmt.Errorf("config: %w: %w", blob.ErrCorrupt, err)
	}
	var history []ocispec.History
	if raw, ok := fields["history"]; ok {
		if err := json.Unmarshal(raw, &history); err != nil {
			return nil, fmt.Errorf("config: history: %w: %w", blob.ErrCorrupt, err)
		}
	}
	n := 0
	for _, h := range history {
		if !h.EmptyLayer {
			n++
		}
	}
	if n != len(diffIDs) {
		delete(fields, "history")
	}
	var err error
	if fields["rootfs"], err = json.Marshal(ocispec.RootFS{Type: "layers", DiffIDs: diffIDs}); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	out, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return out, nil
}
