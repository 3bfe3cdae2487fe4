package nydus

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
)

// AnnotationSignature stands on the bootstrap layer: the signature of the bootstrap: RSA PKCS #1 v1.5 over its SHA-256, in base64.
const AnnotationSignature = "containerd.io/snapshot/nydus-signature"

// ErrSignature says that a bootstrap is not signed with the key that was asked for.
var ErrSignature = errors.New("bootstrap signature")

// ParsePublicKey reads an RSA key in PEM, as "PUBLIC KEY" or "RSA PUBLIC KEY".
func ParsePublicKey(text []byte) (*rsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("public key: no PEM block")
	}
	if block.Type == "RSA PUBLIC KEY" {
		k, err := x509.ParsePKCS1PublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
		return k, nil
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	key, ok := k.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("public key: %T instead of an RSA key", k)
	}
	return key, nil
}

// VerifySignature checks a bootstrap with the annotations of its layer. A missing signature is an error, too; all of
// them wrap [ErrSignature].
func VerifySignature(key *rsa.PublicKey, annotations map[string]string, bootstrap []byte) error {
	text, ok := annotations[AnnotationSignature]
	if !ok {
		return fmt.Errorf("%w is missing", ErrSignature)
	}
	signature, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	sum := sha256.Sum256(bootstrap)
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return nil
}
