package nydusblob

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
)

// xts is AES-128 in XTS mode (IEEE 1619), whose tweak is any 16 bytes and whose unit may have any length from 16 bytes on: the end of
// one that is no multiple of 16 is made by ciphertext stealing. It may be used concurrently.
type xts struct {
	data, tweak cipher.Block
}

// newXTS takes the two keys behind each other.
func newXTS(key *[KeySize]byte) (*xts, error) {
	data, err := aes.NewCipher(key[:KeySize/2])
	if err != nil {
		return nil, err
	}
	tweak, err := aes.NewCipher(key[KeySize/2:])
	return &xts{data, tweak}, err
}

const blockSize = aes.BlockSize

// double multiplies a tweak by x in GF(2^128).
func double(t *[blockSize]byte) {
	lo, hi := binary.LittleEndian.Uint64(t[:]), binary.LittleEndian.Uint64(t[8:])
	carry := -(hi >> 63) & 0x87
	binary.LittleEndian.PutUint64(t[8:], hi<<1|lo>>63)
	binary.LittleEndian.PutUint64(t[:], lo<<1^carry)
}

// block makes one block with a tweak by the cipher's function.
func block(fn func(dst, src []byte), dst, src []byte, t *[blockSize]byte) {
	var x [blockSize]byte
	subtle.XORBytes(x[:], src[:blockSize], t[:])
	fn(x[:], x[:])
	subtle.XORBytes(dst, x[:], t[:])
}

// encrypt makes dst of src, which has at least 16 bytes. They may be the same, and dst has src's length.
func (x *xts) encrypt(dst, src []byte, iv *[IVSize]byte) {
	var t [blockSize]byte
	x.tweak.Encrypt(t[:], iv[:])
	for len(src) >= blockSize {
		block(x.data.Encrypt, dst, src, &t)
		double(&t)
		if rest := len(src) - blockSize; rest > 0 && rest < blockSize {
			// The last block is the rest, filled with the end of the block before it.
			var last [blockSize]byte
			n := copy(last[:], src[blockSize:])
			copy(last[n:], dst[n:blockSize])
			copy(dst[blockSize:], dst[:n])
			block(x.data.Encrypt, dst, last[:], &t)
			return
		}
		dst, src = dst[blockSize:], src[blockSize:]
	}
}

// decrypt is the inverse of encrypt.
func (x *xts) decrypt(dst, src []byte, iv *[IVSize]byte) {
	var t [blockSize]byte
	x.tweak.Encrypt(t[:], iv[:])
	for len(src) >= blockSize {
		if rest := len(src) - blockSize; rest > 0 && rest < blockSize {
			next := t
			double(&next)
			var last [blockSize]byte
			block(x.data.Decrypt, last[:], src, &next)
			var stolen [blockSize]byte
			n := copy(stolen[:], src[blockSize:])
			copy(stolen[n:], last[n:])
			copy(dst[blockSize:], last[:n])
			block(x.data.Decrypt, dst, stolen[:], &t)
			return
		}
		block(x.data.Decrypt, dst, src, &t)
		double(&t)
		dst, src = dst[blockSize:], src[blockSize:]
	}
}
