package main

import (
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/encrypt"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/store"
)

// keyFlags are the flags for images whose bootstraps are signed or encrypted.
type keyFlags struct {
	bootstrap string
	decrypt   []string
}

func (k *keyFlags) add(f *pflag.FlagSet) {
	f.StringVar(&k.bootstrap, "bootstrap-key", "", "refuse images whose bootstrap is not signed with the RSA key in `FILE`, a public one in PEM")
	k.addDecrypt(f)
}

func (k *keyFlags) addDecrypt(f *pflag.FlagSet) {
	f.StringArrayVar(&k.decrypt, "decrypt-key", nil, "private key in `FILE[:file=PASSWORDFILE]`, or a certificate or ring of keys, for encrypted bootstraps; may be repeated")
}

// readers are the formats that can be read, with the keys. Where bootstraps must be signed, what has none is none of them.
func (k *keyFlags) readers() ([]formats.Reader, error) {
	var r nydus.Reader
	if len(k.decrypt) > 0 {
		keys, err := encrypt.ReadKeys(k.decrypt)
		if err != nil {
			return nil, fmt.Errorf("--decrypt-key: %w", err)
		}
		r.Unsealer = keys
	}
	if k.bootstrap == "" {
		all := catalog.Readers()
		all[0] = r
		return all, nil
	}
	text, err := os.ReadFile(k.bootstrap)
	if err == nil {
		r.BootstrapKey, err = nydus.ParsePublicKey(text)
	}
	if err != nil {
		return nil, fmt.Errorf("--bootstrap-key: %w", err)
	}
	return []formats.Reader{r}, nil
}

// checkRef refuses bare bootstraps where they must be signed: signatures are in manifests.
func (k *keyFlags) checkRef(ref store.Ref) error {
	if k.bootstrap != "" && ref.Transport == store.Bare {
		return fmt.Errorf("--bootstrap-key: %w is missing: a bare bootstrap has none", nydus.ErrSignature)
	}
	return nil
}
