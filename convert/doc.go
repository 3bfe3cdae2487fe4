// Package convert turns images into images of other formats: image in, image out.
//
// Each layer is fetched once, verified, inflated once and parsed once, and its entries go to the writers of all wanted
// formats, which stream what they store to their targets while they make it. Nothing is unpacked to a disk. Layers run in
// parallel, the largest first; memory is the number of layers at work times a writer's buffers, whatever the image's size.
//
// Blobs come first, then manifests, then what carries tags: a conversion that ends early leaves no name behind.
// The result depends on the source, the writers' options and versions alone.
package convert
