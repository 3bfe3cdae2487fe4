// Package oci reads plain OCI and Docker images: layers that are tars, gzip'd, zstd'd or as they are.
//
// The plain space of blob i is the tar of layer i. There is no index of such a layer, so opening an image goes through all its
// layers once (which verifies their digests and diff IDs), and its blobs can only be streamed from their beginnings.
package oci
