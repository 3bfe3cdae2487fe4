// Package imagetest makes tars, layers and images for tests, in memory, and lists trees so that they can be compared.
//
//	layer := imagetest.Gzip(t, imagetest.Tar(t,
//		imagetest.Dir("etc"),
//		imagetest.File("etc/passwd", "root:x:0:0\n", imagetest.Mode(0o600), imagetest.Xattr("user.a", "b")),
//		imagetest.Link("etc/again", "etc/passwd"),
//		imagetest.Whiteout("gone"),
//	))
//	img := imagetest.NewImage(t, layer)
//	img.WriteLayout(t, t.TempDir(), "latest")
//
// Usual entries are written by archive/tar, which shares no code with package tarfs; what it cannot write (sparse files,
// odd numbers) is laid out by hand here. Everything is deterministic. [Edge] is an image that reference
// tools have unpacked; see testdata/edge/README.md.
package imagetest
