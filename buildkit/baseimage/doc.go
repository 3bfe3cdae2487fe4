// Package baseimage lets builds begin with images of every format of package catalog, as if they were plain ones.
//
// BuildKit takes an image's layers for tars. An image of one of our formats that names the image it was made of, where that is still in
// the repository, is that: BuildKit reads it as any image, a layer when a step needs it. Of others the layers are read as a whole and
// made plain again, in the worker's content store. Caches and provenance name the image that was asked for.
package baseimage
