package converter

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// bootstrapHistory is the line of a bootstrap layer in an image's history.
func bootstrapHistory() ocispec.History {
	return ocispec.History{CreatedBy: "Nydus Converter", Comment: "Nydus Bootstrap Layer"}
}

// config is an image's config. Fields that the OCI does not know (Docker's health checks) stay as they are.
type config struct {
	fields  map[string]json.RawMessage
	labels  map[string]string
	diffIDs []digest.Digest
	history []json.RawMessage
}

func readConfig(ctx context.Context, cs content.Store, desc ocispec.Descriptor) (*config, error) {
	c := &config{}
	var err error
	if c.labels, err = readJSON(ctx, cs, &c.fields, desc); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	var root ocispec.RootFS
	if err := c.field("rootfs", &root); err != nil {
		return nil, err
	}
	c.diffIDs = root.DiffIDs
	return c, c.field("history", &c.history)
}

// field decodes a field, if there is one.
func (c *config) field(name string, x any) error {
	raw, ok := c.fields[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, x); err != nil {
		return fmt.Errorf("config: %s: %w", name, err)
	}
	return nil
}

// addBootstrap adds the line of the bootstrap layer to the history.
func (c *config) addBootstrap() error {
	line, err := json.Marshal(bootstrapHistory())
	c.history = append(c.history, line)
	return err
}

// removeBootstrap removes it again.
func (c *config) removeBootstrap() {
	c.history = slices.DeleteFunc(c.history, func(raw json.RawMessage) bool {
		var h, boot = ocispec.History{}, bootstrapHistory()
		return json.Unmarshal(raw, &h) == nil && h.CreatedBy == boot.CreatedBy && h.Comment == boot.Comment
	})
}

// write stores the config and returns old with the new digest.
func (c *config) write(ctx context.Context, cs content.Store, old ocispec.Descriptor) (*ocispec.Descriptor, error) {
	if c.fields == nil {
		c.fields = make(map[string]json.RawMessage)
	}
	for name, x := range map[string]any{"rootfs": ocispec.RootFS{Type: "layers", DiffIDs: c.diffIDs}, "history": c.history} {
		raw, err := json.Marshal(x)
		if err != nil {
			return nil, fmt.Errorf("config: %s: %w", name, err)
		}
		c.fields[name] = raw
	}
	if len(c.history) == 0 {
		delete(c.fields, "history")
	}
	desc, err := writeJSON(ctx, cs, c.fields, old, c.labels)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return desc, nil
}
