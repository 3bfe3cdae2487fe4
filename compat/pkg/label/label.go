// Package label has the labels of snapshots and content that Nydus' snapshotter knows.
package label

import (
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
)

// Labels that containerd's clients set.
const (
	CRIImageRef       = snapshotters.TargetRefLabel
	CRIImageLayers    = snapshotters.TargetImageLayersLabel
	CRILayerDigest    = snapshotters.TargetLayerDigestLabel
	CRIManifestDigest = snapshotters.TargetManifestDigestLabel

	// TargetSnapshotRef has the chain ID of the snapshot that is prepared for an image's layer.
	TargetSnapshotRef = "containerd.io/snapshot.ref"
)

// Labels that builders of images set.
const (
	NydusDataLayer = "containerd.io/snapshot/nydus-blob"      // a layer with data
	NydusMetaLayer = "containerd.io/snapshot/nydus-bootstrap" // the bootstrap layer
	NydusRefLayer  = "containerd.io/snapshot/nydus-ref"       // digest of the OCI layer that a layer is an index of
	NydusSignature = "containerd.io/snapshot/nydus-signature" // of the bootstrap
	TarfsHint      = "containerd.io/snapshot/tarfs-hint"      // the image is best run by tarfs
)

// Labels that the snapshotter sets, or those who call it.
const (
	NydusTarfsLayer        = "containerd.io/snapshot/nydus-tarfs"       // id of the layer's blob
	NydusImageBlockInfo    = "containerd.io/snapshot/nydus-image-block" // dm-verity of the image's disk
	NydusLayerBlockInfo    = "containerd.io/snapshot/nydus-layer-block" // dm-verity of the layer's disk
	NydusImagePullSecret   = "containerd.io/snapshot/pullsecret"
	NydusImagePullUsername = "containerd.io/snapshot/pullusername"
	NydusProxyMode         = "containerd.io/snapshot/nydus-proxy-mode"        // somebody else pulls the image
	NydusIndexAlternative  = "containerd.io/snapshot/nydus-index-alternative" // the index has a Nydus manifest, too
	StargzLayer            = "containerd.io/snapshot/stargz"
	OverlayfsVolatileOpt   = "containerd.io/snapshot/overlay.volatile"
)

// AppendLabelsHandlerWrapper returns what gives layers the CRI's labels while they are pulled.
func AppendLabelsHandlerWrapper(ref string) func(images.Handler) images.Handler {
	return snapshotters.AppendInfoHandlerWrapper(ref)
}

// IsNydusDataLayer reports whether labels are those of a layer with data.
func IsNydusDataLayer(labels map[string]string) bool { return has(labels, NydusDataLayer) }

// IsNydusMetaLayer reports whether labels are those of a bootstrap layer.
func IsNydusMetaLayer(labels map[string]string) bool { return has(labels, NydusMetaLayer) }

// IsTarfsDataLayer reports whether labels are those of a layer of tarfs.
func IsTarfsDataLayer(labels map[string]string) bool { return has(labels, NydusTarfsLayer) }

// IsNydusProxyMode reports whether somebody else pulls the image.
func IsNydusProxyMode(labels map[string]string) bool { return has(labels, NydusProxyMode) }

// HasTarfsHint reports whether the image is best run by tarfs.
func HasTarfsHint(labels map[string]string) bool { return has(labels, TarfsHint) }

func has(labels map[string]string, key string) bool {
	_, ok := labels[key]
	return ok
}
