package converter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// bufferSize is how much goes to a content store or a caller at once, in bytes: stores behind a socket are slow with little.
	bufferSize = 1 << 20
	// maxJSON is the largest manifest, index or config, in bytes.
	maxJSON = 16 << 20

	gcLabel       = "containerd.io/gc.ref.content."
	gcLabelConfig = gcLabel + "config"
	gcLabelLayer  = gcLabel + "l."
)

// ingest writes what fill writes to a store, and returns its digest and size. labels are asked for when fill is done; they are set
// even if the store has the blob. What an earlier run left under the same ref is dropped, and a failure leaves nothing.
func ingest(ctx context.Context, cs content.Store, ref string, fill func(io.Writer) error, labels func(digest.Digest) map[string]string) (_ digest.Digest, _ int64, err error) {
	w, err := content.OpenWriter(ctx, cs, content.WithRef(ref))
	if err != nil {
		return "", 0, fmt.Errorf("open writer %s: %w", ref, err)
	}
	defer func() {
		err = errors.Join(err, w.Close())
		if err != nil {
			_ = cs.Abort(context.WithoutCancel(ctx), ref) // at worst it stays until the next run, or until it is collected
		}
	}()
	st, err := w.Status()
	if err != nil {
		return "", 0, fmt.Errorf("writer %s: %w", ref, err)
	}
	if st.Offset > 0 {
		if err := w.Truncate(0); err != nil {
			return "", 0, fmt.Errorf("truncate what was left of %s: %w", ref, err)
		}
	}
	d := digest.SHA256.Digester()
	count := &counter{}
	b := bufio.NewWriterSize(io.MultiWriter(w, d.Hash(), count), bufferSize)
	if err := fill(b); err != nil {
		return "", 0, err
	}
	if err := b.Flush(); err != nil {
		return "", 0, fmt.Errorf("write %s: %w", ref, err)
	}
	set := labels(d.Digest())
	err = w.Commit(ctx, count.n, d.Digest(), content.WithLabels(set))
	if errdefs.IsAlreadyExists(err) {
		err = setLabels(ctx, cs, d.Digest(), set)
	}
	if err != nil {
		return "", 0, fmt.Errorf("commit %s: %w", ref, err)
	}
	return d.Digest(), count.n, nil
}

// counter counts bytes.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// setLabels sets labels of a blob and leaves its others alone.
func setLabels(ctx context.Context, cs content.Manager, d digest.Digest, labels map[string]string) error {
	paths := make([]string, 0, len(labels))
	for k := range labels {
		paths = append(paths, "labels."+k)
	}
	if _, err := cs.Update(ctx, content.Info{Digest: d, Labels: labels}, paths...); err != nil {
		return fmt.Errorf("label %s: %w", d, err)
	}
	return nil
}

// readJSON reads a manifest, index or config, and returns the labels of the blob, which are the caller's.
func readJSON(ctx context.Context, cs content.Store, x any, desc ocispec.Descriptor) (map[string]string, error) {
	info, err := cs.Info(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	if info.Size > maxJSON {
		return nil, fmt.Errorf("%s %s has %d bytes, the limit is %d", desc.MediaType, desc.Digest, info.Size, maxJSON)
	}
	text, err := content.ReadBlob(ctx, cs, desc)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, x); err != nil {
		return nil, fmt.Errorf("%s %s: %w", desc.MediaType, desc.Digest, err)
	}
	labels := make(map[string]string, len(info.Labels))
	for k, v := range info.Labels {
		labels[k] = v
	}
	return labels, nil
}

// writeJSON stores a manifest, index or config with its labels, and returns old with new digest and size.
func writeJSON(ctx context.Context, cs content.Store, x any, old ocispec.Descriptor, labels map[string]string) (*ocispec.Descriptor, error) {
	text, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	d := digest.SHA256.FromBytes(text)
	fill := func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(text))
		return err
	}
	if old.Digest, old.Size, err = ingest(ctx, cs, "converter-write-json-"+d.String(), fill, func(digest.Digest) map[string]string { return labels }); err != nil {
		return nil, err
	}
	old.Data = nil
	return &old, nil
}

// linkChildren sets the labels that keep a manifest's config and layers from being collected.
func linkChildren(labels map[string]string, m *ocispec.Manifest) {
	for k := range labels {
		if strings.HasPrefix(k, gcLabelLayer) {
			delete(labels, k)
		}
	}
	for i, l := range m.Layers {
		labels[fmt.Sprint(gcLabelLayer, i)] = l.Digest.String()
	}
	labels[gcLabelConfig] = m.Config.Digest.String()
}
