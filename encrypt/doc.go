// Package encrypt keeps bootstrap layers from everybody but their recipients, in the way of ocicrypt, which containerd's imgcrypt,
// skopeo and Nydus' tools share: the layer is encrypted with AES-256-CTR and a key of its own, authenticated by an HMAC, and this key
// is wrapped for each recipient in an annotation of the layer's descriptor. The media type gets the suffix "+encrypted".
//
// The bootstrap of an encrypted image has the keys of its data, so that who cannot read the bootstrap cannot read the image.
//
// Key wrapping itself is done by github.com/containers/ocicrypt: JWE for RSA and EC keys, PKCS#7 for certificates, OpenPGP. Its key
// providers and hardware tokens are not used, as these start programs and listen to networks.
package encrypt
