// Package differ is a proxy plugin of containerd that unpacks images of all formats without a snapshotter of ours: not lazily, but by an
// ordinary containerd with its ordinary snapshotters.
//
// containerd gives it a layer's descriptor and the mounts to unpack it into. The manifest that names the layer is found in the content
// store; of an image of a format of ours, the layer is written as the tar that a plain image would have, and containerd's own code unpacks
// that. Plain layers are unpacked by that code alone. What an image refers to and containerd did not pull, such as the layers of its
// source, is fetched from where containerd had the image from.
//
// The answer is the diff ID that the image's configuration has for the layer: for layers of ours that is no digest of a tar. What is
// unpacked is bound to it by the manifest, whose digests containerd has verified.
package differ
