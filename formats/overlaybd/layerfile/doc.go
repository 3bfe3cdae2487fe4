// Package layerfile reads and writes stored layers of overlaybd: an LSMT layer (package lsmt), in a ZFile (package zfile), in
// a tar. The ZFile and the tar may be missing.
//
//	f, err := layerfile.Open(ctx, src)  // f.Layer is the index, f.Layout maps the layer's bytes
//
// The tar makes a layer of overlaybd look like any other: it has one file, whose first byte lies at 1536, or at 512 where there is no pax
// header before it. Other tars are not understood, by overlaybd's readers neither.
package layerfile
