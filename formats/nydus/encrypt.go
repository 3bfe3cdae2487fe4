package nydus

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// encryption says how layers are encrypted: each with a key of its own, which its bootstrap and the image's hold in clear. Who gets
// these may read the image; so they have to be kept from others, see package encrypt.
type encryption struct {
	on    bool
	fixed *nydusblob.Key // for tests; else nil
	token string         // in the writer's version
}

// newEncryption checks that the other options are possible with it.
func newEncryption(o *Options, s *settings) (encryption, error) {
	e := encryption{on: o.Encrypt || o.EncryptionKey != nil, fixed: o.EncryptionKey}
	switch {
	case !e.on:
		return e, nil
	case s.version5 || s.batchSize > 0:
		return e, fmt.Errorf("nydus: encryption with RAFS version 5 or batches: %w", blob.ErrUnsupported)
	case s.chunkSize > nydusblob.MaxStoredV2:
		return e, fmt.Errorf("nydus: encryption with chunks of %d bytes: %w", s.chunkSize, blob.ErrUnsupported)
	case e.fixed == nil:
		// No two writers make the same of a layer.
		var token [8]byte
		_, _ = rand.Read(token[:]) // it never fails
		e.token = hex.EncodeToString(token[:])
		return e, nil
	}
	if _, err := nydusblob.NewCipher(e.fixed); err != nil {
		return e, fmt.Errorf("nydus: %w", err)
	}
	sum := sha256.Sum256(append(e.fixed.Key[:], e.fixed.IV[:]...))
	e.token = hex.EncodeToString(sum[:8])
	return e, nil
}

// key returns the key of a layer.
func (e *encryption) key() nydusblob.Key {
	if e.fixed != nil {
		return *e.fixed
	}
	var k nydusblob.Key
	_, _ = rand.Read(k.Key[:]) // it never fails
	_, _ = rand.Read(k.IV[:])
	return k
}
