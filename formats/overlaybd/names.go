package overlaybd

import (
	"strings"

	"github.com/opencontainers/go-digest"
)

// Name of the format as in flags, files and metrics.
const Name = "overlaybd"

// ArtifactType of a manifest that refers to its source.
const ArtifactType = "application/vnd.containerd.overlaybd.native.v1+json"

// Annotations of layers. Those without the prefix of turboOCI are for both kinds.
const (
	annotationPrefix = "containerd.io/snapshot/overlaybd/"

	AnnotationVersion      = annotationPrefix + "version"
	AnnotationDigest       = annotationPrefix + "blob-digest"
	AnnotationSize         = annotationPrefix + "blob-size"
	AnnotationFSType       = annotationPrefix + "blob-fs-type"
	AnnotationAcceleration = annotationPrefix + "acceleration-layer"

	// AnnotationTarget names the layer that a layer of turboOCI refers to, and AnnotationTargetType is its media type.
	AnnotationTarget     = annotationPrefix + "turbo-oci/target-digest"
	AnnotationTargetType = annotationPrefix + "turbo-oci/target-media-type"
	// Older names of these.
	annotationFastTarget     = annotationPrefix + "fastoci/target-digest"
	annotationFastTargetType = annotationPrefix + "fastoci/target-media-type"
)

// Values of annotations.
const (
	VersionNative = "0.1.0"
	VersionTurbo  = "0.1.0-turbo.ociv1"
	yes           = "yes"
)

// nilUUID is the text of no UUID.
const nilUUID = "00000000-0000-0000-0000-000000000000"

// UUID returns the UUID of a layer with that chain ID: its first 32 digits, in capitals.
func UUID(chain digest.Digest) string {
	h := strings.ToUpper(chain.Encoded())
	if len(h) < 32 {
		return nilUUID
	}
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:32]
}
