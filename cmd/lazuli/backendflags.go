package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/backend"
)

// backendFlags say where data blobs are that are not in the registry.
type backendFlags struct{ kind, config string }

func (b *backendFlags) add(f *pflag.FlagSet, what string) {
	f.StringVar(&b.kind, "backend-type", "", what+" in a backend: localfs, s3, oss or http-proxy")
	f.StringVar(&b.config, "backend-config", "", "the backend's configuration: JSON, or `FILE` with it; that of nydusd and nydusify")
}

// open returns the backend, nil without the flags.
func (b *backendFlags) open() (backend.Backend, error) {
	if b.config == "" {
		if b.kind != "" {
			return nil, usagef("--backend-type %s: needs --backend-config", b.kind)
		}
		return nil, nil
	}
	raw := []byte(b.config)
	if !strings.HasPrefix(strings.TrimSpace(b.config), "{") {
		var err error
		if raw, err = os.ReadFile(b.config); err != nil {
			return nil, fmt.Errorf("--backend-config: %w", err)
		}
	}
	opened, err := backend.New(b.kind, raw, backend.Options{})
	if err != nil {
		return nil, &usageError{err}
	}
	return opened, nil
}
