// Package convert turns images into images of other formats: image in, image out.
//
// Each layer is fetched once, verified, inflated once and parsed once, and its entries go to the writers of all wanted
// formats, which stream what they store to their targets while they make it. Nothing is unpacked to a disk. Layers run in
// parallel, the largest first; memory is the number of layers at work times a writer's buffers, whatever the image's size.
//
// [Convert] goes from a store to stores; [Layer] converts one layer from stream to stream, for those who have stores of their own, and the
// writer's Finish makes an image of such layers. [Reverse] makes plain images again. Formats are chosen by their writers, see package catalog;
// places by references, see package store. Everything that a call needs is in its arguments: nothing reads the environment, nothing is
// logged, and contexts end whatever blocks. Progress comes by callback.
//
// Blobs come first, then manifests, then what carries tags: a conversion that ends early leaves no name behind.
// The result depends on the source, the writers' options and versions alone.
package convert
