// Package formats holds the small interfaces that every image format implements, and nothing of any format.
//
// A format is a [Writer] (layer tars in, stored blobs, metadata and a manifest out) and a [Reader]
// (manifest in, a tree and blobs out). Everything above (convert, check, mount, unpack, the snapshotter) is
// written once, on these. The binary chooses which formats it knows; there is no registration by import.
package formats
