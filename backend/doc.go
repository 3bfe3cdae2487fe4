// Package backend keeps the data blobs of images outside of registries, where Nydus users have them: in a directory ("localfs"), in
// an S3-compatible object store ("s3", "oss"), or behind an HTTP server that gives them by name ("http-proxy", reading only).
//
// A blob's name is the hexadecimal form of its SHA-256. [NewTarget] and [NewSource] put a backend in front of an image's place, so that
// everything above sees one place. Configurations are those of nydusd and nydusify.
package backend
