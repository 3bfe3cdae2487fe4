package nydus

// Names of the formats in flags, files and metrics.
const (
	Name    = "nydus"
	NameRef = "nydus-ref" // the data are the source's own layers
)

// Media types and annotations, as the reference tools have them.
const (
	MediaTypeBlob       = "application/vnd.oci.image.layer.nydus.blob.v1"
	AnnotationBlob      = "containerd.io/snapshot/nydus-blob"
	AnnotationBootstrap = "containerd.io/snapshot/nydus-bootstrap"
	AnnotationEncrypted = "containerd.io/snapshot/nydus-encrypted-blob"
	AnnotationRef       = "containerd.io/snapshot/nydus-ref" // on a layer: digest of the original layer
	// AnnotationTable, on a layer, is the digest of its chunk table as stored, with the header, so that this part of the layer can be
	// fetched and verified alone. No other tool writes it.
	AnnotationTable        = "io.lazuli.nydus.blob-meta.digest"
	AnnotationFSVersion    = "containerd.io/snapshot/nydus-fs-version"
	AnnotationSourceDigest = "containerd.io/snapshot/nydus-source-digest"
	AnnotationSourceRef    = "containerd.io/snapshot/nydus-source-reference"

	// artifactType and osFeature mark our manifests in an index, each for other generations of runtimes.
	artifactType = "application/vnd.nydus.image.manifest.v1+json"
	osFeature    = "nydus.remoteimage.v1"
	// artifactTypeRef is that of referrers whose data are the layers of their subject.
	artifactTypeRef = "application/vnd.nydus.ref.v1"

	fsVersion = "6"

	// bootstrapComment is what the bootstrap layer's entry in the history says.
	bootstrapComment = "Nydus Bootstrap Layer"
	// dictionaryComment is what the entries of a chunk dictionary's blobs say.
	dictionaryComment = "Nydus Chunk Dictionary"

	bootstrapDir  = "image"
	bootstrapFile = "image/image.boot"
	metaSuffix    = ".blob.meta"
	// cacheDataSuffix is that of the plain space in a cache of the reference's runtime.
	cacheDataSuffix = ".blob.data"
)
