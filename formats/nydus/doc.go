// Package nydus reads and writes Nydus images with RAFS v6 and v5 file systems.
//
// A Nydus image is a manifest whose layers are data blobs, one for each layer of the source, and last a bootstrap
// layer: a tar with the file system's metadata ("image/image.boot") and the blobs' chunk tables
// ("image/<id>.blob.meta"). Each data blob also holds the bootstrap of its layer alone, so that layers are
// converted one by one, kept, and merged into any image that has them.
//
// [Reader] and [Writer] are the two sides of package formats; [OpenBare] opens a bootstrap without an image. The
// byte layout is in docs/formats/nydus.md. Packages rafs6, rafs5 and nydusblob hold the structures.
package nydus
