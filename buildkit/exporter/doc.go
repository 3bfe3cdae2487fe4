// Package exporter gives BuildKit's workers exporters for images that are read lazily: one for each format of package catalog, under the
// format's name.
//
// An exporter lets BuildKit's own exporter make the plain image first, with its annotations, attestations and times, and converts
// that from the worker's content store into the same. Layers that steps made are taken as plain tars, so that nothing is compressed
// twice; they, and what they became, stay as long as BuildKit's cache keeps the layer, so a layer is converted once. Registries are
// asked for nothing but a chunk dictionary until BuildKit finalizes its exports; then images are pushed by BuildKit's own means, with
// the client's credentials.
//
// docs/buildkit.md describes the keys for users.
package exporter
