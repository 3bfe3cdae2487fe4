package nydusblob

import (
	"bytes"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
)

// Sizes of an encrypted blob's key, which are two keys of AES-128, and of its tweak, in bytes.
const (
	KeySize = 32
	IVSize  = 16
)

// Key is what a blob is encrypted with: AES-128-XTS with the same tweak for every chunk, the chunk table and its header.
type Key struct {
	Key [KeySize]byte
	IV  [IVSize]byte
}

// Cipher encrypts and decrypts the parts of a blob. It may be used concurrently.
type Cipher struct {
	xts *xts
	iv  [IVSize]byte
}

// NewCipher returns the cipher of a key. One whose halves are the same is refused, as by other implementations.
func NewCipher(k *Key) (*Cipher, error) {
	if bytes.Equal(k.Key[:KeySize/2], k.Key[KeySize/2:]) {
		return nil, fmt.Errorf("encryption key with equal halves: %w", blob.ErrCorrupt)
	}
	x, err := newXTS(&k.Key)
	if err != nil {
		return nil, fmt.Errorf("encryption key: %w", err)
	}
	return &Cipher{x, k.IV}, nil
}

// What is shorter than a block is filled up with how many bytes are missing, and marked by two bytes behind it.
const paddedSize = blockSize + 2

var paddingMark = [2]byte{0x78, 0x90}

// EncryptedSize returns the stored size of n bytes.
func EncryptedSize(n int64) int64 {
	if n < blockSize {
		return paddedSize
	}
	return n
}

// Append appends the encrypted form of p, which may be what lies behind dst.
func (c *Cipher) Append(dst, p []byte) []byte {
	at := len(dst)
	if missing := blockSize - len(p); missing > 0 {
		dst = append(append(dst, p...), bytes.Repeat([]byte{byte(missing)}, missing)...)
		dst = append(dst, paddingMark[:]...)
	} else {
		dst = append(dst, p...)
	}
	c.xts.encrypt(dst[at:], dst[at:], &c.iv)
	return dst
}

// Decrypt returns the plain form of stored bytes. 18 bytes that end like padding cannot be told from fewer than 16 and are taken
// for these, as by the reference reader.
func (c *Cipher) Decrypt(stored []byte) ([]byte, error) {
	if len(stored) < blockSize {
		return nil, fmt.Errorf("%d encrypted bytes: %w", len(stored), blob.ErrCorrupt)
	}
	plain := make([]byte, len(stored))
	c.xts.decrypt(plain, stored, &c.iv)
	if len(plain) == paddedSize && [2]byte(plain[blockSize:]) == paddingMark {
		if missing := int(plain[blockSize-1]); missing > 0 && missing < blockSize {
			return plain[:blockSize-missing], nil
		}
	}
	return plain, nil
}
