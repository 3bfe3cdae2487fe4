package containerd

import (
	"cmp"
	"context"
	"fmt"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/store"
)

// name is what containerd calls the image of a reference: the whole of it.
func name(r store.Ref) string {
	r.Transport, r.Namespace = store.Registry, ""
	return r.String()
}

// fail says what was tried with a service, and classifies why it did not work.
func (c *client) fail(ctx context.Context, what string, err error) error {
	return contentstore.Fail(ctx, what+" "+c.ref.String(), errgrpc.ToNative(err))
}

// resolve returns what containerd has under the reference's name.
func (c *client) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	resp, err := c.images.Get(ctx, &imagesapi.GetImageRequest{Name: name(c.ref)})
	if err != nil {
		return ocispec.Descriptor{}, c.fail(ctx, "resolve", err)
	}
	t := resp.GetImage().GetTarget()
	desc := ocispec.Descriptor{
		MediaType: t.GetMediaType(), Digest: digest.Digest(t.GetDigest()), Size: t.GetSize(), Annotations: t.GetAnnotations(),
	}
	if err := desc.Digest.Validate(); err != nil {
		return desc, fmt.Errorf("resolve %s: digest %.100q: %w: %w", c.ref, desc.Digest, blob.ErrCorrupt, err)
	}
	return desc, nil
}

// maxNamespaces bounds where is looked for an image that is not where it should be.
const maxNamespaces = 32

// elsewhere adds to the error of an image that is not there in which other namespace it is.
func (c *client) elsewhere(ctx context.Context, err error) error {
	list, lerr := c.namespaces.List(ctx, &namespacesapi.ListNamespacesRequest{})
	if lerr != nil {
		return err
	}
	all := list.GetNamespaces()
	for _, n := range all[:min(len(all), maxNamespaces)] {
		other := *c
		other.ref.Namespace = n.GetName()
		if _, oerr := other.resolve(namespaces.WithNamespace(ctx, n.GetName())); oerr == nil {
			return fmt.Errorf("%w; there is a %s", err, other.ref)
		}
	}
	return err
}

// publish names an image.
func (c *client) publish(ctx context.Context, tag string, desc ocispec.Descriptor) error {
	named := c.ref
	named.Tag = cmp.Or(tag, named.Tag)
	image := &imagesapi.Image{Name: name(named), Target: &types.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest.String(), Size: desc.Size, Annotations: desc.Annotations,
	}}
	_, err := c.images.Create(ctx, &imagesapi.CreateImageRequest{Image: image})
	if err != nil && errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		_, err = c.images.Update(ctx, &imagesapi.UpdateImageRequest{Image: image, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"target"}}})
	}
	if err != nil {
		return c.fail(ctx, "name "+desc.Digest.String(), err)
	}
	return nil
}
