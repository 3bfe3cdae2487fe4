package converter

import (
	"errors"

	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// What marks Nydus images in indexes and manifests.
const (
	ManifestOSFeatureNydus    = "nydus.remoteimage.v1"
	ManifestConfigNydus       = "application/vnd.nydus.image.config.v1+json" // of a config that other clients shall not know
	ManifestArtifactTypeNydus = "application/vnd.nydus.image.manifest.v1+json"
	ManifestNydusCache        = "containerd.io/snapshot/nydus-cache"

	MediaTypeNydusBlob       = nydus.MediaTypeBlob
	BootstrapFileNameInLayer = "image/" + EntryBootstrap
)

// Annotations of layers, and labels of blobs in content stores.
const (
	LayerAnnotationFSVersion             = nydus.AnnotationFSVersion
	LayerAnnotationNydusBlob             = nydus.AnnotationBlob
	LayerAnnotationNydusBlobDigest       = "containerd.io/snapshot/nydus-blob-digest"
	LayerAnnotationNydusBlobSize         = "containerd.io/snapshot/nydus-blob-size"
	LayerAnnotationNydusBootstrap        = nydus.AnnotationBootstrap
	LayerAnnotationNydusSourceChainID    = "containerd.io/snapshot/nydus-source-chainid"
	LayerAnnotationNydusEncryptedBlob    = nydus.AnnotationEncrypted
	LayerAnnotationNydusSourceDigest     = nydus.AnnotationSourceDigest
	LayerAnnotationNydusTargetDigest     = "containerd.io/snapshot/nydus-target-digest"
	LayerAnnotationNydusReferenceBlobIDs = "containerd.io/snapshot/nydus-reference-blob-ids"

	// LayerAnnotationUncompressed has a layer's diff ID.
	LayerAnnotationUncompressed = "containerd.io/uncompressed"
)

// Entries of a layer's blob, for [UnpackEntry].
const (
	EntryBlob           = nydusblob.SectionData
	EntryBootstrap      = nydusblob.SectionBootstrap
	EntryBlobMeta       = nydusblob.SectionMeta
	EntryBlobMetaHeader = nydusblob.SectionMetaHeader
	EntryTOC            = nydusblob.SectionTOC
)

// ErrNotFound says that a blob has no entry of a name.
var ErrNotFound = errors.New("data not found")
